"""What pip makes of the project files: who needs whom, and what is in the wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from benchmarks.wheels import device_files, package_files

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]


def build(project: Path, folder: Path) -> Path:
    """Builds a wheel by pip, in an environment of its own, and returns it."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet"]
    wheels = folder / "wheels"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(project)], check=True
    )
    (wheel,) = wheels.glob("*.whl")
    return wheel


def test_the_project_needs_the_edgeline_that_lies_beside_it(tmp_path: Path) -> None:
    """From the checkout: an index is not asked for the name."""
    with zipfile.ZipFile(build(ROOT, tmp_path)) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        needed = BytesParser().parsebytes(archive.read(metadata)).get_all("Requires-Dist") or []
    (ours,) = [each for each in needed if each.startswith("edgeline")]
    assert ours == f"edgeline-registry[device,heif] @ {(ROOT / 'edge' / 'registry').as_uri()}"
    assert {"pipeline/__main__.py", "components/report/report.css"} <= set(names)


@pytest.mark.parametrize(
    ("part", "expected"),
    [("edge", device_files()), ("edge/registry", package_files())],
    ids=["edgeline", "edgeline-registry"],
)
def test_a_wheel_has_its_part_of_the_package(
    part: str, expected: list[Path], tmp_path: Path
) -> None:
    # A copy: a build in the checkout would leave files there.
    shutil.copytree(ROOT / "edge", tmp_path / "edge")
    with zipfile.ZipFile(build(tmp_path / part, tmp_path)) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in found if not name.split("/")[0].endswith(".dist-info")} == {
        file.as_posix() for file in expected
    }
