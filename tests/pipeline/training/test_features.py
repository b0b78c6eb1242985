"""Stores in memory and on disk, where they are put, and what is computed into them."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.data.preprocessing import PIXELS
from pipeline.errors import TrainingError
from pipeline.training import features
from pipeline.training.augmentation import Augmentation
from pipeline.training.features import (
    FeatureStore,
    Frozen,
    LabelledExamples,
    choose_storage,
    extract_from_pixels,
)

AUGMENTATION = Augmentation(views=2, rotation=45, shift=0.15, zoom=0.3, flip=True, seed=0)
Splits = tuple[LabelledExamples, LabelledExamples]


@pytest.fixture
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=8)]
    return keras.Sequential(layers)


def expected(network: keras.Model, split: LabelledExamples) -> NDArray[np.float32]:
    rows = []
    for index, batch in enumerate(split.examples.batches(1)):
        views = AUGMENTATION.all_views(batch[PIXELS], np.array([index]))
        rows.append(network.predict_on_batch(views))
    return np.concatenate(rows)


class Observed(keras.layers.Layer):
    """Passes on what it gets, slowly, and notes the traces that are at work meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()
        self.at_work: list[int] = []
        self.seen: list[tuple[int, ...]] = []

    def call(self, values: tf.Tensor) -> tf.Tensor:
        number = next(self.numbers)  # of this trace

        def work(values: NDArray[np.float32]) -> NDArray[np.float32]:
            self.at_work.append(number)
            time.sleep(0.02)
            self.seen.append(tuple(self.at_work))
            self.at_work.remove(number)
            return values

        return tf.ensure_shape(tf.numpy_function(work, [values], tf.float32), values.shape)


def test_no_trace_computes_two_batches_at_once() -> None:
    observed = Observed()
    network = Frozen(keras.Sequential([keras.Input((2,)), observed]))
    batches = [np.full((3, 2), number, np.float32) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for batch, values in zip(batches, pool.map(network, batches), strict=True):
            np.testing.assert_array_equal(values, batch)
    assert len(observed.seen) == len(batches)
    assert max(map(len, observed.seen)) == network.at_once > 1
    assert all(len(set(numbers)) == len(numbers) for numbers in observed.seen)


@pytest.mark.parametrize("file", [None, "features.f32"])
def test_rows_come_back_in_whatever_order(file: str | None, tmp_path: Path) -> None:
    store = FeatureStore(10, (2, 3), tmp_path / file if file else None)
    rows = np.random.default_rng(0).random((10, 2, 3), np.float32)
    store.append(rows[:4])
    store.append(rows[4:])
    order = np.array([9, 0, 3, 3, 7])
    np.testing.assert_array_equal(store.read(order), rows[order])
    store.close()


@pytest.mark.parametrize("file", [None, "features.f32"])
def test_every_view_of_every_image_has_its_row(
    splits: Splits, network: keras.Model, file: str | None, tmp_path: Path
) -> None:
    train, _ = splits
    store = FeatureStore(150, network.output_shape[1:], tmp_path / file if file else None)
    extract_from_pixels(Frozen(network), train, AUGMENTATION, store)
    found = store.read(np.arange(150))
    np.testing.assert_allclose(found, expected(network, train), atol=1e-5)


@pytest.mark.parametrize("noted", [0, 20, 33, 150])
def test_an_extraction_goes_on_after_the_rows_that_are_safe(
    splits: Splits, network: keras.Model, noted: int, tmp_path: Path
) -> None:
    train, _ = splits
    path = tmp_path / "features.f32"
    whole = FeatureStore(150, network.output_shape[1:], path)
    extract_from_pixels(Frozen(network), train, AUGMENTATION, whole)
    rows = whole.read(np.arange(150))
    whole.close()
    # What was not noted as safe is as good as lost.
    content = bytearray(path.read_bytes())
    content[noted * rows[0].nbytes :] = b"\xff" * (len(content) - noted * rows[0].nbytes)
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps({"rows": noted, "shape": rows.shape[1:]}))
    store = FeatureStore(150, network.output_shape[1:], path)
    assert store.written == noted
    extract_from_pixels(Frozen(network), train, AUGMENTATION, store)
    np.testing.assert_allclose(store.read(np.arange(150)), rows, atol=1e-6)


