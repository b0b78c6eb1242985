"""Views: drawn alike eagerly and in a tf.data pipeline, alone and in a batch, and switchable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.training.augmentation import Augmentation

STILL = Augmentation(views=3, rotation=0, shift=0, zoom=0, flip=False, seed=7)
FULL = Augmentation(views=3, rotation=45, shift=0.15, zoom=0.3, flip=True, seed=7)
INDICES = tf.range(6, dtype=tf.int64)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    coarse = generator.random((6, 4, 4, 3), np.float32)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def views(augmentation: Augmentation, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """All views, `[image, view, height, width, 3]`."""
    drawn = augmentation.all_views(tf.constant(pixels), INDICES).numpy()
    reshaped: NDArray[np.float32] = drawn.reshape(6, -1, *pixels.shape[1:])
    return reshaped


def test_with_everything_off_a_view_is_the_image(pixels: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(views(STILL, pixels)[:, 1], pixels, atol=1e-6)


def test_with_no_views_an_image_stays_as_it_is(pixels: NDArray[np.float32]) -> None:
    none = replace(FULL, views=0)
    np.testing.assert_array_equal(none.all_views(tf.constant(pixels), INDICES), pixels)
    assert none.rows == 1


@pytest.mark.parametrize("switch", [{"rotation": 45}, {"shift": 0.15}, {"zoom": 0.3}])
def test_each_change_can_be_switched_on_alone(
    pixels: NDArray[np.float32], switch: dict[str, Any]
) -> None:
    drawn = views(replace(STILL, **switch), pixels)
    assert np.abs(drawn - pixels[:, np.newaxis]).mean(axis=(2, 3, 4)).min() > 0.001
    assert np.abs(drawn[:, 0] - drawn[:, 1]).mean() > 0.001


def test_the_flip_mirrors_about_half_of_the_views(pixels: NDArray[np.float32]) -> None:
    drawn = views(replace(STILL, flip=True), pixels)
    mirrored = [
        np.allclose(view, image[:, ::-1], atol=1e-5)
        for image, group in zip(pixels, drawn, strict=True)
        for view in group
    ]
    kept = [
        np.allclose(view, image, atol=1e-5)
        for image, group in zip(pixels, drawn, strict=True)
        for view in group
    ]
    assert sum(mirrored) + sum(kept) == 18
    assert 4 <= sum(mirrored) <= 14


def test_a_shift_moves_by_whole_image_shares(pixels: NDArray[np.float32]) -> None:
    """As far as 0.25 of 32 pixels: the mean of where a bright square is moves by at most 8."""
    square = np.zeros((6, 32, 32, 3), np.float32)
    square[:, 14:18, 14:18] = 1
    drawn = views(replace(STILL, shift=0.25), square)[..., 0]
    rows = np.arange(32)[:, np.newaxis]
    moved = (drawn * rows).sum(axis=(2, 3)) / drawn.sum(axis=(2, 3)) - 15.5
    assert 3 < np.abs(moved).max() <= 8


@pytest.mark.parametrize(
    "draws",
    [
        (0.8, 0, 0, 0, 0, 1),
        (0, 0.6, -0.4, 0, 0, 1),
        (0, 0, 0, 0.7, -0.5, 1),
        (0, 0, 0, 0, 0, -1),
        (0.8, 0.6, -0.4, 0.7, -0.5, -1),
        (-0.3, -0.9, 0.2, -0.6, 0.9, 1),
    ],
    ids=["rotation", "shift", "zoom", "flip", "all", "all but the flip"],
)
def test_a_view_is_that_of_keras_image_data_generator(draws: tuple[float, ...]) -> None:
    """On a smooth picture, where rounding matters little; a square one, whose centre it finds."""
    rows, columns = np.mgrid[0:32, 0:32].astype(np.float32)
    waves = [np.sin(rows / 5), np.cos(columns / 7), np.sin((rows + columns) / 6)]
    image = np.stack(waves, -1).astype(np.float32)
    turn, shift_x, shift_y, zoom_x, zoom_y, flip = draws
    expected = tf.keras.preprocessing.image.ImageDataGenerator(fill_mode="nearest").apply_transform(
        image,
        {
            "theta": FULL.rotation * turn,
            "tx": FULL.shift * shift_x * 32,
            "ty": FULL.shift * shift_y * 32,
            "zx": 1 + FULL.zoom * zoom_x,
            "zy": 1 + FULL.zoom * zoom_y,
            "flip_horizontal": flip < 0,
        },
    )
    drawn = FULL.change(tf.constant(image[np.newaxis]), tf.constant([draws], tf.float32))
    np.testing.assert_allclose(drawn[0], expected, atol=0.01)
    still = np.abs(expected - image).mean()
    assert still > 0.05, "the change must be one that shows"


def test_the_same_view_comes_alone_in_a_batch_and_in_a_pipeline(
    pixels: NDArray[np.float32],
) -> None:
    drawn = views(FULL, pixels)
    third = tf.constant([3], tf.int64)
    alone = FULL(tf.constant(pixels[3:4]), third, tf.constant([2], tf.int64))
    np.testing.assert_allclose(alone[0], drawn[3, 2], atol=1e-5)
    data = tf.data.Dataset.from_tensors((pixels, INDICES)).map(FULL.all_views)
    piped = next(iter(data)).numpy().reshape(drawn.shape)
    np.testing.assert_allclose(piped, drawn, atol=1e-5)


def test_another_seed_draws_other_views(pixels: NDArray[np.float32]) -> None:
    other = views(replace(FULL, seed=8), pixels)
    assert np.abs(other - views(FULL, pixels)).mean(axis=(2, 3, 4)).min() > 0.001
