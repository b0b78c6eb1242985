"""The device package in an environment of its own: it predicts, and nothing heavy comes along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from edgeline.contract import PreprocessingContract
from tests.conftest import make_registry, publish_release

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the locked dependencies of `edge/` and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    lock = str(ROOT / "locks" / "edge.txt")
    subprocess.run([*pip, "--require-hashes", "-r", lock], check=True)
    subprocess.run([*pip, "--no-deps", str(ROOT / "edge")], check=True)
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    module = tf.Module()
    module.weights = tf.Variable(np.eye(12, 2, dtype=np.float32))
    pixels = tf.TensorSpec([1, 2, 2, 3], tf.float32, "pixels")

    def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(tf.reshape(pixels, [1, 12]) @ module.weights)}

    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    contract = PreprocessingContract(height=2, width=2, max_side=512, labels=("red", "green"))
    make_registry(tmp_path, "colours")
    publish_release(tmp_path, "colours", {"float32": converter.convert()}, contract)
    return tmp_path / "registry"


def run(device: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(device / "bin" / arguments[0]), *arguments[1:]],
        check=True,
        capture_output=True,
        text=True,
        cwd=device,
        env=environment,
    ).stdout


def test_it_trusts_a_registry_and_predicts_from_it(
    device: Path, registry: Path, tmp_path: Path
) -> None:
    root = str(registry.parent / "keys" / "root.json")
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        image = tmp_path / f"{name}.png"
        Image.new("RGB", (20, 10), colour).save(image)
        where = ["--registry", str(registry), "--model", "colours", "--channel", "candidate"]
        where += ["--root", root, "--state", str(tmp_path / "state")]
        said = json.loads(run(device, "edgeline", "predict", str(image), *where, "--json"))
        assert said["label"] == name


def test_neither_tensorflow_nor_tfx_is_there(device: Path) -> None:
    installed = json.loads(run(device, "python", "-m", "pip", "list", "--format=json"))
    names = {package["name"].lower() for package in installed}
    assert "edgeline" in names
    assert not {name for name in names if name.startswith(("tensorflow", "tfx", "keras"))}
    assert "apache-beam" not in names
    assert "cryptography" not in names, "a device verifies with pure Python"
