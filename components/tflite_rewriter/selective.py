"""Quantizes to int8 all but the fewest layers, so that accuracy stays within a budget.

Which layers cost the accuracy can't be read off the network. Three suspicions give three orders in
which to try layers:

- the layers with the largest error of their own;
- batch norms that follow a concatenation or pooling and so can't fold into a convolution, 62 of
  them in DenseNet121: they are element-wise operations, and again the largest error comes first;
- the layers nearest the output, which amplify what went wrong before.

The first 1, 2, 4, ... layers of each order stay float until the accuracy is good enough; then as
many as possible are taken back. A trial is quick, because calibration is done once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python.convert import mlir_quantize

from components.tflite_models import KeptLayer
from components.tflite_rewriter.check import Op, predict, read_ops
from components.tflite_rewriter.convert import quantize
from components.tflite_rewriter.images import StoredPixels

DEBUGGED_IMAGES = 32
MAX_TRIALS = 40  # quantizing and evaluating takes 2 to 10 s for DenseNet121
ELEMENT_WISE = frozenset({"ADD", "MUL", "SUB"})
_VERIFY_PREFIX = "NumericVerify/"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a trial is measured on.

    Attributes:
        pixels: of the images.
        label_ids: int64 `[images]`.
        float_model: probabilities that the float model gives, `[images, classes]`.
    """

    pixels: StoredPixels
    label_ids: NDArray[np.int64]
    float_model: NDArray[np.float32]

    def drop(self, model: bytes) -> float:
        """The accuracy that a TFLite file loses against the float model."""
        answers = predict(model, self.pixels, classes=self.float_model.shape[1])
        return self._accuracy(self.float_model) - self._accuracy(answers)

    def _accuracy(self, probabilities: NDArray[np.float32]) -> float:
        return float((probabilities.argmax(axis=1) == self.label_ids).mean())


@dataclass(frozen=True)
class Selective:
    """A chosen model.

    Attributes:
        model: TFLite flatbuffer.
        kept_float: the layers that are float in it.
        note: what was measured, in words.
    """

    model: bytes
    kept_float: tuple[KeptLayer, ...]
    note: str


def quantize_selectively(
    calibrated: bytes, pixels: NDArray[np.float32], evaluation: Evaluation, max_drop: float
) -> Selective:
    """Keeps the fewest layers in float with which the accuracy drops by at most `max_drop`.

    Args:
        calibrated: of `convert.calibrate`.
        pixels: images to measure each layer's error on, float32 `[images, height, width, 3]`; more
            than `DEBUGGED_IMAGES` don't move the figures.
        evaluation: images to measure accuracy on; not those that judge the result.
        max_drop: a fraction.

    Returns:
        The best there is: where even all layers in float are not enough, it has them all in float,
        and the note says so.
    """
    trials = _Trials(calibrated, evaluation, max_drop)
    integer_drop = trials.drop(())
    images = f"on {len(evaluation.pixels)} images of the eval split"
    if trials.suffices(()):
        note = f"the same as int8, whose drop is {integer_drop:.4f} {images}"
        return Selective(quantize(calibrated), (), note)

    ops = read_ops(calibrated)
    errors = layer_errors(calibrated, pixels)
    chosen = _search(trials, _orders(ops, errors))
    model = quantize(calibrated, chosen)
    # Not all that were chosen: an operation that only moves values may go on doing so in int8.
    kept = [op for op in read_ops(model) if op.computes_in_float]
    even = "with" if trials.suffices(chosen) else "even with"
    note = (
        f"int8 drops {integer_drop:.4f} {images}, more than {max_drop:g}; "
        f"{even} {len(kept)} of {len(errors)} layers in float the drop is "
        f"{trials.drop(chosen):.4f}"
    )
    layers = tuple(KeptLayer(op.name, op.kind, round(errors[op.name], 4)) for op in kept)
    return Selective(model, layers, note)


def layer_errors(calibrated: bytes, pixels: NDArray[np.float32]) -> dict[str, float]:
    """How far each layer's int8 output is from float, given the same input.

    Returns:
        By layer, the root of the mean squared error, in steps of the output's scale. Rounding alone
        makes 0.29; more means that the range is too small or the weights are too coarse.
    """
    debugger = tf.lite.experimental.QuantizationDebugger(
        quant_debug_model_content=mlir_quantize(calibrated, enable_numeric_verify=True),
        debug_dataset=lambda: ([image[np.newaxis]] for image in pixels),
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            layer_direct_compare_metrics={"error": _error_in_steps}
        ),
    )
    debugger.run()
    names = {op.name for op in read_ops(calibrated)}
    errors = {}
    for verified, metrics in debugger.layer_statistics.items():
        name = verified.removeprefix(_VERIFY_PREFIX).rsplit(":", 1)[0]
        # The converter appends a digit where the name would otherwise be taken.
        errors[name if name in names else name[:-1]] = float(metrics["error"])
    return errors


def _error_in_steps(
    expected: NDArray[np.float32], quantized: NDArray[np.int8], scale: float, zero_point: int
) -> float:
    difference = expected / scale - (quantized.astype(np.float32) - zero_point)
    return float(np.sqrt(np.mean(difference**2)))


class _Trials:
    """Quantizes with some layers in float and measures, each combination once."""

    def __init__(self, calibrated: bytes, evaluation: Evaluation, max_drop: float) -> None:
        self._calibrated = calibrated
        self._evaluation = evaluation
        self._max_drop = max_drop
        self._drops: dict[frozenset[str], float] = {}

    @property
    def exhausted(self) -> bool:
        return len(self._drops) >= MAX_TRIALS

    def drop(self, kept: Sequence[str]) -> float:
        key = frozenset(kept)
        if key not in self._drops:
            self._drops[key] = self._evaluation.drop(quantize(self._calibrated, sorted(key)))
        return self._drops[key]

    def suffices(self, kept: Sequence[str]) -> bool:
        return self.drop(kept) <= self._max_drop


def _orders(ops: Sequence[Op], errors: Mapping[str, float]) -> list[list[str]]:
    layers = [op for op in ops if op.name in errors]
    by_error = sorted(layers, key=lambda op: -errors[op.name])
    element_wise_first = sorted(by_error, key=lambda op: op.kind not in ELEMENT_WISE)
    from_the_output = layers[::-1]
    orders = (from_the_output, by_error, element_wise_first)
    return [[op.name for op in order] for order in orders]


def _search(trials: _Trials, orders: Sequence[Sequence[str]]) -> list[str]:
    """Returns the layers to keep; all of them, if nothing suffices."""
    everything = len(orders[0])
    too_few, size = 0, 1
    while True:
        for order in orders:
            if trials.suffices(order[:size]):
                return _prune(trials, _shorten(trials, order, too_few, size))
        if size == everything:
            return list(orders[0])
        too_few, size = size, min(2 * size, everything)


def _shorten(trials: _Trials, order: Sequence[str], too_few: int, enough: int) -> list[str]:
    """Bisects for the smallest number of an order's layers that suffices."""
    while enough - too_few > 1 and not trials.exhausted:
        middle = (enough + too_few) // 2
        if trials.suffices(order[:middle]):
            enough = middle
        else:
            too_few = middle
    return list(order[:enough])


def _prune(trials: _Trials, kept: list[str]) -> list[str]:
    """Takes back, one by one, layers that are in the set only for their place in the order."""
    for name in kept[:-1]:  # the last one is needed: without it the set was too small
        if trials.exhausted:
            break
        fewer = [other for other in kept if other != name]
        if trials.suffices(fewer):
            kept = fewer
    return kept
