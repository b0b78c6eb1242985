"""Which of a release's variants this device runs: what its user prefers, or else its publisher."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._distribution import edgeline_version
from edgeline.errors import DeviceError, NotFoundError
from edgeline.registry.format import check_variant
from edgeline.runtime.threads import cores

if TYPE_CHECKING:
    from edgeline.registry.reader import Release, Variant

AUTO = "auto"

_MEMORY_PER_SIZE = 3  # the file, and its weights as the kernels want them: float16 twice as large
_MEMORY_BESIDES = 32 << 20  # bytes


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

    libraries = {name: version(name) for name in ("ai-edge-litert", "numpy", "pillow")}
    every = {**libraries, "edgeline": edgeline_version()}
    return ", ".join(f"{name} {every[name]}" for name in sorted(every))


@cache
def device_name() -> str:
    """Return what speed depends on: the kind of the device, its processor and its cores."""
    name = "unknown"
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        with suppress(OSError):
            text = Path(path).read_text(errors="replace")
            lines = [line for line in text.splitlines() if line.startswith(key)]
            if lines:
                name = lines[0].rpartition(":")[2].strip("\0 \t\n")
                break
    return f"{name}, {platform.machine()}, {cores()} cores"


def candidates(
    release: "Release", preference: Sequence[str], memory: int | None
) -> list["Variant"]:
    """Return the variants that may be tried, those to be preferred first.

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


def _needs(variant: "Variant") -> int:
    return variant.model.size * _MEMORY_PER_SIZE + _MEMORY_BESIDES
