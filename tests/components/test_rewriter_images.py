"""Which real images the rewriter calibrates with: balanced, and the same in whatever order."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.examples import TransformedExamples, serialized_examples
from components.feature_names import LABEL_ID
from components.folders import split_files
from components.tf_example import parse_example
from components.tflite_models import CALIBRATION_FILE
from components.tflite_rewriter.choose import ChosenImages, balanced_images, first_images
from components.tflite_rewriter.images import Images, StoredPixels, load_label_ids
from components.tflite_rewriter.worker import _decode
from components.trained_model import serving_model
from tests.conftest import Workspace


@pytest.fixture(scope="module")
def train(workspace: Workspace) -> list[str]:
    return split_files(workspace.artifact("ImportExampleGen", "examples"), "train")


def records(files: list[str]) -> list[bytes]:
    return list(serialized_examples(files).as_numpy_iterator())


def write(folder: Path, content: list[bytes], files: int) -> list[str]:
    folder.mkdir()
    for index in range(files):
        with tf.io.TFRecordWriter(str(folder / f"{index}.gz"), "GZIP") as writer:
            for record in content[index::files]:
                writer.write(record)
    return sorted(map(str, folder.iterdir()))


def labels(chosen: ChosenImages) -> Counter[bytes]:
    examples = map(parse_example, chosen.records())
    return Counter(example["label"].values[0] for example in examples)


def test_each_class_gives_as_many(train: list[str]) -> None:
    chosen = balanced_images(train, 41)
    assert sorted(labels(chosen).values()) == [20, 21]
    assert len(set(chosen.image_ids)) == len(chosen.places) == 41


def test_a_class_with_too_few_leaves_room_to_the_others(train: list[str]) -> None:
    everything = balanced_images(train, 1_000_000)
    assert len(everything.image_ids) == len(records(train))
    fewer, more = sorted(labels(everything).values())
    chosen = balanced_images(train, 2 * fewer + 5)
    assert more >= fewer + 5
    assert sorted(labels(chosen).values()) == [fewer, fewer + 5]


def test_the_choice_does_not_depend_on_files_or_their_order(
    train: list[str], tmp_path: Path
) -> None:
    shuffled = records(train)
    random.Random(0).shuffle(shuffled)
    moved = write(tmp_path / "moved", shuffled, files=3)
    for choose in (balanced_images, first_images):
        expected, found = choose(train, 20), choose(moved, 20)
        assert found.image_ids == expected.image_ids
        assert found.records() == expected.records()


def test_another_process_reads_what_was_chosen(train: list[str], tmp_path: Path) -> None:
    chosen = first_images(train, 5)
    chosen.save(tmp_path / "chosen")
    assert ChosenImages.load(tmp_path / "chosen") == chosen
    assert ChosenImages.load(tmp_path) is None


@pytest.fixture(scope="module")
def decoded(
    train: list[str], workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChosenImages, Path]:
    """Some images, and the folder in which a worker has made pixels of them."""
    chosen, folder = first_images(train, 41), tmp_path_factory.mktemp("decoded")
    chosen.save(folder / "images")
    model = serving_model(workspace.artifact("Trainer", "model"))
    _decode(tf.saved_model.load(str(model)), folder / "images")
    return chosen, folder / "images"


def test_a_model_makes_of_images_what_it_was_trained_on(
    decoded: tuple[ChosenImages, Path], workspace: Workspace, tmp_path: Path
) -> None:
    chosen, folder = decoded
    copy = write(tmp_path / "copy", chosen.records(), files=1)
    graph = workspace.artifact("Transform", "transform_graph")
    batches = list(TransformedExamples(copy, graph).batches(10))
    pixels, label_ids = (
        np.concatenate([batch[name].numpy() for batch in batches]) for name in ("pixels", LABEL_ID)
    )
    stored = StoredPixels(folder)
    np.testing.assert_array_equal(stored.read(0, len(stored)), pixels)
    np.testing.assert_array_equal(load_label_ids(folder), label_ids)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_stored_images_are_read_as_they_were_chosen(size: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((41, 8, 9, 3), np.float32)
    ids = tuple(map(str, range(41)))
    halves = [(half, np.zeros(len(half), np.int64)) for half in np.array_split(pixels, 2)]
    Images(ids, halves).save(tmp_path / "images")
    stored = StoredPixels(tmp_path / "images")
    assert stored.shape == pixels.shape
    np.testing.assert_array_equal(np.concatenate(list(stored.batches(size))), pixels)
    np.testing.assert_array_equal(np.stack(list(stored)), pixels)
    np.testing.assert_array_equal(stored.read(40, 50), pixels[40:])


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image in no file: at least one is needed"):
        balanced_images([], 10)
    empty = write(tmp_path / "empty", [], files=1)
    with pytest.raises(FileNotFoundError, match=r"no image in .*0\.gz: at least one is needed"):
        first_images(empty, 10)


def test_a_run_records_which_images_it_calibrated_with(
    workspace: Workspace, train: list[str]
) -> None:
    artifact = workspace.artifact("TFLiteRewriter", "tflite_models")
    recorded = json.loads((artifact / CALIBRATION_FILE).read_text())
    expected = balanced_images(train, len(recorded["image_ids"]))
    assert recorded == {"split": "train", "image_ids": list(expected.image_ids)}
