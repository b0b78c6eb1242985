"""The network's size, its frozen and trainable parts, and weights that are not its own."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.training.frontier import unfreeze
from pipeline.training.model import Statistics, build_base, build_head, head_input, join

FLOAT32 = 4  # bytes
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def base() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_base(32, 32, "random")


def head_on(base: keras.Model, kind: str, classes: int = 2, dropout: float = 0.0) -> keras.Model:
    statistics = Statistics.of(np.random.default_rng(0).random((4, 1024), np.float32))
    return build_head(kind, base.output_shape[1:], classes, dropout, statistics)


@pytest.mark.parametrize(("head", "least", "most"), [("flatten", 61.0, 62.0), ("pool", 27.0, 28.5)])
def test_the_size_at_150_by_150_with_two_classes(head: str, least: float, most: float) -> None:
    base = build_base(150, 150, "random")
    model = join(base, head_on(base, head))
    weights = model.count_params() * FLOAT32 / MEGABYTE
    assert least <= weights <= most


@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_the_joined_model_is_the_head_on_the_base(base: keras.Model, head: str) -> None:
    made = head_on(base, head, classes=3, dropout=0.5)
    model = join(base, made)
    pixels = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    apart = made(base((pixels - mean) / std, training=False)).numpy()
    np.testing.assert_allclose(model(pixels).numpy(), apart, atol=1e-5)
    np.testing.assert_allclose(apart.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("trained_layers", [0, 50])
def test_batch_norms_stay_in_inference_mode_while_the_model_trains(
    base: keras.Model, trained_layers: int
) -> None:
    if trained_layers:
        unfreeze(base, len(base.layers) - trained_layers)
    model = join(base, head_on(base, "pool"))
    pixels = np.random.default_rng(1).random((8, 32, 32, 3), np.float32)
    training = model(pixels, training=True).numpy()
    np.testing.assert_allclose(training, model(pixels, training=False).numpy(), atol=1e-6)
    base.trainable = False


@pytest.mark.parametrize("kind", ["pool", "flatten"])
def test_what_is_kept_for_a_head_gives_what_the_features_give(kind: str) -> None:
    base = build_base(64, 64, "random")
    head = head_on(base, kind)
    pixels = np.random.default_rng(1).random((4, 64, 64, 3), np.float32)
    kept = head_input(base, kind)(pixels)
    np.testing.assert_allclose(head(kept).numpy(), head(base(pixels)).numpy(), atol=1e-6)


def test_weights_come_from_a_file(base: keras.Model, tmp_path: Path) -> None:
    file = tmp_path / "base.weights.h5"
    base.save_weights(file)
    keras.utils.set_random_seed(1)
    loaded = build_base(32, 32, str(file))
    for weight, expected in zip(loaded.get_weights(), base.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.base_weights: no such file: .*none\.h5"):
        build_base(32, 32, str(tmp_path / "none.h5"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "garbage.h5").write_bytes(b"no weights")
    for file in ("other.weights.h5", "garbage.h5"):
        with pytest.raises(UserError, match="does not hold the weights of a DenseNet121"):
            build_base(32, 32, str(tmp_path / file))
