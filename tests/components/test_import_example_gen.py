"""Examples become an artifact without being read, and TFX's steps read that, gzipped or not."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.components.util import tfxio_utils
from tfx.types import standard_artifacts

from benchmarks.examples import write_examples
from components.import_example_gen import place as placing
from components.import_example_gen.component import ImportExampleGen
from components.import_example_gen.executor import Executor
from pipeline.orchestration.dag import _splits


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """With plain and gzipped files."""
    folder = tmp_path / "dataset"
    for split, count in (("train", 5), ("eval", 2), ("test", 1)):
        for suffix in ("tfrecord", "gz"):
            write_examples(folder / split / f"examples.{suffix}", [(b"image", "cat")] * count)
    return folder


def imported(dataset: Path, folder: Path) -> standard_artifacts.Examples:
    """What the step makes of a dataset, as TFX runs it when its driver is done."""
    step = ImportExampleGen(input_base=str(dataset), input_config=_splits())
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    Executor().Do({}, {"examples": [examples]}, dict(step.exec_properties))
    return examples


def test_each_split_s_files_are_those_of_the_dataset(dataset: Path, tmp_path: Path) -> None:
    examples = imported(dataset, tmp_path / "artifact")
    assert examples.split_names == '["train", "eval", "test"]'
    for split in ("train", "eval", "test"):
        files = list((tmp_path / "artifact" / f"Split-{split}").iterdir())
        assert len(files) == 2
        for file in files:
            assert file.samefile(dataset / split / file.name)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_tfx_s_steps_read_plain_and_gzipped_files(
    split: str, dataset: Path, tmp_path: Path
) -> None:
    examples = imported(dataset, tmp_path / "artifact")
    source = tfxio_utils.get_split_tfxio([examples], split, telemetry_descriptors=["test"])
    counted = tmp_path / "count"
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | source.BeamSource()
            | beam.Map(lambda batch: batch.num_rows).with_input_types(pa.RecordBatch)
            | beam.CombineGlobally(sum)
            | beam.io.WriteToText(str(counted), shard_name_template="")
        )
    assert int(counted.read_text()) == {"train": 10, "eval": 4}[split]


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_another_file_system_gets_a_copy(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    imported(dataset, tmp_path / "artifact")
    for file in dataset.rglob("*.*"):
        copy = tmp_path / "artifact" / f"Split-{file.parent.name}" / file.name
        assert not copy.samefile(file)
        assert copy.read_bytes() == file.read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_copy_that_fails_leaves_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        imported(dataset, tmp_path / "artifact")
    assert not [path for path in (tmp_path / "artifact").rglob("*") if path.is_file()]


def test_what_an_earlier_try_left_is_replaced(dataset: Path, tmp_path: Path) -> None:
    for _ in range(2):
        imported(dataset, tmp_path / "artifact")
    assert len(list((tmp_path / "artifact" / "Split-train").iterdir())) == 2


def test_a_linked_original_is_found_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(b"content")
    (tmp_path / "link").symlink_to("original")
    placing.place([str(tmp_path / "link")], str(tmp_path / "folder"))
    assert not (tmp_path / "folder" / "link").is_symlink()
    assert (tmp_path / "folder" / "link").read_bytes() == b"content"


def test_a_split_without_files_is_an_error(dataset: Path, tmp_path: Path) -> None:
    shutil.rmtree(dataset / "eval")
    with pytest.raises(FileNotFoundError, match=r"no examples at .*eval/"):
        imported(dataset, tmp_path / "artifact")
