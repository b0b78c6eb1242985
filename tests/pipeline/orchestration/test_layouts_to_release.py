"""Three layouts of the field, trained to a release and to files, where paths are full of odd signs.

TFX and TensorFlow read files by patterns: in a path, `[`, `*` and `?` mean something to them.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.tf_example import parse_example
from edgeline import Classifier
from pipeline.data.dataset import Dataset
from pipeline.data.tfrecords import read_records
from tests.conftest import command, make_registry
from tests.pipeline.data.test_record_sources import tfds_features, write

LABELS = ("daisy", "rose [red]", "tulip*")
ODD = "[odd] *?{a} ["
RUNS = "runs {a} ]"
CONFIG = """\
name = "flowers"

[data]
path = "records"

[image]
height = 32
width = 32

[trainer]
base = "mobilenetv3small"
base_weights = "random"
epochs = 1
fine_tune_epochs = 0

[rewriter]
variants = ["float32"]

[gate]
min_accuracy = 0.0
max_drop_deployed = 1.0
require = ["float32"]
"""


def photo(label: int, number: int, kind: str = "JPEG") -> bytes:
    """An image of 32x32 pixels, like no other."""
    coarse = np.random.default_rng([label, number]).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def write_tfds(folder: Path) -> Path:
    """As TFDS writes a dataset: the splits in the files' names, the labels as numbers."""
    for split, numbers in (("train", range(16)), ("validation", range(16, 21))):
        write(
            folder / f"flowers-{split}.tfrecord-00000-of-00001",
            (
                {"image": photo(label, number), "label": label}
                for number in numbers
                for label in range(len(LABELS))
            ),
        )
    tfds_features(folder, LABELS)
    return folder


def write_tfx(folder: Path) -> Path:
    """As TFX's CIFAR-10 example has its data: folders for the splits, and no names of labels."""
    for split, numbers in (("train", range(60, 80)), ("test", range(80, 85))):
        write(
            folder / split / f"cifar10_with_split_info_{split}.tfrecord",
            (
                {
                    "id": f"{split}_{number}".encode(),
                    "image": photo(label, number, "PNG"),
                    "label": label,
                    "is_train": int(split == "train"),
                }
                for number in numbers
                for label in range(len(LABELS))
            ),
        )
    return folder


def write_folders(folder: Path) -> Path:
    """As in Keras' tutorials: `train/<class>` and `validation/<class>`."""
    for split, numbers in (("train", range(30, 46)), ("validation", range(46, 51))):
        for label, name in enumerate(LABELS):
            (folder / split / name).mkdir(parents=True)
            for number in numbers:
                path = folder / split / name / f"{number} [1].jpg"
                path.write_bytes(photo(label, number))
    return folder


@dataclass(frozen=True)
class Workplace:
    """A folder with an odd name, where three datasets were ingested and trained on."""

    folder: Path
    said: dict[str, str]  # by dataset, what the run printed

    def dataset(self, name: str) -> Dataset:
        return Dataset.load(self.folder / ODD / name)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    base = tmp_path_factory.mktemp("layouts")
    folder = base / f"work {ODD}"
    folder.mkdir()
    make_registry(folder, "flowers")
    (folder / "records.toml").write_text(f"{CONFIG}\n[registry]\n")
    (folder / "folders.toml").write_text(CONFIG)
    (folder / "numbers.toml").write_text(CONFIG.replace("flowers", "numbers"))
    sources = {
        "records": write_tfds(folder / f"tfds {ODD}"),
        "folders": write_folders(folder / f"photos {ODD}"),
        "numbers": write_tfx(folder / f"tfx {ODD}"),
    }
    said = {}
    for name, source in sources.items():
        out = f"{ODD}/{name}"
        ingested = command(folder, "ingest", source.name, out)
        assert ingested.returncode == 0, ingested.stdout + ingested.stderr
        settings = ["--set", f"data.path={out}", "--set", f"run.root={base / RUNS}"]
        run = command(folder, "run", "--config", f"{name}.toml", *settings)
        assert run.returncode == 0, run.stdout + run.stderr
        said[name] = run.stdout
    return Workplace(folder, said)


