"""What is wrong with a device, and what to do about it: one finding per part that can fail."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from edgeline._distribution import installed
from edgeline._text import in_utc
from edgeline.device import clock
from edgeline.device.child import ChildError
from edgeline.device.download import SPARE
from edgeline.device.selection import device_name
from edgeline.device.state import State
from edgeline.device.trial import try_model
from edgeline.errors import DeviceError, EdgelineError, IntegrityError
from edgeline.registry.store import open_store
from edgeline.runtime.memory import available_memory

if TYPE_CHECKING:
    from edgeline.device.update import Device

_SOON = 7 * 86_400.0  # seconds before an expiry that somebody should know of it
_BUILT = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()  # no clock in order is before it
_MEMORY = 128 << 20  # bytes below which hardly any model runs

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found of one part of the device."""

    part: str
    level: Level
    text: str  # what is the case, and what to do about it


def examine(device: "Device") -> Iterator[Finding]:
    """Look at every part of the device, and yield what is found, as it is found."""
    yield from _distributions()
    yield _runtime()
    yield from _state_and_model(device)
    yield _disk(device)
    yield _memory()
    yield from _registry(device)


def _distributions() -> Iterator[Finding]:
    found = installed()
    if len(found) > 1:
        yield Finding(
            "edgeline",
            "problem",
            f"{' and '.join(found)} are both installed, and hold the same files: neither can be "
            f"updated or removed alone. Run pip uninstall {' '.join(found)}, and install one again",
        )


def _runtime() -> Finding:
    try:
        import numpy
        from ai_edge_litert import interpreter
        from PIL import features

        used = interpreter.Interpreter.__name__, numpy.__version__
        missing = [name for name in ("jpg", "zlib", "webp") if not features.check(name)]
        found = f"ai-edge-litert {version('ai-edge-litert')}, numpy {used[1]}; {device_name()}"
    except (ImportError, PackageNotFoundError, OSError) as error:
        return Finding(
            "runtime", "problem", f"it cannot be loaded: {error}. Install edgeline anew with pip"
        )
    if missing:
        return Finding(
            "runtime", "warning", f"Pillow lacks {', '.join(missing)}. Install its wheel from PyPI"
        )
    return Finding("runtime", "ok", found)


def _state_and_model(device: "Device") -> Iterator[Finding]:
    folder = device.folder
    try:
        with folder.locked():
            state = folder.read()
            folder.write(state)
    except DeviceError as error:
        yield Finding("state", "problem", str(error))
        yield _clock(State())
        return
    yield Finding("state", "ok", f"{folder.path}, {folder.size() / 1e6:.1f} MB")
    yield _clock(state)
    yield _model(device, state)


def _clock(state: State) -> Finding:
    now = time.time()
    complaint = clock.complaint(now, max(state.floor, _BUILT))
    if complaint:
        return Finding("clock", "problem", complaint)
    return Finding("clock", "ok", in_utc(clock.as_time(now)))


def _model(device: "Device", state: State) -> Finding:
    try:
        installed = device.folder.load_active(fall_back=False).installed
    except EdgelineError as error:
        return Finding("model", "problem", str(error))
    try:
        files = {name: device.folder.file(installed.id, name) for name in installed.files}
        try_model(files, threads=device.num_threads)
    except (ChildError, EdgelineError) as error:
        return Finding(
            "model",
            "problem",
            f"{installed.name} does not pass its trial any more: {error}. Has ai-edge-litert "
            "been updated? `edgeline rollback`, or `edgeline pull --variant` with another one",
        )
    if state.held is not None:
        text = f"{installed.name}, held by `edgeline rollback` until the channel moves"
        return Finding("model", "warning", text)
    return Finding("model", "ok", f"{installed.name}, whole, and it passes its trial")


def _disk(device: "Device") -> Finding:
    try:
        free = shutil.disk_usage(device.folder.path).free
        models = device.folder.models(device.folder.read()).values()
    except (OSError, DeviceError) as error:
        return Finding("disk", "problem", f"it cannot be looked at: {error}")
    largest = max((sum(f.size for f in each.files.values()) for each in models), default=0)
    found = f"{free / 1e6:.0f} MB free"
    if free < largest + SPARE:
        needed = f"the next model needs about {(largest + SPARE) / 1e6:.0f}"
        return Finding("disk", "problem", f"{found}, and {needed}. Free some space")
    return Finding("disk", "ok", found)


def _memory() -> Finding:
    available = available_memory()
    if available is None:
        return Finding("memory", "ok", "unknown")
    found = f"{available / 1e6:.0f} MB available"
    if available < _MEMORY:
        return Finding("memory", "warning", f"{found}, which is little. Stop other programs")
    return Finding("memory", "ok", found)


def _registry(device: "Device") -> Iterator[Finding]:
    """Look at the registry as an update does, and change nothing but what is trusted."""
    started = time.monotonic()
    try:
        state = device.folder.read()
        store = open_store(device.registry, device.connection)
        channels = device.channels(store, state)
        found = device.find(channels, state)
        roles = channels.roles()
    except EdgelineError as error:
        yield Finding("registry", "problem", str(error))
        return
    yield Finding(
        "registry", "ok", f"{store.location} answered in {time.monotonic() - started:.2f} seconds"
    )
    root = next(role for role in roles if role.name == "root")
    now = max(time.time(), clock.floor_under(root, state))
    soon = [role for role in roles if role.expires.timestamp() < now + _SOON]
    expiring = ", ".join(f"{role.name} on {role.expires:%Y-%m-%d}" for role in soon)
    too_long = ", ".join(f"{r.name} until {r.says:%Y-%m-%d}" for r in roles if r.expires < r.says)
    if too_long:
        yield Finding(
            "signatures",
            "problem",
            f"they last longer than root lets them: {too_long}. If this device's clock is right, "
            "whoever signed has a wrong one, or a stolen key: tell the registry's keeper",
        )
    elif expiring:
        text = f"they expire soon: {expiring}. Tell the registry's keeper to sign anew"
        yield Finding("signatures", "warning", text)
    else:
        first = min(roles, key=lambda role: role.expires)
        yield Finding(
            "signatures",
            "ok",
            f"root until {root.expires:%Y-%m-%d}; the first to expire is {first.name}, on "
            f"{first.expires:%Y-%m-%d}",
        )
    if found is None:
        there = ", ".join(each.path for each in channels.channels()) or "none"
        text = f"{device.model}/{device.channel} serves nothing; there is {there}. Check --model"
        yield Finding("channel", "problem", text)
        return
    yield _channel(device, found.release.version, found.release.index.digest)


def _channel(device: "Device", number: int, digest: str) -> Finding:
    state = device.folder.read()
    with_trial = state.rejected
    if with_trial is not None and with_trial.digest == digest:
        text = f"v{number} failed its trial here: {with_trial.reason}"
        return Finding("channel", "problem", text)
    try:
        active = device.folder.describe(state.active) if state.active else None
    except IntegrityError:
        active = None
    if active is None or active.digest != digest:
        return Finding("channel", "warning", f"it serves v{number}: `edgeline pull` installs it")
    return Finding("channel", "ok", f"it serves v{number}, which is installed")
