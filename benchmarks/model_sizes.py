"""How large the TFLite files are at 150x150 with two classes, for both heads.

Promised: flatten 61 to 62 MB in float32 and 30.5 to 31.5 in float16; pool under 28.5 and 14.3.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tabulate import tabulate

from components.tflite_rewriter.images import Images
from components.tflite_rewriter.rewrite import rewrite
from pipeline.config import RewriterConfig
from pipeline.data.preprocessing import contract
from pipeline.training.model import HEADS, Statistics, build_base, build_head, join

SIDE = 150
LABELS = ("cat", "dog")
CHECKED_IMAGES = 8
VARIANTS = RewriterConfig().variants


def main() -> None:
    """Converts an untrained model with each head and prints sizes, and ratios to float32."""
    rows = []
    for head in HEADS:
        with tempfile.TemporaryDirectory() as folder:
            saved_model = save(head, Path(folder) / "saved")
            started = time.monotonic()
            models = rewrite(
                saved_model,
                Path(folder) / "tflite",
                VARIANTS,
                calibration=noise(CHECKED_IMAGES),
                timeout=900,
            ).models
            seconds = time.monotonic() - started
        sizes = {model.variant: model.bytes or 0 for model in models}
        for model in models:
            size = sizes[model.variant]
            rows.append(
                [head, model.variant, f"{size / 1e6:.2f} MB", f"{size / sizes['float32']:.3f}"]
            )
        slowest = max(model.seconds for model in models)
        rows.append(
            [head, "all, against the slowest", f"{seconds:.0f} s", f"{seconds / slowest:.2f}"]
        )
    print(tabulate(rows, headers=["head", "variant", "", "ratio"], tablefmt="plain"))


def save(head: str, folder: Path, *, base: str = "densenet121", side: int = SIDE) -> Path:
    """Saves an untrained model as the Trainer does, as far as the rewriter looks at it."""
    keras.utils.set_random_seed(0)
    network = build_base(side, side, "random", base)
    shape = network.output_shape[1:]
    statistics = Statistics.of(np.random.default_rng(0).random((4, shape[-1]), np.float32))
    model = join(network, build_head(head, shape, len(LABELS), 0.0, statistics))
    module = tf.Module()
    module.weights = model.weights

    @tf.function(
        input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32, "pixels")],
        autograph=False,
    )
    def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(pixels, training=False)}

    tf.saved_model.save(module, str(folder), signatures={"pixels": pixels})
    (folder / "assets.extra").mkdir()
    content = contract(side, side, 512, LABELS).to_json()
    (folder / "assets.extra" / "preprocessing.json").write_bytes(content)
    return folder


def noise(count: int, side: int = SIDE) -> Images:
    """Images of noise: what is in them changes neither sizes nor how long a conversion takes."""
    pixels = np.random.default_rng(0).random((count, side, side, 3), np.float32)
    ids = tuple(str(index) for index in range(count))
    return Images(ids, [(pixels, np.arange(count) % len(LABELS))])
