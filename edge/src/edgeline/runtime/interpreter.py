"""TFLite models as functions from pixels to probabilities."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgeline.errors import ModelError

_INPUT = "pixels"
_OUTPUT = "probabilities"


class PixelModel:
    """A TFLite model with the signature `pixels` -> `probabilities`, batch 1.

    Integer inputs and outputs are converted with the model's own scale and zero point, so that
    callers see float32 whatever the variant. Not safe to call from two threads at once.

    Args:
        content: The model file's bytes.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        classes: How many probabilities to expect.
        num_threads: Threads for one inference.
        xnnpack: Whether XNNPACK computes what it can, several times faster than TFLite's own
            kernels.

    Raises:
        ModelError: the bytes are not a TFLite model, or one of another shape.
    """

    def __init__(
        self,
        content: bytes,
        *,
        height: int,
        width: int,
        classes: int,
        num_threads: int,
        xnnpack: bool = True,
    ) -> None:
        try:
            interpreter = Interpreter(
                model_content=content,
                num_threads=num_threads,
                experimental_op_resolver_type=OpResolverType.BUILTIN
                if xnnpack
                else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._run = interpreter.get_signature_runner(_signature(interpreter))
            self._input = self._run.get_input_details()[_INPUT]
            self._output = self._run.get_output_details()[_OUTPUT]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"The model cannot be loaded as TFLite: {error}") from error
        _check_tensor(_INPUT, self._input, [1, height, width, 3])
        _check_tensor(_OUTPUT, self._output, [1, classes])

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities, `[classes]`, for pixels `[height, width, 3]`.

        Raises:
            ModelError: the model fails on them, or gives a number that is not finite.
        """
        try:
            outputs = self._run(**{_INPUT: _quantize(pixels[None], self._input)})
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"The model failed on an image: {error}") from error
        probabilities = _dequantize(outputs[_OUTPUT][0], self._output)
        if not np.isfinite(probabilities).all():
            raise ModelError(
                "The model gave a probability that is not a finite number. The file is intact, so "
                "its weights are unusable: go back to an earlier release"
            )
        return probabilities


def _signature(interpreter: Interpreter) -> str:
    """Return the key of the one signature that takes pixels and gives probabilities."""
    signatures = interpreter.get_signature_list()
    for key, signature in signatures.items():
        if signature == {"inputs": [_INPUT], "outputs": [_OUTPUT]}:
            return str(key)
    raise ModelError(
        f"The model has no signature {_INPUT} -> {_OUTPUT}; its signatures are {signatures}"
    )


def _check_tensor(name: str, details: dict[str, Any], shape: list[int]) -> None:
    found = details["shape"].tolist()
    if found != shape:
        raise ModelError(
            f"The model does not fit its preprocessing contract: expected {name} of shape {shape}, "
            f"got {found}"
        )
    if details["dtype"] == np.float32:
        return
    scale, _ = details["quantization"]
    if details["dtype"] not in (np.int8, np.uint8, np.int16) or not scale > 0:
        raise ModelError(
            f"The model's {name} should be float32, or quantized int8, uint8 or int16 with one "
            f"scale; got {np.dtype(details['dtype']).name} with scale {scale}"
        )


def _quantize(values: NDArray[np.float32], details: dict[str, Any]) -> NDArray[Any]:
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    rounded = np.round(values / np.float32(scale)) + zero_point
    return np.clip(rounded, limits.min, limits.max).astype(details["dtype"])


def _dequantize(values: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    if details["dtype"] == np.float32:
        return np.asarray(values, np.float32)
    scale, zero_point = details["quantization"]
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
