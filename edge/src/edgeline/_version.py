"""Which edgeline this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def edgeline_version() -> str:
    """Return the version of whichever of the two distributions is installed."""
    try:
        return version("edgeline")
    except PackageNotFoundError:
        return version("edgeline-registry")
