"""The device sees what the model was trained on: pixels and answers, image by image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from components.feature_names import IMAGE, LABEL
from edgeline import Classifier
from edgeline.preprocessing import load_image, load_pixels
from edgeline.runtime.interpreter import PixelModel
from pipeline.data.image_files import normalise
from pipeline.data.preprocessing import PIXELS, preprocessing_fn
from tests.odd_images import READ, Case

if TYPE_CHECKING:
    from tests.conftest import Workspace

JPEGS: tuple[dict[str, Any], ...] = (
    {"quality": 90},
    {"quality": 75, "subsampling": 2, "progressive": True},
    {"quality": 95, "subsampling": 0},
)


@pytest.fixture(scope="module")
def classifier(workspace: Workspace) -> Iterator[Classifier]:
    """The device, with the model of a real run."""
    with Classifier.from_registry(
        workspace.registry,
        "cells",
        "candidate",
        root=workspace.root,
        state=workspace.folder / "parity",
        variant="float16",
    ) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def photos(workspace: Workspace) -> list[Image.Image]:
    paths = sorted((workspace.folder / "elpv" / "images").glob("*.png"))[:400]
    return [Image.open(path).convert("RGB") for path in paths]


@pytest.fixture(scope="module")
def trained_on(classifier: Classifier) -> Callable[[bytes], NDArray[np.float32]]:
    """The transform that the training data went through."""
    contract = classifier.contract
    config = {"height": contract.height, "width": contract.width}

    @tf.function(input_signature=[tf.TensorSpec([1, 1], tf.string)])
    def transform(image: tf.Tensor) -> tf.Tensor:
        return preprocessing_fn({IMAGE: image, LABEL: tf.constant([[""]])}, config)[PIXELS][0]

    return lambda encoded: transform(tf.constant([[encoded]])).numpy()


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_odd_images_are_read_alike(case: Case) -> None:
    ingested = normalise(case.data, max_side=512, max_pixels=10**6).pixels.convert("RGB")
    np.testing.assert_array_equal(load_image(case.data), np.asarray(ingested))


def test_png_pixels_are_the_same(
    classifier: Classifier,
    photos: list[Image.Image],
    trained_on: Callable[[bytes], NDArray[np.float32]],
) -> None:
    assert len(photos) >= 200
    for image in photos[:200]:
        png = _encoded(image, "PNG")
        difference = np.abs(load_pixels(classifier.contract, png) - trained_on(png)).max()
        assert difference < 1 / 255 + 1e-6


def test_jpeg_answers_are_the_same(
    workspace: Workspace,
    classifier: Classifier,
    photos: list[Image.Image],
    trained_on: Callable[[bytes], NDArray[np.float32]],
    record_property: Callable[[str, object], None],
) -> None:
    (path,) = Path(workspace.folder / "parity").glob("*/models/*/model.tflite")
    contract = classifier.contract
    model = PixelModel(
        path.read_bytes(),
        height=contract.height,
        width=contract.width,
        classes=len(contract.labels),
        num_threads=1,
    )
    same, largest = [], 0.0
    for number, image in enumerate(photos):
        jpeg = _encoded(image, "JPEG", **JPEGS[number % len(JPEGS)])
        pixels = trained_on(jpeg)
        largest = max(largest, float(np.abs(load_pixels(contract, jpeg) - pixels).max()))
        device = classifier.predict(jpeg).probabilities
        same.append(int(model(pixels).argmax()) == int(device.argmax()))
    record_property("largest difference of a pixel", largest)
    record_property("top-1 equal", float(np.mean(same)))
    assert np.mean(same) >= 0.995, f"the largest difference of a pixel is {largest:.4f}"
