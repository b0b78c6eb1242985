"""One real pipeline run on real images, shared by every test that looks at its outcome."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.demo import write_table

IMAGES = 260
CONFIG = """\
name = "cells"

[ingest]
train = 0.6
eval = 0.14
test = 0.26

[data]
path = "dataset"

[image]
height = 32
width = 32

[trainer]
base_weights = "random"
epochs = 20
fine_tune_epochs = 1

[rewriter]
variants = ["float32", "float16", "int8"]
calibration_images = 40

[gate]
min_accuracy = 0.3
require = ["float16"]
max_drop = 0.05
min_slice_accuracy = { cell_type = 0.1 }
"""


@dataclass(frozen=True)
class Workspace:
    """A folder with a dataset, a configuration, and the run that was made with it."""

    folder: Path
    ingested: subprocess.CompletedProcess[str]
    first: subprocess.CompletedProcess[str]

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def artifact(self, step: str, output: str) -> Path:
        """The newest artifact of a step."""
        folder = self.folder / "runs" / "cells" / step / output
        return max(folder.iterdir(), key=lambda path: int(path.name))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(self.folder, "run", "--config", "cells.toml", *arguments)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps what shares a fixture on one of the parallel workers: no fixture is made twice."""
    for item in items:
        shared = "workspace" in getattr(item, "fixturenames", ())
        item.add_marker(
            pytest.mark.xdist_group("workspace" if shared else item.nodeid.split("::")[0])
        )


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m pipeline` in a folder, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={**os.environ, "KERAS_HOME": str(folder / "keras")},
    )


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("workspace")
    table = write_table(folder / "elpv")
    _keep_every_nth(table, IMAGES)
    (folder / "cells.toml").write_text(CONFIG)
    ingested = command(folder, "ingest", str(table), "dataset", "--config", "cells.toml")
    assert ingested.returncode == 0, ingested.stderr
    first = command(folder, "run", "--config", "cells.toml")
    assert first.returncode == 0, first.stdout + first.stderr
    return Workspace(folder, ingested, first)


def _keep_every_nth(table: Path, images: int) -> None:
    """Thins the table out evenly: the experts' labels come in runs."""
    header, *rows = csv.reader(table.read_text().splitlines())
    kept = rows[:: len(rows) // images][:images]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
