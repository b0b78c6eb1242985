"""`pip install .` takes the device package from the checkout, and asks no index for its name."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]


def test_the_project_needs_the_edgeline_that_lies_beside_it(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        needed = BytesParser().parsebytes(archive.read(metadata)).get_all("Requires-Dist") or []
    (ours,) = [each for each in needed if each.startswith("edgeline")]
    assert ours == f"edgeline[heif,publish] @ {(ROOT / 'edge').as_uri()}"
    assert {"pipeline/__main__.py", "components/report/report.css"} <= set(names)
