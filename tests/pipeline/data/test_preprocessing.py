"""The one definition of preprocessing, eagerly, inside tf.data, and against the device's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from edgeline.preprocessing import load_image, preprocess
from pipeline.data.image_files import normalise
from pipeline.data.preprocessing import contract, preprocessing_fn

LABELS = ("cat", "dog")
CONFIG = {"height": 32, "width": 48}


def encoded(mode: str, kind: str, size: tuple[int, int] = (90, 61)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    # Smoothed, so that a JPEG's chroma subsampling has something to interpolate.
    image = Image.fromarray(noise).resize((9, 6)).resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.convert(mode).save(file, kind)
    return file.getvalue()


IMAGES = {
    "an RGB PNG": encoded("RGB", "PNG"),
    "a gray PNG": encoded("L", "PNG"),
    "an RGB JPEG": encoded("RGB", "JPEG"),
    "a gray JPEG": encoded("L", "JPEG"),
    "a tiny PNG": encoded("RGB", "PNG", (3, 2)),
}


def transformed(images: list[bytes], labels: list[str]) -> dict[str, NDArray[Any]]:
    inputs = {"image": tf.constant(images)[:, None], "label": tf.constant(labels)[:, None]}
    return {name: value.numpy() for name, value in preprocessing_fn(inputs, CONFIG).items()}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_the_device_makes_the_same_pixels(image: bytes) -> None:
    pixels = transformed([image], ["cat"])["pixels"]
    assert pixels.shape == (1, 32, 48, 3)
    assert pixels.dtype == np.float32
    on_device = preprocess(contract(32, 48, 512, LABELS), load_image(image))
    np.testing.assert_allclose(on_device, pixels[0], atol=1e-6)


def test_pixels_span_zero_to_one() -> None:
    black_and_white = Image.new("L", (10, 10))
    black_and_white.paste(255, (5, 0, 10, 10))
    file = io.BytesIO()
    black_and_white.save(file, "PNG")
    pixels = transformed([file.getvalue()], ["cat"])["pixels"]
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


def test_labels_pass_unchanged() -> None:
    image = IMAGES["a tiny PNG"]
    assert transformed([image] * 2, ["dog", "mouse"])["label"].tolist() == [b"dog", b"mouse"]


def test_it_is_the_same_inside_tf_data() -> None:
    images = list(IMAGES.values())
    dataset = tf.data.Dataset.from_tensor_slices((images, ["cat"] * len(images))).batch(2)
    batches = dataset.map(
        lambda image, label: preprocessing_fn(
            {"image": image[:, None], "label": label[:, None]}, CONFIG
        )
    )
    pixels = np.concatenate([batch["pixels"].numpy() for batch in batches])
    np.testing.assert_array_equal(pixels, transformed(images, ["cat"] * len(images))["pixels"])


def test_of_a_large_photo_the_device_makes_the_pixels_that_were_trained_on() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (610, 900, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    photo = file.getvalue()
    ingested = normalise(photo, max_side=120, max_pixels=10**6)
    assert ingested.changes == ("downscaled",)
    trained_on = transformed([ingested.data], ["cat"])["pixels"][0]
    on_device = preprocess(contract(32, 48, 120, LABELS), load_image(photo))
    np.testing.assert_allclose(on_device, trained_on, atol=1e-6)
    unaware = preprocess(contract(32, 48, 10_000, LABELS), load_image(photo))
    assert np.abs(unaware - trained_on).max() > 0.01
