"""What the base package of a device may take: its size, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EDGE = Path(__file__).parents[2] / "edge"

BEFORE_ROLLOUTS = 619_052  # bytes of the package's files
MAX_GROWTH = 1_000_000


def test_the_package_is_less_than_a_megabyte_larger_than_before_rollouts() -> None:
    files = (path for path in (EDGE / "src" / "edgeline").rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files if path.suffix != ".pyc")
    assert BEFORE_ROLLOUTS < size < BEFORE_ROLLOUTS + MAX_GROWTH


def test_it_needs_no_other_packages_than_before_rollouts() -> None:
    project = tomllib.loads((EDGE / "pyproject.toml").read_text())["project"]
    needed = {Requirement(each).name for each in project["dependencies"]}
    assert needed == {"ai-edge-litert", "numpy", "pillow", "tuf", "urllib3"}


def test_a_device_that_does_not_report_loads_nothing_of_it() -> None:
    script = "import sys, edgeline.cli.watch, edgeline.device.watch; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name for name in done.stdout.split() if name.startswith("edgeline.")}
    assert "edgeline.device.watch" in loaded
    unused = ("edgeline.fleet", "edgeline.publish", "edgeline.telemetry")
    assert not {name for name in loaded if name.startswith(unused)}
