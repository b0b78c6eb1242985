"""Which real images the rewriter calibrates with: balanced, and the same in whatever order."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from components.examples import serialized_examples
from components.tflite_models import CALIBRATION_FILE
from components.tflite_rewriter.choose import balanced_images, first_images
from components.tflite_rewriter.images import Images, StoredPixels
from tests.conftest import Workspace


@pytest.fixture(scope="module")
def train(workspace: Workspace) -> list[str]:
    folder = workspace.artifact("ImportExampleGen", "examples") / "Split-train"
    return [str(folder / "*")]


@pytest.fixture(scope="module")
def graph(workspace: Workspace) -> Path:
    return workspace.artifact("Transform", "transform_graph")


def records(patterns: list[str]) -> list[bytes]:
    files = sorted(tf.io.gfile.glob(patterns))
    return list(serialized_examples(files).as_numpy_iterator())


def write(folder: Path, content: list[bytes], files: int) -> list[str]:
    folder.mkdir()
    for index in range(files):
        with tf.io.TFRecordWriter(str(folder / f"{index}.gz"), "GZIP") as writer:
            for record in content[index::files]:
                writer.write(record)
    return [str(folder / "*.gz")]


def pixels_and_label_ids(images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    pixels, label_ids = zip(*images.batches, strict=True)
    return np.concatenate(pixels), np.concatenate(label_ids)


def test_each_class_gives_as_many(train: list[str], graph: Path) -> None:
    chosen = balanced_images(train, graph, 41)
    pixels, label_ids = pixels_and_label_ids(chosen)
    assert sorted(Counter(label_ids.tolist()).values()) == [20, 21]
    assert len(set(chosen.image_ids)) == len(pixels) == 41


def test_a_class_with_too_few_leaves_room_to_the_others(train: list[str], graph: Path) -> None:
    everything = balanced_images(train, graph, 1_000_000)
    assert len(everything.image_ids) == len(records(train))
    (_, fewer), (_, more) = sorted(
        Counter(pixels_and_label_ids(everything)[1].tolist()).items(), key=lambda pair: pair[1]
    )
    chosen = balanced_images(train, graph, 2 * fewer + 5)
    assert more >= fewer + 5
    _, label_ids = pixels_and_label_ids(chosen)
    assert sorted(Counter(label_ids.tolist()).values()) == [fewer, fewer + 5]


def test_the_choice_does_not_depend_on_files_or_their_order(
    train: list[str], graph: Path, tmp_path: Path
) -> None:
    shuffled = records(train)
    random.Random(0).shuffle(shuffled)
    moved = write(tmp_path / "moved", shuffled, files=3)
    for choose in (balanced_images, first_images):
        expected, found = choose(train, graph, 20), choose(moved, graph, 20)
        assert found.image_ids == expected.image_ids
        (pixels, label_ids), (as_expected, ids) = map(pixels_and_label_ids, (found, expected))
        np.testing.assert_array_equal(pixels, as_expected)
        np.testing.assert_array_equal(label_ids, ids)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_stored_images_are_read_as_they_were_chosen(
    train: list[str], graph: Path, tmp_path: Path, size: int
) -> None:
    chosen = first_images(train, graph, 41)
    chosen.save(tmp_path / "images")
    stored = StoredPixels(tmp_path / "images")
    pixels, _ = pixels_and_label_ids(chosen)
    assert stored.shape == pixels.shape
    np.testing.assert_array_equal(np.concatenate(list(stored.batches(size))), pixels)
    np.testing.assert_array_equal(np.stack(list(stored)), pixels)
    np.testing.assert_array_equal(stored.read(40, 50), pixels[40:])


def test_a_split_without_images_is_an_error(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no examples at .*nothing"):
        balanced_images([str(tmp_path / "nothing" / "*")], graph, 10)
    empty = write(tmp_path / "empty", [], files=1)
    with pytest.raises(FileNotFoundError, match=r"no image at .*: at least one is needed"):
        first_images(empty, graph, 10)


def test_a_run_records_which_images_it_calibrated_with(
    workspace: Workspace, train: list[str], graph: Path
) -> None:
    artifact = workspace.artifact("TFLiteRewriter", "tflite_models")
    recorded = json.loads((artifact / CALIBRATION_FILE).read_text())
    expected = balanced_images(train, graph, len(recorded["image_ids"]))
    assert recorded == {"split": "train", "image_ids": list(expected.image_ids)}
