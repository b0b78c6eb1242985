"""Which of a release's variants this device runs: what its user prefers, or the fastest.

All variants of a release passed the same evaluation, so that speed may decide; and speed is a
matter of the device, so that it is measured on it, once per device and runtime version.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._files import read_bounded, write_whole
from edgeline.errors import DeviceError, NotFoundError
from edgeline.registry.format import check_variant
from edgeline.runtime.threads import cores

if TYPE_CHECKING:
    from edgeline.registry.reader import Release, Variant

AUTO = "auto"

_MEMORY_PER_SIZE = 3  # the file, and its weights as the kernels want them: float16 twice as large
_MEMORY_BESIDES = 32 << 20  # bytes
_SAME_SIZE = 0.05  # by which files of one architecture differ at most
_MAX_SPEEDS = 1 << 20  # bytes


def parse_preference(text: str) -> tuple[str, ...]:
    """Return the variants of a comma separated list, best first; none for "auto".

    Raises:
        RegistryError: a name is malformed.
    """
    names = [name.strip() for name in text.split(",")]
    return () if names == [AUTO] else tuple(map(check_variant, names))


def runtime_version() -> str:
    """Return the version of the interpreter."""
    from importlib.metadata import version

    return version("ai-edge-litert")


def versions() -> str:
    """Return the versions of all that what a model says depends on."""
    from importlib.metadata import version

    names = ("ai-edge-litert", "edgeline", "numpy", "pillow")
    return ", ".join(f"{name} {version(name)}" for name in names)


@cache
def device_name() -> str:
    """Return what speed depends on: the kind of the device, its processor and its cores."""
    name = "unknown"
    for path, key in (("/proc/device-tree/model", None), ("/proc/cpuinfo", "model name")):
        with suppress(OSError):
            text = Path(path).read_text(errors="replace")
            lines = [text] if key is None else _starting(text, key)
            if lines:
                name = lines[0].rpartition(":")[2].strip("\0 \t\n")
                break
    return f"{name}, {platform.machine()}, {cores()} cores"


def candidates(
    release: "Release", preference: Sequence[str], memory: int | None
) -> list["Variant"]:
    """Return the variants that may be tried, in the order of preference.

    Raises:
        NotFoundError: the release has none of the preferred ones.
        DeviceError: there is not enough memory for any of them.
    """
    by_name = {variant.name: variant for variant in release.variants}
    wanted = [by_name[name] for name in preference if name in by_name]
    if preference and not wanted:
        raise NotFoundError(
            f"{release.model} {release.tag} has no variant {' or '.join(map(repr, preference))}; "
            f"it has {', '.join(sorted(by_name))}"
        )
    tried = wanted or list(release.variants)
    fitting = [each for each in tried if memory is None or _needs(each) <= memory]
    if not fitting:
        least = min(map(_needs, tried))
        raise DeviceError(
            f"{release.model} {release.tag} needs about {least / 1e6:.0f} MB of memory, and "
            f"{(memory or 0) / 1e6:.0f} MB are available. Stop other programs, or publish a "
            "smaller variant"
        )
    return fitting


@dataclass(frozen=True)
class Speeds:
    """How fast variants were on a device with a runtime."""

    device: str
    runtime: str
    sizes: Mapping[str, int]  # bytes of each measured variant
    seconds: Mapping[str, float]  # of those that ran

    @classmethod
    def load(cls, path: Path) -> "Speeds":
        """Return what was measured on this device with this runtime; else nothing."""
        nothing = cls(device_name(), runtime_version(), {}, {})
        try:
            document = json.loads(read_bounded(path, _MAX_SPEEDS))
            speeds = cls(**document)
            sizes = {str(name): int(size) for name, size in speeds.sizes.items()}
            seconds = {str(name): float(value) for name, value in speeds.seconds.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return nothing  # it is only a saving
        if (speeds.device, speeds.runtime) != (nothing.device, nothing.runtime):
            return nothing
        return cls(nothing.device, nothing.runtime, sizes, seconds)

    def save(self, path: Path) -> None:
        """Keep it."""
        write_whole(path, json.dumps(vars(self)).encode())

    def know(self, variants: Sequence["Variant"]) -> bool:
        """Tell whether all of these were measured, or ones so alike that it makes no difference."""
        return all(
            abs(variant.model.size - self.sizes.get(variant.name, 0))
            <= _SAME_SIZE * variant.model.size
            for variant in variants
        )

    def fastest_first(self, variants: Sequence["Variant"]) -> list["Variant"]:
        """Sort variants; those that did not run come last, smallest first."""
        return sorted(
            variants,
            key=lambda each: (self.seconds.get(each.name, float("inf")), each.model.size),
        )


def _starting(text: str, key: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(key)]


def _needs(variant: "Variant") -> int:
    return variant.model.size * _MEMORY_PER_SIZE + _MEMORY_BESIDES
