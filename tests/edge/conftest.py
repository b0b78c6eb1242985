"""Real models and real registries for the tests of the device package."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeline.contract import PreprocessingContract
from edgeline.registry.writer import Published, VariantFiles, publish

SIDE = 8
LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def contract() -> PreprocessingContract:
    return PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=LABELS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of TFLite models: a float one, a quantized one, and some that do not fit."""
    folder = tmp_path_factory.mktemp("models")
    converters = {
        "float32": _converter(classes=3),
        "int8_io": _quantized(_converter(classes=3)),
        "five_classes": _converter(classes=5),
        "nan": _converter(classes=3, weight=np.nan),
        "other_names": _converter(classes=3, output="scores"),
    }
    for name, converter in converters.items():
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    (folder / "garbage.tflite").write_bytes(b"this is no model")
    return folder


def _converter(classes: int, weight: float = 1.0, output: str = "probabilities") -> Any:
    import tensorflow as tf

    module = tf.Module()
    drawn = np.random.default_rng(0).normal(size=[SIDE * SIDE * 3, classes])
    module.weights = tf.Variable((drawn * weight).astype(np.float32))

    def classify(pixels: Any) -> dict[str, Any]:
        logits = tf.reshape(pixels, [1, -1]) @ module.weights / 8.0
        return {output: tf.nn.softmax(logits)}

    pixels = tf.TensorSpec([1, SIDE, SIDE, 3], tf.float32, name="pixels")
    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module)


def _quantized(converter: Any) -> Any:
    import tensorflow as tf

    rng = np.random.default_rng(1)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.random([1, SIDE, SIDE, 3], np.float32)] for _ in range(50)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter


@dataclass(frozen=True)
class Store:
    """A registry under test, and an easy way to publish to it."""

    path: Path
    files: Path
    contract: PreprocessingContract

    def publish(
        self,
        variants: Mapping[str, bytes] | None = None,
        *,
        model: str = "pets",
        channel: str = "candidate",
        verdict: bytes = b"{}",
    ) -> Published:
        """Publish a release; without `variants`, of one that is no real model."""
        files = []
        for name, content in (variants or {"float32": b"weights"}).items():
            path = self.files / f"{name}.tflite"
            path.write_bytes(content)
            files.append(VariantFiles(name, path))
        return publish(
            self.path,
            model=model,
            channel=channel,
            variants=files,
            preprocessing=self.contract,
            verdict=verdict,
        )

    def blob(self, digest: str) -> Path:
        """Return where the store keeps a blob."""
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")


@pytest.fixture
def store(tmp_path: Path, contract: PreprocessingContract) -> Store:
    """A registry that does not exist yet."""
    files = tmp_path / "files"
    files.mkdir()
    return Store(tmp_path / "registry", files, contract)


@pytest.fixture
def pets(store: Store, models: Path) -> Store:
    """A registry with one release of real models, in both channels' names."""
    variants = {name: (models / f"{name}.tflite").read_bytes() for name in ("float32", "int8_io")}
    store.publish(variants, channel="candidate")
    store.publish(variants, channel="production")
    return store


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run this Python with the tests' import path in a process of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    return run
