"""Makes variants of a float32 TFLite file by LiteRT Quantizer's recipes, in about a second each.

What a recipe can't do for an operation, the quantizer leaves in float without a word: `check` is
what finds that.

Integers need the range of every tensor: the least and the largest value on the calibration images.
The quantizer's own way, a moving average over the images, cuts off what only some of them reach; on
an untrained DenseNet121 the answers of int8 then agree with float on 81% of the images, not on 99%.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np

# Under NumPy 1.26 the quantizer uses it without having imported it.
import numpy.typing
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer.calibrator import Calibrator
from litert_quantizer.qtyping import (
    ComputePrecision,
    OpQuantizationConfig,
    QuantGranularity,
    TensorDataType,
    TensorQuantizationConfig,
)
from litert_quantizer.quantizer import AlgorithmName, Quantizer
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils.qsv_utils import min_max_update
from numpy.typing import NDArray

from components.tflite_rewriter.check import INPUT, Op
from components.tflite_rewriter.flatbuffer import pack, unpack
from components.tflite_rewriter.variants import VARIANTS, Recipe, Variant

PIXEL_RANGE = (0.0, 1.0)
THREADS = 1  # more add up ranges no faster
_ALL = "*"  # operations
# Patterns of the names of their outputs. The last that was added counts, and each only once.
_EVERYWHERE = ".*"
_INPUTS_AND_OUTPUTS = "^"
_BITS = {"FLOAT16": 16, "INT16": 16, "INT8": 8, "INT4": 4}
_WITHOUT_INT4 = frozenset({"DEPTHWISE_CONV_2D"})
_SMALL = 0.05  # of all weights
_UINT8 = OpQuantizationConfig(
    TensorQuantizationConfig(8, symmetric=False, dtype=TensorDataType.UINT),
    TensorQuantizationConfig(8, granularity=QuantGranularity.CHANNELWISE),
    ComputePrecision.INTEGER,
)

# By tensor: "min" and "max", float32 arrays of one value and the tensor's rank.
Ranges = dict[str, dict[str, NDArray[np.float32]]]


def calibrate(float32: bytes, pixels: Iterable[NDArray[np.float32]]) -> Ranges:
    """Finds the range of every tensor on the images, but for the input, whose range is known.

    It makes the scale of an 8-bit input exactly 1/255: raw pixels pass as they are, though images
    that happen to be dim would understate it.

    Args:
        float32: a TFLite file with the signature `pixels`.
        pixels: images, `[height, width, 3]` each; iterated twice.
    """
    calibrator = Calibrator(float32, num_threads=THREADS, qsv_update_func=min_max_update)
    calibrator.calibrate({INPUT: Samples(pixels)}, recipe_manager(Recipe("int8")))
    ranges: Ranges = calibrator.get_model_qsvs()
    runner = Interpreter(model_content=float32).get_signature_runner()
    seen = ranges[runner.get_input_details()[INPUT]["name"]]
    for end, value in zip(("min", "max"), PIXEL_RANGE, strict=True):
        seen[end] = np.full_like(seen[end], value, np.float32)
    return ranges


def ranges_to_json(ranges: Ranges) -> str:
    """Writes them for another process."""
    lists = {
        name: {end: value.tolist() for end, value in seen.items()} for name, seen in ranges.items()
    }
    return json.dumps(lists)


def ranges_from_json(content: str) -> Ranges:
    """Reads what `ranges_to_json` wrote."""
    return {
        name: {end: np.array(value, np.float32) for end, value in seen.items()}
        for name, seen in json.loads(content).items()
    }


def whole(variant: str, layers: Iterable[Op]) -> Recipe:
    """Every layer as one variant, as far as the runtime has kernels for that.

    But for the last dense layer in four bits: where it is a small part of the weights, it has
    eight, which cost next to nothing and keep the answers nearer to the float model's.
    """
    eight_bits = VARIANTS[variant].eight_bits
    if eight_bits is None:
        return Recipe(variant)
    layers = list(layers)
    small = _SMALL * sum(op.kernel_values for op in layers)
    dense = [op for op in layers if op.kind == "FULLY_CONNECTED"]
    others = [op.name for op in layers if op.kind in _WITHOUT_INT4]
    others += [op.name for op in dense[-1:] if op.kernel_values <= small]
    return Recipe(variant, dict.fromkeys(others, eight_bits))


def quantize(float32: bytes, recipe: Recipe, ranges: Ranges) -> bytes:
    """Makes a variant.

    Args:
        float32: a TFLite file.
        recipe: what to make of it.
        ranges: of `calibrate`; an empty one will do where no layer computes in integers.
    """
    if recipe == Recipe("float32"):
        return float32
    return pack(unpack(quantize_unpacked(float32, recipe, ranges)))


def quantize_unpacked(float32: bytes, recipe: Recipe, ranges: Ranges) -> bytes:
    """As `quantize`, in half the time: a file that can be run, but may not be kept.

    Weights may be outside its tables, where they are not aligned.
    """
    quantizer = Quantizer(float32, recipe_manager(recipe).get_quantization_recipe())
    made = quantizer.quantize(
        ranges if recipe.calibrated else None,
        enable_progress_bar=False,
        enable_progress_report=False,
    )
    return bytes(made.quantized_model)


def recipe_manager(recipe: Recipe) -> RecipeManager:
    """A recipe in the quantizer's words."""
    manager = RecipeManager()
    everywhere = VARIANTS[recipe.everywhere]
    _add(manager, _EVERYWHERE, everywhere)
    for name in sorted(set(recipe.layers.values())):
        layers = sorted(layer for layer, choice in recipe.layers.items() if choice == name)
        # The quantizer appends a semicolon to each name.
        _add(manager, f"^(?:{'|'.join(map(re.escape, layers))});?$", VARIANTS[name])
    for side in ("INPUT", "OUTPUT"):
        if everywhere.io == "UINT8":
            manager.add_quantization_config(_INPUTS_AND_OUTPUTS, side, _UINT8)
        else:
            _leave(manager, _INPUTS_AND_OUTPUTS, side)
    return manager


def _add(manager: RecipeManager, pattern: str, variant: Variant) -> None:
    if variant.weights == "FLOAT32":
        _leave(manager, pattern, _ALL)
    elif variant.integer:
        bits = _BITS[variant.activations], _BITS[variant.weights]
        manager.add_static_config(pattern, _ALL, *bits)
    elif variant.activations == "DYNAMIC":
        manager.add_dynamic_config(pattern, _ALL, _BITS[variant.weights])
    else:
        algorithm = (
            AlgorithmName.FLOAT_CASTING
            if variant.weights == "FLOAT16"
            else AlgorithmName.MIN_MAX_UNIFORM_QUANT
        )
        manager.add_weight_only_config(
            pattern, _ALL, _BITS[variant.weights], algorithm_key=algorithm
        )


def _leave(manager: RecipeManager, pattern: str, operation: str) -> None:
    manager.add_quantization_config(pattern, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)


class Samples:
    """Inputs by name, made as they are asked for; the calibrator counts them first."""

    def __init__(self, pixels: Iterable[NDArray[np.float32]]) -> None:
        self._pixels = pixels

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        return ({INPUT: image[np.newaxis]} for image in self._pixels)
