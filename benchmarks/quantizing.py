"""What quantization costs in accuracy, by our recipes and by others, on three kinds of base.

    python -m benchmarks.quantizing [--starts frozen scratch imagenet] [--epochs 12] [--side 64]
        [--precision float32] [--folder FOLDER]

DenseNet121 on ELPV's solar cells, as `benchmarks.accuracy` trains it: (a) "frozen", a head on an
untrained base; (b) "scratch", the whole network; (c) "imagenet", where the weights are on disk.
Trained once: a rerun with the same folder goes on with the models it finds there. Judged on the
656 images that training never sees, by the runtime that devices have. Promised: `int8` of a base
trained from scratch loses at most 0.5 points.

LiteRT Quantizer's GPTQ and OSCAR know fully connected layers only, of which a DenseNet has one:
what the library says of all layers is in the table, too.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from litert_quantizer.calibrator import Calibrator
from litert_quantizer.qtyping import QuantGranularity
from litert_quantizer.quantizer import AlgorithmName, Quantizer
from litert_quantizer.recipe_manager import RecipeManager
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

from benchmarks import elpv
from benchmarks.accuracy import STARTS, STOPPING_SHARE, recipe, trained, weights_there
from benchmarks.elpv import LABELS, Elpv
from components.feature_names import LABEL_ID
from components.intervals import drop_interval
from components.tflite_rewriter.check import INPUT, Op, predict, read_ops
from components.tflite_rewriter.convert import to_float32
from components.tflite_rewriter.flatbuffer import pack, unpack
from components.tflite_rewriter.mixed import divergence
from components.tflite_rewriter.recipes import (
    Ranges,
    Samples,
    calibrate,
    quantize,
    recipe_manager,
    whole,
)
from components.tflite_rewriter.variants import VARIANTS, Recipe
from pipeline.data.preprocessing import PIXELS, contract
from pipeline.training.trainer import save

CALIBRATION_IMAGES = 200
BATCH = 64  # images
MAX_SIDE = 512  # pixels, of the images on devices
THREADS = 2
ALL, DENSE = "*", "FULLY_CONNECTED"
OURS = ("int8", "dynamic", "weight_int8", "dynamic_int4", "weight_int4")
# Other ways to choose integers for weights, and for which operations.
OTHERS = (
    (AlgorithmName.MSE, ALL),
    (AlgorithmName.OCTAV, ALL),
    (AlgorithmName.GPTQ, ALL),
    (AlgorithmName.GPTQ, DENSE),
    (AlgorithmName.OSCAR, ALL),
    (AlgorithmName.OSCAR, DENSE),
)
# What the library gives an algorithm's statistics to: a layer by itself.
BY_STATISTICS = (AlgorithmName.GPTQ, AlgorithmName.OSCAR)
TRIED = ("int8", "dynamic_int4")  # by each algorithm
BLOCK = QuantGranularity.BLOCKWISE_32

Pixels = NDArray[np.float32]  # [images, height, width, 3]
Probabilities = NDArray[np.float32]  # [images, classes]


@dataclass(frozen=True)
class Base:
    """A trained model, and what to calibrate with.

    Attributes:
        float32: the TFLite file that variants are made from.
        single_image: the SavedModel that this was converted from.
        calibration: images of the train split, evenly of both classes.
    """

    float32: bytes
    single_image: Path
    calibration: Pixels


def main(arguments: Sequence[str] = ()) -> None:
    """Trains where there is no model yet; prints a table for each base."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizing")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--epochs", type=int, default=12, help="of a training from scratch")
    parser.add_argument("--side", type=int, default=64, help="pixels, of the square images")
    parser.add_argument("--precision", default="auto", help='"bfloat16" suits newer CPUs')
    parser.add_argument("--folder", type=Path, help="keeps the models; by default nothing does")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        data = elpv.load(Path(scratch), options.side, 0, STOPPING_SHARE)
        for start in filter(weights_there, options.starts):
            name = f"{start}-{options.side}"
            saved_model = (options.folder or Path(scratch)) / name / "saved"
            if not saved_model.exists():
                model, _ = trained(
                    recipe(start, 0, options.epochs, options.precision), data, options.side
                )
                how = contract(options.side, options.side, MAX_SIDE, LABELS)
                save(model, data.train.examples.transform, how, saved_model)
            print(f"\n{name}", flush=True)
            _print_table(_base(saved_model, Path(scratch, name), data), data)


def _base(saved_model: Path, single_image: Path, data: Elpv) -> Base:
    float32 = to_float32(tf.saved_model.load(str(saved_model)), single_image)
    pixels, label_ids = _images(data, "train")
    each = CALIBRATION_IMAGES // len(LABELS)
    chosen = [np.flatnonzero(label_ids == label)[:each] for label in range(len(LABELS))]
    return Base(float32, single_image, pixels[np.concatenate(chosen)])


def _images(data: Elpv, split: str) -> tuple[Pixels, NDArray[np.int64]]:
    examples = {"train": data.train, "evaluation": data.evaluation}[split].examples
    batches = list(examples.batches(BATCH))
    pixels = np.concatenate([batch[PIXELS].numpy() for batch in batches])
    return pixels, np.concatenate([batch[LABEL_ID].numpy() for batch in batches])


