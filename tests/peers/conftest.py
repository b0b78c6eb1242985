"""A network whose every variant is sure of twenty photos, for outside programs to load."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from components.tflite_models import TFLiteModelsFolder
from components.tflite_rewriter.images import Images
from components.tflite_rewriter.rewrite import rewrite
from components.tflite_rewriter.variants import VARIANTS, SearchSettings
from edgeline.contract import PreprocessingContract
from pipeline.demo import write_table

LABELS = ("mono", "poly")
SIDE = 64
SOLVED_ON, CLASSIFIED = 400, 20  # images
SEARCH = SearchSettings("smallest", max_drop=0.01, max_size_mb=None, trials=8, minutes=5)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Real images of two kinds of solar cells in turn, already at the model's size.

    MediaPipe's resizing is its own: at another size the pixels would differ.
    """
    folder = tmp_path_factory.mktemp("photos")
    table = write_table(folder / "elpv")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    by_label = {label: [path for path, _, kind in rows if kind == label] for label in LABELS}
    photos = []
    for index in range((SOLVED_ON + CLASSIFIED) // len(LABELS)):
        for label_id, label in enumerate(LABELS):
            photo = folder / f"{label}-{index}.png"
            with Image.open(table.parent / by_label[label][index]) as image:
                image.convert("RGB").resize((SIDE, SIDE)).save(photo)
            photos.append((photo, label_id))
    return photos


@pytest.fixture(scope="session")
def classified(photos: list[tuple[Path, int]]) -> dict[Path, str]:
    """Photos that the network was not solved on, with their labels."""
    return {photo: LABELS[label_id] for photo, label_id in photos[SOLVED_ON:]}


@pytest.fixture(scope="session")
def models(
    photos: list[tuple[Path, int]], tmp_path_factory: pytest.TempPathFactory
) -> TFLiteModelsFolder:
    """A small network, rewritten."""
    solved_on = photos[:SOLVED_ON]
    pixels = np.stack([read(photo) for photo, _ in solved_on])
    label_ids = np.array([label_id for _, label_id in solved_on])
    network = solve(pixels, label_ids)
    folder = tmp_path_factory.mktemp("models")
    saved_model = save(network, folder / "saved")
    calibration = Images(tuple(photo.stem for photo, _ in solved_on), [(pixels, label_ids)])
    rewrite(
        saved_model,
        folder / "tflite",
        list(VARIANTS),
        calibration=calibration,
        evaluation=calibration,
        search=SEARCH,
        timeout=300,
    )
    return TFLiteModelsFolder.load(folder / "tflite")


def read(photo: Path) -> NDArray[np.float32]:
    with Image.open(photo) as image:
        return np.asarray(image, np.float32) / np.float32(255)


def solve(pixels: NDArray[np.float32], label_ids: NDArray[np.int64]) -> keras.Model:
    """A network that tells the two labels apart on every processor, as nothing is trained.

    Its convolutions are drawn by NumPy and stay; the last layer is the solution of ridge
    regression on what they make of the images, in double precision.
    """
    generator = np.random.default_rng(0)
    layers = [keras.Input((SIDE, SIDE, 3))]
    # So many that the last layer is a small part, and has eight bits where these have four.
    for filters in (16, 64, 64):
        layers.append(keras.layers.Conv2D(filters, 3, 2, padding="same", activation="relu"))
    layers += [keras.layers.AveragePooling2D(2), keras.layers.Flatten()]
    extractor = keras.Sequential(layers)
    for layer in extractor.layers[:3]:
        kernel, bias = layer.get_weights()
        he = np.sqrt(2 / np.prod(kernel.shape[:3]))
        layer.set_weights([generator.normal(0, he, kernel.shape), bias])

    features = extractor.predict(pixels, verbose=0).astype(np.float64)
    mean = features.mean(axis=0)
    centred, targets = features - mean, 2.0 * label_ids - 1
    covariance = centred.T @ centred
    ridge = 0.1 * np.diag(covariance).mean() * np.eye(len(mean))
    weights = 4 * np.linalg.solve(covariance + ridge, centred.T @ targets)

    network = keras.Sequential([*extractor.layers, keras.layers.Dense(2, activation="softmax")])
    network.build((None, SIDE, SIDE, 3))
    bias = mean @ weights
    network.layers[-1].set_weights([np.stack([-weights, weights], axis=1), np.array([bias, -bias])])
    return network


def save(network: keras.Model, folder: Path) -> Path:
    module = tf.Module()
    module.network = network

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, "pixels")])
    def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": network(pixels, training=False)}

    tf.saved_model.save(module, str(folder), signatures={"pixels": pixels})
    contract = PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=LABELS)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "preprocessing.json").write_bytes(contract.to_json())
    return folder