def test_a_note_of_another_shape_is_no_note(tmp_path: Path) -> None:
    store = FeatureStore(4, (2,), tmp_path / "features.f32")
    store.append(np.ones((4, 2), np.float32))
    store.close()
    assert FeatureStore(4, (2,), tmp_path / "features.f32").written == 4
    assert FeatureStore(4, (3,), tmp_path / "features.f32").written == 0


def test_small_caches_are_in_memory_and_large_ones_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = choose_storage({"a.f32": 100, "b.f32": 200}, tmp_path, 1e9)
    assert small is not None
    assert small.folder is None
    shared = choose_storage({"a.f32": 100, "b.f32": 200}, tmp_path, 1e9, in_memory=False)
    assert shared is not None
    assert shared.folder == tmp_path
    monkeypatch.setattr(features, "MEMORY_LIMIT", 299)
    large = choose_storage({"a.f32": 100, "b.f32": 200}, tmp_path, 1e9)
    assert large is not None
    assert large.folder == tmp_path


def test_what_a_killed_run_left_on_disk_is_not_computed_again_in_memory(tmp_path: Path) -> None:
    (tmp_path / "features-train-1.f32").write_bytes(b"x")
    found = choose_storage({"features-train-1.f32": 100}, tmp_path, 1e9)
    assert found is not None
    assert found.folder == tmp_path


def test_what_other_trials_left_counts_and_goes_where_it_is_too_much(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        file = tmp_path / f"{name}.f32"
        file.write_bytes(b"x" * 100)
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "oldest.json").write_text("{}")
    ours = {"features-train-1.f32": 100, "middle.f32": 100}
    assert choose_storage(ours, tmp_path, 300, in_memory=False) is not None
    assert {file.name for file in tmp_path.iterdir()} == {"newest.f32", "middle.f32"}
    assert choose_storage(ours, tmp_path, 199, in_memory=False) is None
    assert (tmp_path / "newest.f32").exists(), "nothing goes in vain"


@pytest.mark.parametrize(
    ("needed", "cap", "reason"),
    [(10**9, 0.5e9, "more than trainer.cache_max_gb = 0.5"), (10**18, 1e19, "GB free")],
)
def test_what_fits_nowhere_is_trained_without_a_cache_and_the_log_says_why(
    needed: int, cap: float, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "pipeline"):
        assert choose_storage({"a.f32": needed}, tmp_path, cap) is None
    assert reason in caplog.text


def test_a_full_disk_is_named_with_what_to_do() -> None:
    """On Linux's device that is always full, in the file's place."""
    store = FeatureStore(10, (4,), None)
    store._memory = None
    store._path = Path("/dev/full")
    with Path("/dev/full").open("r+b", buffering=0) as file:
        store._file = file.fileno()
        with pytest.raises(TrainingError, match=r"the disk is full: free some space, or set"):
            store.append(np.ones((10, 4), np.float32))


def test_the_first_images_of_a_split_fill_a_store_of_their_number(
    splits: Splits, network: keras.Model
) -> None:
    """33 images of 2 views are two batches of 16 and one of which a single image is wanted."""
    train, _ = splits
    first = LabelledExamples(train.examples, train.label_ids[:33])
    store = FeatureStore(66, network.output_shape[1:], None)
    extract_from_pixels(Frozen(network), first, AUGMENTATION, store)
    np.testing.assert_allclose(store.read(np.arange(66)), expected(network, train)[:66], atol=1e-5)


def test_labels_are_read_without_decoding_an_image(splits: Splits) -> None:
    train, _ = splits
    expected = np.concatenate([b["label_id"].numpy() for b in train.examples.batches(32)])
    np.testing.assert_array_equal(train.label_ids, expected)
    assert np.bincount(train.label_ids).tolist() == [40, 35]
