"""Which layers bring the difference between a quantized file and the float one it was made from."""

from __future__ import annotations

import math
import warnings

import numpy as np
from litert_quantizer import model_validator
from litert_quantizer.utils.validation_utils import ValidationErrorMetric
from numpy.typing import NDArray

from components.tflite_models import LayerError
from components.tflite_rewriter.check import INPUT, THREADS, read_ops

MOST = 3  # layers of a file
SNR = ValidationErrorMetric.SNR


def layer_errors(
    float32: bytes, model: bytes, pixels: NDArray[np.float32], most: int = MOST
) -> list[LayerError]:
    """Compares what each layer gives, and finds those after which the error has grown most.

    A layer that only passes on the error of the one before it is not among them.

    Args:
        float32: content of the float file.
        model: content of a file that was made from it.
        pixels: images to run through both, float32 `[images, height, width, 3]`.
        most: layers to return.

    Returns:
        The largest growth first.
    """
    samples = [{INPUT: image[np.newaxis]} for image in pixels]
    with warnings.catch_warnings():
        # That keeping each layer's output takes memory.
        warnings.simplefilter("ignore", UserWarning)
        compared = model_validator.compare_model(
            float32, model, {INPUT: samples}, [SNR], num_threads=THREADS
        )
    errors = {
        name: _relative(metrics[SNR.value])
        for name, metrics in compared.get_all_tensor_results().items()
    }
    found = [
        LayerError(op.name, errors[op.name], max(errors.get(name, 0.0) for name in op.inputs))
        for op in read_ops(float32)
        if op.name in errors and op.inputs
    ]
    grown = [layer for layer in found if layer.error > layer.before]
    return sorted(grown, key=lambda layer: layer.before - layer.error)[:most]


def _relative(signal_to_noise: float) -> float:
    """The error as a share of the signal, both root mean squares; 0 of no signal at all."""
    return round(1 / math.sqrt(signal_to_noise), 6) if signal_to_noise > 0 else 0.0
