"""Small TFLite models: a float one, a quantized one, and some that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np

SIDE = 8  # px, of their input


def make_models(folder: Path) -> None:
    """Write them to `folder`, which is there."""
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
    (folder / "newer.tflite").write_bytes(_newer((folder / "float32.tflite").read_bytes()))


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


def _newer(model: bytes) -> bytes:
    """A model with operations of a version that the interpreter is too old for."""
    from components.tflite_rewriter.flatbuffer import pack, unpack

    table = unpack(model)
    for code in table.operatorCodes:
        code.version = 99
    return pack(table)


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
