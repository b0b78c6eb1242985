"""The network's size, its frozen and trainable parts, and weights that are not its own."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.model import build_base, build_head, join, unfreeze

FLOAT32 = 4  # bytes
MEGABYTE = 1e6


@pytest.fixture(scope="module")
def base() -> keras.Model:
    keras.utils.set_random_seed(0)
    return build_base(32, 32, "random")


def features(
    base: keras.Model, images: int = 4
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = (images, *base.output_shape[1:])
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize(("head", "least", "most"), [("flatten", 61.0, 62.0), ("pool", 27.0, 28.5)])
def test_the_size_at_150_by_150_with_two_classes(head: str, least: float, most: float) -> None:
    base = build_base(150, 150, "random")
    model = join(base, build_head(head, features(base), 2, 0.2))
    weights = model.count_params() * FLOAT32 / MEGABYTE
    assert least <= weights <= most


@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_the_joined_model_is_the_head_on_the_base(base: keras.Model, head: str) -> None:
    made = build_head(head, features(base), 3, 0.5)
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
        unfreeze(base, trained_layers)
    model = join(base, build_head("pool", features(base), 2, dropout=0.0))
    pixels = np.random.default_rng(1).random((8, 32, 32, 3), np.float32)
    training = model(pixels, training=True).numpy()
    np.testing.assert_allclose(training, model(pixels, training=False).numpy(), atol=1e-6)
    base.trainable = False


def test_fine_tuning_trains_the_last_layers_but_no_batch_norm(base: keras.Model) -> None:
    unfreeze(base, 5)
    trained = {layer.name for layer in base.layers if layer.trainable_weights}
    assert trained == {"conv5_block16_2_conv"}
    base.trainable = False


def test_layers_without_weights_cannot_be_fine_tuned(base: keras.Model) -> None:
    with pytest.raises(UserError, match=r"trainer\.fine_tune_layers: the base's last 2 layers"):
        unfreeze(base, 2)
    base.trainable = False


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
