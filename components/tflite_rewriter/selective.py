"""Quantizes to int8 all but the fewest layers, so that accuracy stays within a budget.

Which layers cost the accuracy can't be read off the network. Three suspicions give three orders in
which to try layers:

- the layers whose output is furthest from float;
- batch norms that follow a concatenation or pooling and so can't fold into a convolution, 62 of
  them in DenseNet121: they are element-wise operations, and again the largest error comes first;
- the layers nearest the output, which amplify what went wrong before.

The first 1, 2, 4, ... layers of each order stay float until the accuracy is good enough; then as
many as possible are taken back. A trial is quick, because calibration is done once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from components.tflite_models import KeptLayer
from components.tflite_rewriter.check import Op, predict, read_ops
from components.tflite_rewriter.images import StoredPixels
from components.tflite_rewriter.recipes import Ranges, quantize
from components.tflite_rewriter.variants import VARIANTS

COMPARED_IMAGES = 32
MAX_TRIALS = 40  # quantizing and evaluating takes 2 to 10 s for DenseNet121
ELEMENT_WISE = frozenset({"ADD", "MUL", "SUB"})
_INT8 = VARIANTS["int8"]


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
    float32: bytes,
    ranges: Ranges,
    pixels: NDArray[np.float32],
    evaluation: Evaluation,
    max_drop: float,
) -> Selective:
    """Keeps the fewest layers in float with which the accuracy drops by at most `max_drop`.

    Args:
        float32: a TFLite file.
        ranges: of `recipes.calibrate`.
        pixels: images to measure each layer's error on, float32 `[images, height, width, 3]`; more
            than `COMPARED_IMAGES` don't move the figures.
        evaluation: images to measure accuracy on; not those that judge the result.
        max_drop: a fraction.

    Returns:
        The best there is: where even all layers in float are not enough, it has them all in float,
        and the note says so.
    """
    int8 = quantize(float32, _INT8, ranges)
    trials = _Trials(float32, ranges, evaluation, max_drop)
    integer_drop = trials.drop(())
    images = f"on {len(evaluation.pixels)} images of the eval split"
    if trials.suffices(()):
        note = f"the same as int8, whose drop is {integer_drop:.4f} {images}"
        return Selective(int8, (), note)

    errors = layer_errors(float32, int8, pixels)
    chosen = _search(trials, _orders(read_ops(float32), errors))
    model = quantize(float32, _INT8, ranges, chosen)
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


def layer_errors(float32: bytes, int8: bytes, pixels: NDArray[np.float32]) -> dict[str, float]:
    """How far each layer's output in int8 is from that in float, on the same images.

    Returns:
        By layer, the root of the mean squared error, in steps of the output's scale. Rounding alone
        makes 0.29; more is what the layer made worse or was given.
    """
    names = {op.name for op in read_ops(float32)}
    exact, rounded = _AllTensors(float32, names), _AllTensors(int8, names)
    squares = dict.fromkeys(rounded.names, 0.0)
    for image in pixels:
        exact.run(image)
        rounded.run(image)
        for name in squares:
            squares[name] += _squared_error(exact, rounded, name)
    return {name: float(np.sqrt(square / len(pixels))) for name, square in squares.items()}


class _AllTensors:
    """A model that keeps what each layer gives."""

    def __init__(self, model: bytes, names: Collection[str]) -> None:
        self._interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        details = self._interpreter.get_tensor_details()
        self._details = {d["name"]: d for d in details if d["name"] in names}

    @property
    def names(self) -> list[str]:
        return list(self._details)

    def run(self, image: NDArray[np.float32]) -> None:
        self._interpreter.set_tensor(self._input["index"], image[np.newaxis])
        self._interpreter.invoke()

    def value(self, name: str) -> tuple[NDArray[np.float32], float, int]:
        """A layer's output as numbers, with their scale and zero point."""
        details = self._details[name]
        scale, zero_point = details["quantization"]
        value = self._interpreter.get_tensor(details["index"]).astype(np.float32)
        return value, scale, zero_point


def _squared_error(exact: _AllTensors, rounded: _AllTensors, name: str) -> float:
    expected, _, _ = exact.value(name)
    quantized, scale, zero_point = rounded.value(name)
    return float(np.mean((expected / scale - (quantized - zero_point)) ** 2))


class _Trials:
    """Quantizes with some layers in float and measures, each combination once."""

    def __init__(
        self, float32: bytes, ranges: Ranges, evaluation: Evaluation, max_drop: float
    ) -> None:
        self._float32 = float32
        self._ranges = ranges
        self._evaluation = evaluation
        self._max_drop = max_drop
        self._drops: dict[frozenset[str], float] = {}

    @property
    def exhausted(self) -> bool:
        return len(self._drops) >= MAX_TRIALS

    def drop(self, kept: Sequence[str]) -> float:
        key = frozenset(kept)
        if key not in self._drops:
            model = quantize(self._float32, _INT8, self._ranges, sorted(key))
            self._drops[key] = self._evaluation.drop(model)
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
