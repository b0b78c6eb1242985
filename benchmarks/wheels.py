"""What the wheel of the distribution `edgeline` has of the package, as its project file says it."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EDGE = Path(__file__).parents[1] / "edge"
SOURCES = EDGE / "src"
PROJECT = tomllib.loads((EDGE / "pyproject.toml").read_text())
REGISTRY_PROJECT = tomllib.loads((EDGE / "registry" / "pyproject.toml").read_text())["project"]
# Folders of the package, as "edgeline/publish", that a device's wheel leaves out.
LEFT_OUT = tuple(
    pattern.removeprefix("/src/").removesuffix("/**")
    for pattern in PROJECT["tool"]["uv"]["build-backend"]["wheel-exclude"]
)


def package_files() -> list[Path]:
    """Returns the package's files, relative to the sources."""
    files = (SOURCES / "edgeline").rglob("*")
    return sorted(
        file.relative_to(SOURCES) for file in files if file.is_file() and file.suffix != ".pyc"
    )


def device_files() -> list[Path]:
    """Returns those of them that a device's wheel has."""
    left_out = tuple(f"{folder}/" for folder in LEFT_OUT)
    return [file for file in package_files() if not file.as_posix().startswith(left_out)]
