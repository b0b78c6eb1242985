"""Checks a converted file against what was asked for: an option that wasn't honoured is an error.

The flatbuffer says, op by op, in which types a model computes; the interpreter that devices use
says whether it runs, and how far its answers are from those of the float model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils as schema
from numpy.typing import NDArray

from components.tflite_models import Parity
from components.tflite_rewriter.images import StoredPixels
from components.tflite_rewriter.variants import VARIANTS, Recipe, Variant
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import cores

INPUT = "pixels"
OUTPUT = "probabilities"
FLOAT_TYPES = frozenset({"FLOAT16", "FLOAT32"})
MAX_FLOAT32_DIFFERENCE = 1e-3  # of a probability, from the float model

_TYPE_NAMES = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
_OP_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
THREADS = cores()
# Ops that carry values between float and integer parts, and belong to neither.
_BRIDGES = frozenset({"QUANTIZE", "DEQUANTIZE"})
_WITH_KERNEL = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


class CheckError(Exception):
    """A file is not what was asked for."""


@dataclass(frozen=True)
class Op:
    """One operation of a model.

    Attributes:
        name: of its first output tensor, by which recipes know it.
        inputs: names of the tensors that it reads and that are not constant.
        kind: "CONV_2D" and so on; a custom op's own name.
        custom: not one of TFLite's built-in operations; Flex ops are custom ops.
        types: of all its tensors, "INT8" and so on.
        weights: types of those among them that are constant.
        kernel: type of what a convolution or a dense layer multiplies with, as it is stored, if
            that is constant.
        kernel_values: how many numbers that has.
        unpacked: whether a DEQUANTIZE makes floats of it before.
    """

    name: str
    inputs: tuple[str, ...]
    kind: str
    custom: bool
    types: frozenset[str]
    weights: frozenset[str]
    kernel: str | None = None
    kernel_values: int = 0
    unpacked: bool = False

    @property
    def computes_in_float(self) -> bool:
        """Whether floating-point numbers go in or come out, other than to be converted."""
        return self.kind not in _BRIDGES and bool(self.types & FLOAT_TYPES)


def read_ops(model: bytes) -> list[Op]:
    """Reads every operation of a TFLite flatbuffer, in order of execution."""
    table = schema.ModelT.InitFromPackedBuf(model)
    graphs = [(graph, _unpacked(table, graph)) for graph in table.subgraphs]
    return [_read_op(table, graph, op, made) for graph, made in graphs for op in graph.operators]


def check(
    model: bytes,
    variant: str,
    classes: int,
    pixels: NDArray[np.float32],
    expected: NDArray[np.float32],
    recipe: Recipe | None = None,
) -> Parity:
    """Checks signature, types, operations and answers of a converted file.

    Args:
        model: its content.
        variant: what it claims to be.
        classes: how many labels there are.
        pixels: images to try, float32 `[images, height, width, 3]`.
        expected: what the float model says of them, `[images, classes]`.
        recipe: what each layer claims to be; by default all are the variant.

    Returns:
        How far the answers are from those expected.

    Raises:
        CheckError: says what was expected and what the file has instead.
    """
    ops = read_ops(model)
    _check_builtin(ops)
    _check_layers(ops, recipe or Recipe(variant))
    _check_signature(model, VARIANTS[variant], pixels.shape[1:], classes)
    return _check_answers(predict(model, pixels, classes), expected, variant)


def predict(
    model: bytes, pixels: NDArray[np.float32] | StoredPixels, classes: int
) -> NDArray[np.float32]:
    """Runs a file over images as a device does, one by one.

    Returns:
        Probabilities, `[images, classes]`.

    Raises:
        edgeline.errors.ModelError: the file can't be run, or its answers are not finite numbers.
    """
    run = runner(model, pixels.shape, classes)
    return np.stack([run(image) for image in pixels])


def runner(model: bytes, shape: tuple[int, ...], classes: int) -> PixelModel:
    """What runs a file on images of a shape, `(images, height, width, 3)`.

    Raises:
        edgeline.errors.ModelError: the file can't be run.
    """
    _, height, width, _ = shape
    return PixelModel(model, height=height, width=width, classes=classes, num_threads=THREADS)


def _unpacked(table: schema.ModelT, graph: schema.SubGraphT) -> dict[int, int]:
    """The constants of which a DEQUANTIZE makes floats, by the tensors that these are."""
    return {
        op.outputs[0]: op.inputs[0]
        for op in graph.operators
        if _kind(table, op) == "DEQUANTIZE" and _constant(table, graph.tensors[op.inputs[0]])
    }


def _read_op(
    table: schema.ModelT, graph: schema.SubGraphT, op: schema.OperatorT, unpacked: dict[int, int]
) -> Op:
    tensors, kind = graph.tensors, _kind(table, op)
    used = [tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0]
    multiplies = op.inputs[1] if kind in _WITH_KERNEL else None
    kernel = None if multiplies is None else tensors[unpacked.get(multiplies, multiplies)]
    kernel = kernel if kernel and _constant(table, kernel) else None
    return Op(
        name=tensors[op.outputs[0]].name.decode(),
        inputs=tuple(
            tensors[index].name.decode()
            for index in op.inputs
            if index >= 0 and not _constant(table, tensors[index])
        ),
        kind=kind,
        custom=_builtin(table, op) == schema.BuiltinOperator.CUSTOM,
        types=frozenset(_TYPE_NAMES[tensor.type] for tensor in used),
        weights=frozenset(_TYPE_NAMES[t.type] for t in used if _constant(table, t)),
        kernel=_TYPE_NAMES[kernel.type] if kernel else None,
        kernel_values=int(np.prod(kernel.shape)) if kernel else 0,
        unpacked=multiplies in unpacked,
    )


def _kind(table: schema.ModelT, op: schema.OperatorT) -> str:
    builtin = _builtin(table, op)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return str(table.operatorCodes[op.opcodeIndex].customCode.decode())
    return _OP_NAMES[builtin]


def _builtin(table: schema.ModelT, op: schema.OperatorT) -> int:
    code = table.operatorCodes[op.opcodeIndex]
    # Codes above 127 don't fit the old field, which small codes still use.
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _constant(table: schema.ModelT, tensor: schema.TensorT) -> bool:
    return table.buffers[tensor.buffer].data is not None


def _check_builtin(ops: list[Op]) -> None:
    custom = sorted({op.kind for op in ops if op.custom})
    if custom:
        raise CheckError(f"expected built-in operations only, the file has: {', '.join(custom)}")


def _check_layers(ops: list[Op], recipe: Recipe) -> None:
    """Every op is what the recipe has it be; also what the quantizer can't do, and says nothing."""
    everywhere = VARIANTS[recipe.everywhere]
    small = everywhere.weights != "FLOAT32" and not everywhere.integer
    if small and not any(op.kernel for op in ops):
        raise CheckError(f"expected {everywhere.weights.lower()} weights, no operation has any")
    asked = [(op, recipe.variant_of(op.name)) for op in ops]
    others = [
        f"{op.name} (expected {variant.quantization}; it has {op.kernel or 'floats'})"
        for op, variant in asked
        if not _is_as_asked(op, variant)
    ]
    if others:
        raise CheckError(
            f"expected operations as the recipe has them, {len(others)} of {len(ops)} are not: "
            f"{_some(others)}"
        )