def _print_table(base: Base, data: Elpv) -> None:
    """A row a file, as they are made."""
    pixels, label_ids = _images(data, "evaluation")
    reference = predict(base.float32, pixels, len(LABELS))
    headers = ["variant", "by", "MB", "accuracy", "AUC", "drop, points", "agrees", "divergence"]
    rows = []
    for variant, by, make in _ways(base):
        try:
            model = make()
        except (RuntimeError, TypeError, ValueError) as error:  # what a library can't do
            rows.append([variant, by, f"failed: {str(error).splitlines()[0]}"])
            print(*rows[-1], sep="\t", flush=True)
            continue
        if variant in VARIANTS and VARIANTS[variant].integer:
            floats = sum(op.computes_in_float for op in read_ops(model))
            by += f", {floats} operations in float" if floats else ""
        said = predict(model, pixels, len(LABELS))
        rows.append([variant, by, f"{len(model) / 1e6:.2f}", *_figures(said, reference, label_ids)])
        print(*rows[-1], sep="\t", flush=True)
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True), flush=True)


def _figures(
    said: Probabilities, reference: Probabilities, label_ids: NDArray[np.int64]
) -> list[str]:
    right, reference_right = (p.argmax(axis=1) == label_ids for p in (said, reference))
    lost = int((reference_right & ~right).sum())
    gained = int((right & ~reference_right).sum())
    low, high = drop_interval(lost, gained, len(label_ids))
    return [
        f"{right.mean():.4f}",
        f"{roc_auc_score(label_ids, said[:, 1]):.4f}",
        f"{100 * (lost - gained) / len(label_ids):.2f} ({100 * low:.2f} to {100 * high:.2f})",
        f"{(said.argmax(axis=1) == reference.argmax(axis=1)).mean():.4f}",
        f"{divergence(reference, said):.4f}",
    ]


def _ways(base: Base) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Variants, by whom, and what makes them; ours first."""
    float32, ops = base.float32, read_ops(base.float32)
    yield "float32", "", lambda: float32
    ranges = calibrate(float32, base.calibration)
    for variant in OURS:
        yield variant, "ours", partial(quantize, float32, whole(variant, ops), ranges)
    yield "int8", "moving average", partial(_by_moving_average, base)
    yield "int8", "tf.lite", partial(_by_tf_lite, base)
    statistics = {algorithm: _statistics(base, algorithm) for algorithm in BY_STATISTICS}
    for algorithm, operation in OTHERS:
        merged = _merged(statistics.get(algorithm, {}), ranges)
        for variant in TRIED:
            whose = "" if operation == ALL else ", dense layer"
            changed = partial(_changed, whole(variant, ops), ops, algorithm, operation)
            yield variant, f"{algorithm.value}{whose}", partial(_quantize_by, changed, base, merged)
    # Four bits for that layer and for nothing else, so that nothing else moves the answers.
    for algorithm in (AlgorithmName.MIN_MAX_UNIFORM_QUANT, *BY_STATISTICS):
        merged = _merged(statistics.get(algorithm, {}), ranges)
        for granularity in (QuantGranularity.CHANNELWISE, BLOCK):
            alone = partial(_alone, algorithm, granularity)
            size = " of 32" if granularity == BLOCK else ""
            yield (
                "dense layer in int4",
                f"{algorithm.value}{size}",
                partial(_quantize_by, alone, base, merged),
            )


def _by_moving_average(base: Base) -> bytes:
    """As LiteRT Quantizer finds ranges by default."""
    manager = recipe_manager(whole("int8", ()))
    calibrator = Calibrator(base.float32, num_threads=THREADS)
    calibrator.calibrate({INPUT: Samples(base.calibration)}, manager)
    return quantize(base.float32, whole("int8", ()), calibrator.get_model_qsvs())


def _by_tf_lite(base: Base) -> bytes:
    """As TensorFlow's converter quantizes."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(base.single_image), [INPUT])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: Samples(base.calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return bytes(converter.convert())


def _statistics(base: Base, algorithm: AlgorithmName) -> dict[str, Any]:
    """What an algorithm asks of the images, for the dense layer.

    By a recipe of that layer alone: a tensor's statistics are those that the first operation
    collects that has it, so that the layer before would leave out what the algorithm needs.
    """
    calibrator = Calibrator(base.float32, num_threads=THREADS)
    manager = _alone(algorithm, QuantGranularity.CHANNELWISE)
    calibrator.calibrate({INPUT: Samples(base.calibration)}, manager)
    found: dict[str, Any] = calibrator.get_model_qsvs()
    return found


def _merged(statistics: dict[str, Any], ranges: Ranges) -> dict[str, Any]:
    """An algorithm's statistics, with our ranges."""
    names = statistics | ranges
    return {name: {**statistics.get(name, {}), **ranges.get(name, {})} for name in names}


def _alone(algorithm: AlgorithmName, granularity: QuantGranularity) -> RecipeManager:
    """Four bits for the dense layer, float32 for all else."""
    manager = recipe_manager(Recipe("float32"))
    manager.add_dynamic_config(".*", DENSE, 4, granularity, algorithm)
    return manager


def _changed(
    recipe: Recipe, ops: Sequence[Op], algorithm: AlgorithmName, operation: str
) -> RecipeManager:
    """A recipe, but for the weights of some operations."""
    manager, record = recipe_manager(recipe), VARIANTS[recipe.everywhere]
    operations = {op.kind for op in ops if op.kernel} if operation == ALL else {operation}
    for each in sorted(operations):
        bits = 4 if record.weights == "INT4" else 8
        if record.integer:
            manager.add_static_config(".*", each, 8, bits, algorithm_key=algorithm)
        else:
            manager.add_dynamic_config(".*", each, bits, algorithm_key=algorithm)
    return manager


def _quantize_by(
    manager: Callable[[], RecipeManager], base: Base, statistics: dict[str, Any]
) -> bytes:
    quantizer = Quantizer(base.float32, manager().get_quantization_recipe())
    made = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return pack(unpack(bytes(made.quantized_model)))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(sys.argv[1:])
