"""Which real images the rewriter calibrates with: balanced, and the same in whatever order."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.examples import serialized_examples
from components.tflite_models import CALIBRATION_FILE
from components.tflite_rewriter.choose import balanced_images, first_images
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


def test_each_class_gives_as_many(train: list[str], graph: Path) -> None:
    chosen = balanced_images(train, graph, 41)
    assert sorted(Counter(chosen.label_ids.tolist()).values()) == [20, 21]
    assert len(set(chosen.image_ids)) == len(chosen.pixels) == 41


def test_a_class_with_too_few_leaves_room_to_the_others(train: list[str], graph: Path) -> None:
    everything = balanced_images(train, graph, 1_000_000)
    assert len(everything.image_ids) == len(records(train))
    (_, fewer), (_, more) = sorted(
        Counter(everything.label_ids.tolist()).items(), key=lambda pair: pair[1]
    )
    chosen = balanced_images(train, graph, 2 * fewer + 5)
    assert more >= fewer + 5
    assert sorted(Counter(chosen.label_ids.tolist()).values()) == [fewer, fewer + 5]


def test_the_choice_does_not_depend_on_files_or_their_order(
    train: list[str], graph: Path, tmp_path: Path
) -> None:
    shuffled = records(train)
    random.Random(0).shuffle(shuffled)
    moved = write(tmp_path / "moved", shuffled, files=3)
    for choose in (balanced_images, first_images):
        expected, found = choose(train, graph, 20), choose(moved, graph, 20)
        assert found.image_ids == expected.image_ids
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.label_ids, expected.label_ids)


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