def _is_as_asked(op: Op, variant: Variant) -> bool:
    if variant.integer and op.computes_in_float:
        return False
    unpacked = variant.activations == "FLOAT32" and variant.weights != "FLOAT32"
    return op.kernel is None or (op.kernel, op.unpacked) == (variant.weights, unpacked)


def _check_signature(
    model: bytes, variant: Variant, image_shape: tuple[int, ...], classes: int
) -> None:
    runner = Interpreter(model_content=model).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    if list(inputs) != [INPUT] or list(outputs) != [OUTPUT]:
        raise CheckError(
            f"expected the signature {INPUT} -> {OUTPUT}, the file has "
            f"{', '.join(inputs)} -> {', '.join(outputs)}"
        )
    dtype = np.dtype(variant.io.lower())
    expectations = ((inputs[INPUT], [1, *image_shape]), (outputs[OUTPUT], [1, classes]))
    for details, shape in expectations:
        found = details["shape"].tolist(), np.dtype(details["dtype"])
        if found != (shape, dtype):
            raise CheckError(
                f"expected {details['name']} to be {dtype} {shape}, it is {found[1]} {found[0]}"
            )
    if dtype == np.uint8:
        _check_raw_pixels_pass(inputs[INPUT]["quantization"])


def _check_raw_pixels_pass(quantization: tuple[float, int]) -> None:
    """Whoever has an 8-bit image hands it over as it is."""
    scale, zero_point = quantization
    if not np.isclose(scale, 1 / 255, rtol=1e-5) or zero_point != 0:
        raise CheckError(
            f"expected {INPUT} with scale 1/255 and zero point 0, so that 8-bit pixels pass; "
            f"the file has scale {scale:g} and zero point {zero_point}"
        )


def _check_answers(
    answers: NDArray[np.float32], expected: NDArray[np.float32], variant: str
) -> Parity:
    differences = np.abs(answers - expected)
    parity = Parity(
        images=len(answers),
        max_difference=round(float(differences.max()), 6),
        mean_difference=round(float(differences.mean()), 6),
    )
    if variant == "float32" and parity.max_difference > MAX_FLOAT32_DIFFERENCE:
        raise CheckError(
            f"expected probabilities within {MAX_FLOAT32_DIFFERENCE:g} of the SavedModel's, "
            f"the largest difference is {parity.max_difference:g}"
        )
    return parity


def _some(names: Collection[str], most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
