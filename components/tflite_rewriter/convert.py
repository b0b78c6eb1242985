"""Converts a SavedModel's `pixels` signature to one TFLite variant.

What is converted is not that SavedModel but one made of it by `save_single_image`, which holds
nothing else: a third of the time, two thirds of the memory, and it is made once for all variants.

Integer variants take two steps: `calibrate` runs real images through the network and notes the
range of every tensor, which is slow; `quantize` turns that into integers in about a second, as
often as one likes. TensorFlow's converter does the same two in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize

INPUT = "pixels"
OUTPUT = "probabilities"
PIXEL_RANGE = (0.0, 1.0)


Pixels = Iterable[NDArray[np.float32]]  # images, `[height, width, 3]` each; iterated again


def save_single_image(loaded: Any, folder: Path) -> None:
    """Saves what converting needs of a SavedModel: its signature `pixels`, of one image.

    Args:
        loaded: a SavedModel with a signature `pixels`, float32 `[batch, height, width, 3]`, to
            `probabilities`, float32 `[batch, classes]`.
        folder: of the new one, whose `batch` is 1.
    """
    signature = loaded.signatures[INPUT]
    shape = signature.structured_input_signature[1][INPUT].shape

    @tf.function(input_signature=[tf.TensorSpec([1, *shape[1:]], tf.float32, INPUT)])
    def single_image(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: signature(**{INPUT: pixels})[OUTPUT]}

    module = tf.Module()
    module.weights = list(signature.variables)
    tf.saved_model.save(module, str(folder), signatures={INPUT: single_image})


def convert(single_image: Path, variant: str, pixels: Pixels) -> bytes:
    """Converts a model to a variant, other than those made by `quantize`.

    Args:
        single_image: what `save_single_image` saved.
        variant: a name in `variants.VARIANTS`.
        pixels: images to calibrate `int16x8` with.

    Returns:
        A TFLite flatbuffer of batch size 1, whose signature keeps the two names.
    """
    return _CONVERSIONS[variant](_converter(single_image), pixels)


def calibrate(single_image: Path, pixels: Pixels) -> bytes:
    """Converts a model to float32 with the range of every tensor on the images; see `quantize`."""
    converter = _converter(single_image)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(pixels)
    converter._experimental_calibrate_only = True
    return _with_pixel_range(converter.convert())


def quantize(
    calibrated: bytes, keep_float: Sequence[str] = (), *, integer_io: bool = False
) -> bytes:
    """Quantizes a calibrated model to int8.

    Args:
        calibrated: of `calibrate`.
        keep_float: names of the layers that stay float32, by their output tensors.
        integer_io: whether input and output are uint8, not float32.
    """
    io_type = tf.uint8 if integer_io else tf.float32
    return bytes(
        mlir_quantize(
            calibrated,
            input_data_type=io_type,
            output_data_type=io_type,
            denylisted_nodes=list(keep_float),
        )
    )


def _converter(single_image: Path) -> tf.lite.TFLiteConverter:
    # Only of what `save_single_image` saved: TensorFlow 2.16 aborts on a Keras 3 model's own.
    return tf.lite.TFLiteConverter.from_saved_model(str(single_image), signature_keys=[INPUT])


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


def _one_by_one(pixels: Pixels) -> Callable[[], Iterator[list[NDArray[np.float32]]]]:
    return lambda: ([image[np.newaxis]] for image in pixels)


def _float32(converter: tf.lite.TFLiteConverter, _: Pixels) -> bytes:
    return bytes(converter.convert())


def _float16(converter: tf.lite.TFLiteConverter, _: Pixels) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def _dynamic(converter: tf.lite.TFLiteConverter, _: Pixels) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def _int16x8(converter: tf.lite.TFLiteConverter, pixels: Pixels) -> bytes:
    """The newer quantizer that `quantize` calls has no 16-bit activations; the older one does."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = _one_by_one(pixels)
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    return bytes(converter.convert())


_CONVERSIONS: dict[str, Callable[[tf.lite.TFLiteConverter, Pixels], bytes]] = {
    "float32": _float32,
    "float16": _float16,
    "dynamic": _dynamic,
    "int16x8": _int16x8,
}
