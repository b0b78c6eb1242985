"""`edgeline pull`, `retry`, `status` and `rollback`: the model on this device."""

import argparse
from typing import TYPE_CHECKING, Any

from edgeline._text import in_utc
from edgeline.cli.benchmark import add_benchmark
from edgeline.cli.device_options import (
    add_device,
    add_group_option,
    add_threads,
    add_variant,
    log_to_stderr,
    model_json,
    open_device,
    preference,
)
from edgeline.cli.doctor import add_doctor
from edgeline.cli.enrol import add_enrol
from edgeline.cli.examples import add_examples
from edgeline.cli.options import add_command, add_json
from edgeline.cli.output import answer
from edgeline.cli.watch import add_watch

if TYPE_CHECKING:
    from edgeline.device.state import InstalledModel, State
    from edgeline.device.update import Device
    from edgeline.telemetry.report import Drift


def add_device_commands(commands: Any) -> None:
    _add_pull(commands)
    _add_retry(commands)
    add_watch(commands)
    _add_status(commands)
    add_benchmark(commands)
    _add_rollback(commands)
    add_doctor(commands)
    add_enrol(commands)
    add_examples(commands)


def _add_pull(commands: Any) -> None:
    parser = add_command(commands, "pull", _pull, "bring the model on this device up to date")
    add_device(parser)
    add_variant(parser)
    add_group_option(parser)
    add_threads(parser)
    add_json(parser)


def _add_retry(commands: Any) -> None:
    parser = add_command(
        commands, "retry", _retry, "try a release again that failed its trial here"
    )
    add_device(parser)
    add_variant(parser)
    add_threads(parser)
    add_json(parser)


def _retry(options: argparse.Namespace) -> int:
    """Bring the model on this device up to date as `pull` does, and try a release again
    that failed its trial here before.

    Examples:
    edgeline retry --registry oci://registry.example/cells --root root.json --model solar-cells
    """
    open_device(options).retry()
    return _pull(options)


def _pull(options: argparse.Namespace) -> int:
    """Install the release that a channel serves: check its signatures, download
    what is missing, verify it, try it in a process of its own, and switch to it.
    The model before it stays; when anything fails, it stays the one that is served.

    Examples:
    edgeline pull --registry oci://registry.example/cells --root root.json --model solar-cells
    edgeline pull --registry registry --model solar-cells --variant int8,float16
    """
    log_to_stderr()
    device = open_device(options)
    device.repair()
    outcome = device.update(preference(options))
    installed = outcome.installed
    text = {
        "updated": "is served from now on",
        "current": "is what the channel serves, and installed",
        "held": "is held by `edgeline rollback` until the channel moves",
    }[outcome.action]
    document = {"action": outcome.action, **model_json(installed)}
    return answer(options, document, f"{installed.name} {text}")


def _add_status(commands: Any) -> None:
    parser = add_command(
        commands, "status", _status, "say what this device serves, and how the last check went"
    )
    add_device(parser)
    add_json(parser)


def _status(options: argparse.Namespace) -> int:
    """Say what this device serves, and how the last check went; asks nobody.

    Examples:
    edgeline status --registry oci://registry.example/cells --root root.json --model solar-cells
    edgeline status --registry registry --model solar-cells --json | jq .active.version
    """
    device = open_device(options)
    state = device.folder.read()
    models = device.folder.models(state)
    rows = [
        ("following", f"{device.model}/{device.channel} of {device.registry}"),
        ("active", _model_line(models.get(state.active or ""))),
        ("previous", _model_line(models.get(state.previous or ""))),
        ("variants", ", ".join(state.preference) or "auto"),
        ("device", _device_line(device, state)),
        ("last check", _when(state.checked)),
        ("signatures", _signatures(state)),
    ]
    drift = _last_drift(device, state)
    if drift:
        rows.append(("drift", _drift_line(drift)))
    if state.held:
        rows.append(("held", "by `edgeline rollback`, until the channel moves"))
    if state.rejected:
        rows.append(("rejected", f"v{state.rejected.version}: {state.rejected.reason}"))
    if state.error:
        rows.append(("last error", f"{_when(state.failed)}: {state.error}"))
    rows.append(("state", f"{device.folder.path}, {device.folder.size() / 1e6:.1f} MB"))
    return answer(options, _status_json(device, state, models), rows)


def _status_json(
    device: "Device", state: "State", models: dict[str, "InstalledModel"]
) -> dict[str, Any]:
    from edgeline.device.identity import known_id

    drift = _last_drift(device, state)
    active, previous = models.get(state.active or ""), models.get(state.previous or "")
    return {
        "registry": device.registry,
        "model": device.model,
        "channel": device.channel,
        "path": str(device.folder.current) if device.folder.current.exists() else None,
        "active": model_json(active) if active else None,
        "previous": model_json(previous) if previous else None,
        "variants": list(state.preference) or ["auto"],
        "device": known_id(device.folder.base),
        "groups": list(state.groups),
        "held": state.held is not None,
        "rejected": (
            {"version": state.rejected.version, "reason": state.rejected.reason}
            if state.rejected
            else None
        ),
        "drift": _drift_json(drift) if drift else None,
        "checked": state.checked or None,
        "expires": state.expires or None,
        "stale": state.is_stale(),
        "failed": state.failed or None,
        "error": state.error,
        "bytes": device.folder.size(),
    }


def _device_line(device: "Device", state: "State") -> str:
    from edgeline.device.identity import known_id

    name = known_id(device.folder.base) or "no id yet"
    return f"{name}, in {', '.join(state.groups)}" if state.groups else name


def _last_drift(device: "Device", state: "State") -> "Drift | None":
    from edgeline.device.state import DRIFT_FILE

    if not (device.folder.path / DRIFT_FILE).exists():
        return None  # as on most devices: what is needed to read it takes time to import
    from edgeline.device.drift import last_drift

    return last_drift(device.folder.path, state.active)


def _drift_line(drift: "Drift") -> str:
    shifted = ", ".join(f"{name} {drift.shifts[name].index:.2f}" for name in drift.shifted)
    return f"{shifted or 'none'} in {drift.images} images, until {_when(drift.until)}"


def _drift_json(drift: "Drift") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(drift), "shifted": list(drift.shifted)}


def _model_line(installed: "InstalledModel | None") -> str:
    if installed is None:
        return "none"
    return f"{installed.tag} {installed.variant} {installed.digest[:19]}"


def _signatures(state: "State") -> str:
    if not state.expires:
        return "none seen yet"
    if state.is_stale():
        return f"stale: they expired on {_when(state.expires)}; no updates until signed anew"
    return f"good until {_when(state.expires)}"


def _when(seconds: float) -> str:
    from edgeline.device.clock import as_time

    return in_utc(as_time(seconds)) if seconds else "never"


def _add_rollback(commands: Any) -> None:
    parser = add_command(
        commands, "rollback", _rollback, "go back to the model that this device served before"
    )
    add_device(parser)
    add_json(parser)


def _rollback(options: argparse.Namespace) -> int:
    """Go back to the model that this device served before, at once and offline,
    and stay there until the channel moves. For all devices: `edgeline registry rollback`.

    Examples:
    edgeline rollback --registry oci://registry.example/cells --root root.json --model solar-cells
    """
    log_to_stderr()
    installed = open_device(options).rollback()
    text = f"{installed.name} is served until the channel moves"
    return answer(options, model_json(installed), text)
