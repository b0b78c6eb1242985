"""Converts a SavedModel's `pixels` signature to one TFLite variant.

Integer variants take two steps: `calibrate` runs real images through the network and notes the
range of every tensor, which is slow; `quantize` turns that into integers in about a second, as
often as one likes. TensorFlow's converter does the same two in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize

INPUT = "pixels"
OUTPUT = "probabilities"
PIXEL_RANGE = (0.0, 1.0)


def convert(loaded: Any, variant: str, pixels: NDArray[np.float32]) -> bytes:
    """Converts a model to a variant, other than `int8_selective`.

    Args:
        loaded: a SavedModel with a signature `pixels`, float32 `[batch, height, width, 3]`, to
            `probabilities`, float32 `[batch, classes]`.
        variant: a name in `variants.VARIANTS`.
        pixels: images to calibrate integer variants with, float32 `[images, height, width, 3]`.

    Returns:
        A TFLite flatbuffer of batch size 1, whose signature keeps the two names.
    """
    return _CONVERSIONS[variant](_converter(loaded), pixels)


def calibrate(loaded: Any, pixels: NDArray[np.float32]) -> bytes:
    """Converts a model to float32 with the range of every tensor on the images; see `quantize`."""
    return _calibrate(_converter(loaded), pixels)


def quantize(calibrated: bytes, keep_float: Sequence[str] = ()) -> bytes:
    """Quantizes a calibrated model to int8 with float32 input and output.

    Args:
        calibrated: of `calibrate`.
        keep_float: names of the layers that stay float32, by their output tensors.
    """
    return bytes(mlir_quantize(calibrated, denylisted_nodes=list(keep_float)))


def _converter(loaded: Any) -> tf.lite.TFLiteConverter:
    signature = loaded.signatures[INPUT]
    shape = signature.structured_input_signature[1][INPUT].shape

    @tf.function(input_signature=[tf.TensorSpec([1, *shape[1:]], tf.float32, INPUT)])
    def single_image(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: signature(**{INPUT: pixels})[OUTPUT]}

    # Not from_saved_model: in TensorFlow 2.16 it aborts on a SavedModel of a Keras 3 model.
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [single_image.get_concrete_function()], loaded
    )


def _calibrate(converter: tf.lite.TFLiteConverter, pixels: NDArray[np.float32]) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(pixels)
    converter._experimental_calibrate_only = True
    return _with_pixel_range(converter.convert())


def _with_pixel_range(calibrated: bytes) -> bytes:
    """States the input's range, which images that happen to be dim would understate.

    It makes the scale of an 8-bit input exactly 1/255: raw pixels pass as they are.
    """
    content = bytearray(calibrated)
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    seen = graph.Tensors(graph.Inputs(0)).Quantization()
    # Both are views into `content`.
    seen.MinAsNumpy()[:], seen.MaxAsNumpy()[:] = PIXEL_RANGE
    return bytes(content)


def _one_by_one(pixels: NDArray[np.float32]) -> Callable[[], Iterator[list[NDArray[np.float32]]]]:
    return lambda: ([image[np.newaxis]] for image in pixels)


def _float32(converter: tf.lite.TFLiteConverter, _: NDArray[np.float32]) -> bytes:
    return bytes(converter.convert())


def _float16(converter: tf.lite.TFLiteConverter, _: NDArray[np.float32]) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def _dynamic(converter: tf.lite.TFLiteConverter, _: NDArray[np.float32]) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def _int8(converter: tf.lite.TFLiteConverter, pixels: NDArray[np.float32]) -> bytes:
    return quantize(_calibrate(converter, pixels))


def _int8_io(converter: tf.lite.TFLiteConverter, pixels: NDArray[np.float32]) -> bytes:
    calibrated = _calibrate(converter, pixels)
    return bytes(mlir_quantize(calibrated, input_data_type=tf.uint8, output_data_type=tf.uint8))


def _int16x8(converter: tf.lite.TFLiteConverter, pixels: NDArray[np.float32]) -> bytes:
    """The newer quantizer that `quantize` calls has no 16-bit activations; the older one does."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(pixels)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    return bytes(converter.convert())


_CONVERSIONS: dict[str, Callable[[tf.lite.TFLiteConverter, NDArray[np.float32]], bytes]] = {
    "float32": _float32,
    "float16": _float16,
    "dynamic": _dynamic,
    "int8": _int8,
    "int8_io": _int8_io,
    "int16x8": _int16x8,
}
