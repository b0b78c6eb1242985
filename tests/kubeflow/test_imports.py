"""Steps that need no TensorFlow load none, and no image goes through the object store."""

from __future__ import annotations

import glob
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.folders import Folder
from edgeline._files import sha256_of
from pipeline.data.dataset import SPLITS, IngestReport, file_sizes
from pipeline.errors import UserError
from pipeline.orchestration.kubeflow.compiler import ALONE
from pipeline.orchestration.kubeflow.imports import RECORD_FILE, link_recorded, record_examples

DIGEST = "ab" * 32
HEAVY = ("tensorflow", "keras", "tfx", "apache_beam", "tensorflow_data_validation")
REPORT = IngestReport(
    source="photos",
    options={"max_side": 512},
    labels=("cat", "dog"),
    schema="schema.pbtxt",
    slice_keys=(),
    counts={split: {} for split in SPLITS},
    found=0,
    left_out=0,
    quarantined=(),
    duplicates=0,
    near_duplicates=0,
    ignored={},
    re_encoded={},
    notes=(),
    warnings=(),
    files={},
    fingerprint="",
    digest=DIGEST,
)


@pytest.mark.parametrize("name", ["plan", "report", "step", *ALONE.values()])
def test_a_step_without_tensorflow_loads_nothing_of_it(name: str) -> None:
    module = name.rpartition(".")[0] or f"pipeline.orchestration.kubeflow.{name}"
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not loaded & set(HEAVY)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset whose path is a pattern that matches others."""
    folder = tmp_path / "data [1]"
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        (folder / split / "examples-0").write_text(f"photos of {split}")
    replace(REPORT, files=file_sizes(folder)).write(folder)
    return folder


def recorded(dataset: Path, artifact: Path, digest: str = DIGEST) -> Folder:
    artifact.mkdir()
    examples = Folder(artifact)
    settings = {"input_base": glob.escape(str(dataset)), "dataset_digest": digest}
    record_examples({}, {"examples": examples}, settings, "run")
    return examples


def test_examples_are_recorded_and_read_where_they_are(dataset: Path, tmp_path: Path) -> None:
    examples = recorded(dataset, tmp_path / "examples")
    assert [path.name for path in examples.path.iterdir()] == [RECORD_FILE]
    assert json.loads(examples.properties["split_names"]) == [*SPLITS]
    link_recorded(examples.path)
    for split in SPLITS:
        (file,) = (examples.path / f"Split-{split}").iterdir()
        assert file.read_text() == f"photos of {split}"
        assert file.resolve() == dataset / split / "examples-0"


def test_a_dataset_that_was_replaced_is_not_read(dataset: Path, tmp_path: Path) -> None:
    examples = recorded(dataset, tmp_path / "examples")
    (dataset / "eval" / "examples-0").write_text("photos of evil")
    with pytest.raises(UserError, match=r"eval/examples-0 is not what it was .* another run"):
        link_recorded(examples.path)
    (dataset / "eval" / "examples-0").unlink()
    with pytest.raises(UserError, match=r"eval/examples-0 is not what it was"):
        link_recorded(examples.path)


def test_a_dataset_that_was_replaced_is_not_recorded(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data \[1\] is not what it was when this run began"):
        recorded(dataset, tmp_path / "examples", digest="cd" * 32)


def test_any_other_artifact_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("model")
    link_recorded(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_record_says_what_a_file_is(dataset: Path, tmp_path: Path) -> None:
    examples = recorded(dataset, tmp_path / "examples")
    record = json.loads((examples.path / RECORD_FILE).read_text())
    assert record == {
        str(file): sha256_of(file)
        for split in SPLITS
        for file in sorted((dataset / split).iterdir())
    }