def sources(dataset: Dataset, split: str) -> set[str]:
    """What the examples of a split were made from."""
    found = set()
    for shard in (dataset.path / split).iterdir():
        for record in read_records(shard):
            (source,) = parse_example(record.data)["source"].values  # type: ignore[union-attr]
            found.add(source.decode())
    return found


@pytest.mark.parametrize("name", ["records", "folders"])
def test_what_is_for_validation_is_what_the_training_is_evaluated_by(
    name: str, workplace: Workplace
) -> None:
    dataset = workplace.dataset(name)
    assert dataset.labels == LABELS
    held_out = sources(dataset, "eval")
    assert len(held_out) == 15
    assert all("validation" in source for source in held_out)
    assert not any("validation" in source for source in sources(dataset, "train"))
    # Of the train split, images were taken for the test split, which was not given.
    train = sum(dataset.counts["train"].values())
    assert f"features: {train} views" in workplace.said[name]
    assert "features: 15 views" in workplace.said[name]


def test_records_become_a_release_that_a_device_takes(workplace: Workplace) -> None:
    assert "flowers v1 in registry" in workplace.said["records"]
    with Classifier.from_registry(
        str(workplace.folder / "registry"),
        model="flowers",
        channel="candidate",
        root=workplace.folder / "keys" / "root.json",
        state=workplace.folder / "state",
    ) as classifier:
        assert classifier.predict(photo(0, 46)).label in LABELS


def test_folders_become_files_where_there_is_no_registry(workplace: Workplace) -> None:
    runs = workplace.folder.parent / RUNS
    made = runs / "flowers" / "export"
    expected = {"float32.tflite", "preprocessing.json", "labels.txt", "verdict.json", "report.html"}
    assert {path.name for path in made.iterdir()} == expected
    assert f"{made}: float32, with" in workplace.said["folders"]
    assert (made / "labels.txt").read_text().splitlines() == list(LABELS)
    settings = ["--config", "folders.toml", "--set", f"run.root={runs}"]
    exported = command(workplace.folder, "export", *settings, "--to", "files")
    assert (exported.returncode, exported.stderr) == (0, "")
    for file in made.iterdir():
        assert (workplace.folder / "files" / file.name).read_bytes() == file.read_bytes()
    listed = command(workplace.folder, "runs", *settings, "--json")
    assert [run["outcome"] for run in json.loads(listed.stdout)["runs"]] == ["released", "passed"]


def test_records_of_tfx_train_by_the_numbers_of_their_labels(workplace: Workplace) -> None:
    dataset = workplace.dataset("numbers")
    assert dataset.labels == ("0", "1", "2")
    test = sources(dataset, "test")
    assert len(test) == 15
    assert all(source.startswith("test/") for source in test)
    # No split is given for it, so that it is of the train split.
    eval_images = sources(dataset, "eval")
    assert all(source.startswith("train/") for source in eval_images)
    assert f"features: {60 - len(eval_images)} views" in workplace.said["numbers"]
    made = workplace.folder.parent / RUNS / "numbers" / "export"
    assert f"{made}: float32, with" in workplace.said["numbers"]
    with Classifier.from_file(made / "float32.tflite") as classifier:
        assert classifier.predict(photo(0, 90)).label in dataset.labels


def test_a_run_root_that_is_a_pattern_is_refused_at_once(workplace: Workplace) -> None:
    settings = ["--set", f"data.path={ODD}/records"]
    refused = command(workplace.folder, "run", "--config", "records.toml", *settings)
    assert refused.returncode == 2
    assert len(refused.stdout.splitlines()) == 1, "what the dataset is, and nothing of a run"
    assert refused.stderr.startswith(f"run.root: TFX can't read files in {workplace.folder}/runs")
