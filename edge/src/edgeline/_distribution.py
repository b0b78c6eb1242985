"""Which of its two distributions this edgeline is, and of which version.

`edgeline` is for a device. `edgeline-registry` has all of that, and what looks after a registry and
a fleet. An environment has one of them, as they hold files of one package.
"""

from functools import cache
from importlib.util import find_spec

DEVICE = "edgeline"
REGISTRY = "edgeline-registry"


def distribution() -> str:
    """Return which of the two the files at hand are."""
    found = find_spec("edgeline.publish")
    # A folder that an uninstall left behind is found as well, without a module.
    return REGISTRY if found and found.origin else DEVICE


def installed() -> list[str]:
    """Return which of the two were installed here."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in (DEVICE, REGISTRY):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


@cache
def edgeline_version() -> str:
    """Return the version of whichever of the two is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DEVICE)
    except PackageNotFoundError:
        return version(REGISTRY)


def pip_install(extra: str) -> str:
    """Return the command that adds an extra to what is installed."""
    return f"pip install '{distribution()}[{extra}]'"
