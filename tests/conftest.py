"""One real pipeline run on real images, shared by every test that looks at its outcome."""

from __future__ import annotations

import csv
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from edgeline.contract import PreprocessingContract
    from edgeline.publish.release import Published
    from pipeline.config import Config

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

[registry]
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

    @property
    def root(self) -> Path:
        """What a device trusts the registry by."""
        return self.folder / "keys" / "root.json"

    @property
    def config(self) -> Config:
        """With an absolute run root, for who is elsewhere."""
        from pipeline import api

        return api.configure(self.folder / "cells.toml", run={"root": str(self.folder / "runs")})

    def artifact(self, step: str, output: str) -> Path:
        """The newest artifact of a step."""
        folder = self.folder / "runs" / "cells" / step / output
        return max(folder.iterdir(), key=lambda path: int(path.name))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(self.folder, "run", "--config", "cells.toml", *arguments)


def pytest_collection_finish() -> None:
    """Spares the garbage collector a million objects of imported modules, again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the parallel workers start with what takes longest.

    That is the pipeline run, and trainings in processes of their own. What else looks at the run's
    outcome comes last, when it is there.
    """
    users = {item.path for item in items if "workspace" in getattr(item, "fixturenames", ())}
    longest = (
        "test_run.py", "test_layouts_to_release.py", "test_phases.py", "test_mirrored.py",
        "test_tflite_rewriter.py", "test_resume.py",
    )  # fmt: skip

    def turn(item: pytest.Item) -> int:
        if item.path.name in longest:
            return longest.index(item.path.name)
        return len(longest) + (item.path in users)

    items.sort(key=turn)


def make_registry(folder: Path, *models: str, location: str | None = None) -> None:
    """Makes `folder/registry` and `folder/keys`, as `edgeline registry init` does."""
    from edgeline.key_files import generate_key
    from edgeline.publish.keys import Signers
    from edgeline.publish.repository import Keys, ModelKeys, initialize
    from edgeline.publish.store import open_for_writing

    keys = folder / "keys"

    def key(name: str) -> Key:
        return generate_key(keys / f"{name}.pem", None)

    public = Keys(
        root=(key("root-1"), key("root-2")),
        targets=key("targets"),
        online=key("online"),
        models={
            name: ModelKeys(ci=key(f"{name}-ci"), release=key(f"{name}-release")) for name in models
        },
    )
    store = open_for_writing(location or str(folder / "registry"))
    (keys / "root.json").write_bytes(initialize(store, public, Signers.load([str(keys)])))


def publish_release(
    folder: Path,
    model: str,
    contents: Mapping[str, bytes],
    contract: PreprocessingContract,
    *,
    channel: str = "candidate",
    verdict: bytes = b"{}",
    location: str | None = None,
) -> Published:
    """Publishes to what `make_registry` made, by other means than the pipeline."""
    from edgeline.publish.keys import Signers
    from edgeline.publish.release import VariantFiles, publish
    from edgeline.publish.repository import Repository
    from edgeline.publish.store import open_for_writing

    store = open_for_writing(location or str(folder / "registry"))
    root = (folder / "keys" / "root.json").read_bytes()
    files = {name: folder / f"{name}.tflite" for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    return publish(
        Repository(store, root=root, signers=Signers.load([str(folder / "keys")])),
        model=model,
        channel=channel,
        variants=[VariantFiles(name, file) for name, file in files.items()],
        preprocessing=contract,
        verdict=verdict,
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often this process has read each file of examples to its end, by the file's name."""
    import tensorflow as tf

    from components import examples
    from components.statistics_gen import describe

    found = Counter[str]()
    read = examples.serialized_examples

    def counted(files: Sequence[str]) -> tf.data.Dataset:
        def one_pass() -> Iterator[bytes]:
            yield from read(files).as_numpy_iterator()
            found.update(Path(file).name for file in files)

        return tf.data.Dataset.from_generator(
            one_pass, output_signature=tf.TensorSpec((), tf.string)
        )

    for reader in (examples, describe):
        monkeypatch.setattr(reader, "serialized_examples", counted)
    return found


def odd_checkout(folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the code where a path is full of odd signs; the environment that runs it."""
    project, checkout = Path(__file__).parents[1], folder / "odd [a] {b} *? ü ]["
    for code in ("pipeline", "components", "edge/src/edgeline", "kubeflow"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(project / code, checkout / code, ignore=ignored)
    # A spawned worker has to find the code, too.
    paths = os.pathsep.join([str(checkout), str(checkout / "edge/src")])
    environment = {**os.environ, "PYTHONPATH": paths}
    where = [sys.executable, "-c", "import pipeline, edgeline; print(pipeline.__path__[0])"]
    found = subprocess.check_output(where, cwd=folder, env=environment, text=True)
    assert found == f"{checkout / 'pipeline'}\n"
    return checkout, environment


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
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "workspace"
    with (shared / "workspace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _ingest_and_run(folder)
    ingested, first = json.loads((folder / "outputs.json").read_text())
    return Workspace(
        folder, subprocess.CompletedProcess(**ingested), subprocess.CompletedProcess(**first)
    )


def _ingest_and_run(folder: Path) -> None:
    # Here, not above: the device package's tests need no pipeline.
    from pipeline.demo import write_table

    table = write_table(folder / "elpv")
    _keep_every_nth(table, IMAGES)
    make_registry(folder, "cells")
    (folder / "cells.toml").write_text(CONFIG)
    ingested = command(folder, "ingest", str(table), "dataset", "--config", "cells.toml")
    assert ingested.returncode == 0, ingested.stderr
    first = command(folder, "run", "--config", "cells.toml")
    assert first.returncode == 0, first.stdout + first.stderr
    (folder / "outputs.json").write_text(json.dumps([vars(ingested), vars(first)]))


def _keep_every_nth(table: Path, images: int) -> None:
    """Thins the table out evenly: the experts' labels come in runs."""
    header, *rows = csv.reader(table.read_text().splitlines())
    kept = rows[:: len(rows) // images][:images]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
