"""Converts a SavedModel's `pixels` signature to a float32 TFLite file, from which all else is made.

What is converted is not that SavedModel but one made of it that holds nothing else: a third of the
time, two thirds of the memory. This is the only file that needs TensorFlow's converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from components.saved_transform import signature
from components.tflite_rewriter.check import INPUT, OUTPUT


def to_float32(loaded: Any, folder: Path) -> bytes:
    """Converts a model, without quantizing anything.

    Args:
        loaded: a SavedModel with a signature `pixels`, float32 `[batch, height, width, 3]`, to
            `probabilities`, float32 `[batch, classes]`.
        folder: for what is converted; empty or missing.

    Returns:
        A TFLite flatbuffer of batch size 1, whose signature keeps the two names.

    Raises:
        ModelError: the SavedModel has no such signature.
    """
    _save_single_image(loaded, folder)
    # Only of what was saved here: TensorFlow 2.16 aborts on a Keras 3 model's own.
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[INPUT])
    return bytes(converter.convert())


def _save_single_image(loaded: Any, folder: Path) -> None:
    classify = signature(loaded, INPUT)
    shape = classify.structured_input_signature[1][INPUT].shape

    @tf.function(
        input_signature=[tf.TensorSpec([1, *shape[1:]], tf.float32, INPUT)], autograph=False
    )
    def single_image(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: classify(**{INPUT: pixels})[OUTPUT]}

    module = tf.Module()
    module.weights = list(classify.variables)
    tf.saved_model.save(module, str(folder), signatures={INPUT: single_image})
