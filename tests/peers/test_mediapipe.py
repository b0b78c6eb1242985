"""MediaPipe Tasks, which knows nothing of this project, classifies by a file's own metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from edgeline import Classifier
from edgeline.contract import PreprocessingContract
from pipeline.demo import write_table

pytestmark = pytest.mark.peers

MEDIAPIPE = "mediapipe==1.2.2"
LABELS = ("mono", "poly")
SIDE = 64
TRAINED_ON, CLASSIFIED = 400, 20  # images
VARIANTS = ["float32", "float16", "dynamic", "int8", "int8_io", "int16x8"]

# Prints the label it finds for each image, a line a model.
SCRIPT = """\
import json, sys
import mediapipe
from mediapipe.tasks.python import vision

models, images = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for model in models:
    with vision.ImageClassifier.create_from_model_path(model) as classifier:
        results = [classifier.classify(mediapipe.Image.create_from_file(i)) for i in images]
    print(json.dumps([r.classifications[0].categories[0].category_name for r in results]))
"""


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has MediaPipe, and nothing of ours."""
    folder = tmp_path_factory.mktemp("mediapipe")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", MEDIAPIPE], check=True)
    return python


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Real images of two kinds of solar cells in turn, already at the model's size.

    MediaPipe's resizing is its own: at another size the pixels would differ.
    """
    folder = tmp_path_factory.mktemp("photos")
    table = write_table(folder / "elpv")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    by_label = {label: [path for path, _, kind in rows if kind == label] for label in LABELS}
    photos = []
    for index in range((TRAINED_ON + CLASSIFIED) // len(LABELS)):
        for label_id, label in enumerate(LABELS):
            photo = folder / f"{label}-{index}.png"
            with Image.open(table.parent / by_label[label][index]) as image:
                image.convert("RGB").resize((SIDE, SIDE)).save(photo)
            photos.append((photo, label_id))
    return photos


@pytest.fixture(scope="module")
def models(
    photos: list[tuple[Path, int]], tmp_path_factory: pytest.TempPathFactory
) -> TFLiteModelsFolder:
    """A small trained network, rewritten."""
    trained_on = photos[:TRAINED_ON]
    pixels = np.stack([read(photo) for photo, _ in trained_on])
    label_ids = np.array([label_id for _, label_id in trained_on])
    network = train(pixels, label_ids)
    folder = tmp_path_factory.mktemp("models")
    saved_model = save(network, folder / "saved")
    calibration = Images(tuple(photo.stem for photo, _ in trained_on), pixels, label_ids)
    rewrite(saved_model, folder / "tflite", VARIANTS, calibration=calibration, timeout=300)
    return TFLiteModelsFolder.load(folder / "tflite")


def read(photo: Path) -> NDArray[np.float32]:
    with Image.open(photo) as image:
        return np.asarray(image, np.float32) / np.float32(255)


def train(pixels: NDArray[np.float32], label_ids: NDArray[np.int64]) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((SIDE, SIDE, 3))]
    for filters in (8, 16, 32):
        layers.append(keras.layers.Conv2D(filters, 3, strides=2, use_bias=False))
        layers.append(keras.layers.BatchNormalization(momentum=0.8))
        layers.append(keras.layers.ReLU())
    layers.append(keras.layers.GlobalAveragePooling2D())
    layers.append(keras.layers.Dense(len(LABELS), activation="softmax"))
    network = keras.Sequential(layers)
    network.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    network.fit(pixels, label_ids, batch_size=32, epochs=12, verbose=0)
    assert network.evaluate(pixels, label_ids, verbose=0)[1] > 0.8
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


def test_it_names_the_class_that_the_device_package_names(
    mediapipe: Path, models: TFLiteModelsFolder, photos: list[tuple[Path, int]], tmp_path: Path
) -> None:
    script = tmp_path / "classify.py"
    script.write_text(SCRIPT)
    classified = [str(photo) for photo, _ in photos[TRAINED_ON:]]
    files = [str(models.path(model)) for model in models.models]
    done = subprocess.run(
        [str(mediapipe), str(script), json.dumps(files), json.dumps(classified)],
        check=False,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
    )
    assert done.returncode == 0, done.stderr
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        with Classifier.from_file(file, models.contract) as classifier:
            ours = [classifier.predict(photo).label for photo in classified]
        assert len(ours) == CLASSIFIED
        assert set(ours) == set(LABELS)
        assert json.loads(line) == ours
