"""Training against a plain Keras script: time, accuracy, extraction's pace, memory, overhead.

    python -m benchmarks.training [--seeds 3] [--views 2] [--only recipe extraction memory overhead]

Promised, on ELPV at 96x96 with an untrained base and the base's last five layers trained for 20
epochs: the accuracy of the plain script within 1 point over the seeds, in at most an eighth of its
time; extraction from TFRecords at least 0.95 times as fast as `model.predict` on decoded arrays;
peak memory within 1.3 times for ten times the images; under 30 s for what is neither extraction nor
training. CPU time stands beside wall time, because it doesn't depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tabulate import tabulate

from benchmarks import elpv
from benchmarks.elpv import LABELS, Elpv
from components.examples import TransformedExamples
from components.feature_names import LABEL_ID
from pipeline.config import TrainerConfig
from pipeline.data.preprocessing import PIXELS, contract
from pipeline.training.augmentation import Augmentation
from pipeline.training.features import (
    PREDICT_BATCH,
    FeatureStore,
    Frozen,
    LabelledExamples,
    extract_from_pixels,
)
from pipeline.training.frontier import first_trained, unfreeze
from pipeline.training.inputs import Job
from pipeline.training.model import Statistics, build_base, build_head, head_input, join
from pipeline.training.phases import train
from pipeline.training.trainer import save

SIDE = 96
EPOCHS = 20
LAYERS = 5
LEARNING_RATE = 1e-3
BATCH = 32
TIMES_MORE = 10
UNCHANGED = Augmentation(0, 0, 0, 0, False, 0)
PARTS = ("recipe", "extraction", "memory", "overhead")


@dataclass(frozen=True)
class Outcome:
    """Of one training: its best epoch's accuracy on the eval split, and seconds."""

    accuracy: float
    wall: float
    cpu: float


def main(arguments: Sequence[str] = ()) -> None:
    """Runs the parts that were asked for; prints a table for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=2, help="augmented views of each image")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak_of:
        _print_peak(options.folder, options.peak_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = elpv.load(Path(folder), SIDE)
        if "recipe" in options.only:
            _compare_recipes(data, options.seeds, options.views, Path(folder))
        if "extraction" in options.only:
            _compare_extraction(data)
        if "memory" in options.only:
            _compare_memory(Path(folder))
        if "overhead" in options.only:
            _measure_overhead(data, Path(folder))


def _compare_recipes(data: Elpv, seeds: int, views: int, folder: Path) -> None:
    rows = []
    plain, ours = [], []
    for seed in range(seeds):
        plain.append(_timed(lambda seed=seed: _train_plainly(data, seed)))  # type: ignore[misc]
        ours.append(
            _timed(lambda seed=seed: _train_cached(data, seed, views, folder))  # type: ignore[misc]
        )
        for name, outcome in (("plain Keras", plain[-1]), (f"{views} views", ours[-1])):
            rows.append(
                [name, seed, f"{outcome.accuracy:.4f}", f"{outcome.wall:.0f}", f"{outcome.cpu:.0f}"]
            )
        ratios = (plain[-1].wall / ours[-1].wall, plain[-1].cpu / ours[-1].cpu)
        rows.append(["ratio", seed, "", *(f"{ratio:.1f}" for ratio in ratios)])
    difference = np.mean([o.accuracy for o in ours]) - np.mean([p.accuracy for p in plain])
    rows.append(["mean difference", "", f"{difference:+.4f}", "", ""])
    headers = ["20 epochs", "seed", "eval accuracy", "wall s", "CPU s"]
    print(tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True), flush=True)


def _timed(run: Callable[[], float]) -> Outcome:
    wall, cpu = time.monotonic(), time.process_time()
    accuracy = run()
    return Outcome(accuracy, time.monotonic() - wall, time.process_time() - cpu)


def _train_plainly(data: Elpv, seed: int) -> float:
    """As in the tutorials: frozen layers, augmentation layers, `fit` on images in memory."""
    keras.utils.set_random_seed(seed)
    model = _plain_model(data)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    augment = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(45 / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(0.15, 0.15, fill_mode="nearest"),
            keras.layers.RandomZoom(0.3, fill_mode="nearest"),
        ]
    )
    pixels, label_ids = _decoded(data.train)
    batches = tf.data.Dataset.from_tensor_slices((pixels, label_ids))
    batches = batches.shuffle(len(pixels), seed=seed).batch(BATCH)
    batches = batches.map(lambda x, y: (augment(x, training=True), y), tf.data.AUTOTUNE)
    fitted = model.fit(
        batches.prefetch(tf.data.AUTOTUNE),
        validation_data=_decoded(data.evaluation),
        epochs=EPOCHS,
        verbose=0,
    )
    return _at_best(fitted.history["val_loss"], fitted.history["val_accuracy"])


def _plain_model(data: Elpv) -> keras.Model:
    """The same network, with the head's scaling from one batch of features."""
    base = build_base(SIDE, SIDE, "random")
    some = next(iter(data.train.examples.batches(256)))[PIXELS]
    model = join(base, build_head("flatten", base.output_shape[1:], 2, 0.0))
    normalized = model.layers[1](some)
    pooled = head_input(base, "pool").predict(normalized, verbose=0)[:, 0, 0]
    head = build_head("pool", base.output_shape[1:], 2, 0.2, Statistics.of(pooled))
    unfreeze(base, first_trained(base, None, LAYERS))
    return join(base, head)


def _train_cached(data: Elpv, seed: int, views: int, folder: Path) -> float:
    config = TrainerConfig(
        base_weights="random",
        epochs=0,
        fine_tune_epochs=EPOCHS,
        fine_tune_layers=LAYERS,
        fine_tune_learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        augment_views=views,
        patience=EPOCHS,
        seed=seed,
    )
    keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory(dir=folder) as state:
        job = Job(config, LABELS, data.train, data.evaluation, Path(state) / "log", Path(state))
        _, curves = train(build_base(SIDE, SIDE, "random"), job)
    return _at_best(curves["fine_tune/val_loss"], curves["fine_tune/val_accuracy"])


def _at_best(losses: Sequence[float], accuracies: Sequence[float]) -> float:
    """The accuracy of the epoch that early stopping would keep."""
    return float(accuracies[int(np.argmin(losses))])


def _decoded(split: LabelledExamples) -> tuple[tf.Tensor, tf.Tensor]:
    batches = list(split.examples.batches(256))
    pixels = tf.concat([batch[PIXELS] for batch in batches], axis=0)
    return pixels, tf.concat([batch[LABEL_ID] for batch in batches], axis=0)


def _compare_extraction(data: Elpv, times: int = 3) -> None:
    """The same network on the same images, in turns; the best of a few."""
    base = build_base(SIDE, SIDE, "random")
    images = len(data.train)
    pixels = _decoded(data.train)[0].numpy()
    base.predict(pixels[:PREDICT_BATCH], verbose=0)
    frozen = Frozen(base)
    frozen(pixels[:PREDICT_BATCH])

    def predict() -> float:
        base.predict(pixels, batch_size=PREDICT_BATCH, verbose=0)
        return 0.0

    def extract() -> float:
        store = FeatureStore(images, base.output_shape[1:], None)
        extract_from_pixels(frozen, data.train, UNCHANGED, store)
        return 0.0

    bare, ours = [], []
    for _ in range(times):
        bare.append(_timed(predict).wall)
        ours.append(_timed(extract).wall)
    rows = [
        ["model.predict on arrays", f"{images / min(bare):.0f}"],
        ["extraction from TFRecords", f"{images / min(ours):.0f}"],
        ["ratio", f"{min(bare) / min(ours):.2f}"],
    ]
    print(tabulate(rows, headers=["", "images/s"], tablefmt="plain", disable_numparse=True))


def _compare_memory(folder: Path) -> None:
    """The peaks of two processes that train on all images, once and ten times over."""
    peaks = []
    for times in (1, TIMES_MORE):
        command = [sys.executable, "-m", "benchmarks.training", "--folder", str(folder)]
        done = subprocess.run(
            [*command, "--peak-of", str(times)], capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout.split()[-1]))
    rows = [
        ["2,624 images", f"{peaks[0]:.0f} MB"],
        [f"{TIMES_MORE} times as many", f"{peaks[1]:.0f} MB"],
        ["ratio", f"{peaks[1] / peaks[0]:.2f}"],
    ]
    print(tabulate(rows, headers=["", "peak"], tablefmt="plain", disable_numparse=True))


def _print_peak(folder: Path, times: int) -> None:
    """Trains two epochs on every image, repeated; prints this process's peak in MB."""
    graph = folder / f"transform-{SIDE}" / "graph"
    examples = TransformedExamples([str(folder / "*-0.gz")], graph)
    evaluation = LabelledExamples.read(TransformedExamples([str(folder / "eval-0.gz")], graph))
    examples.files = examples.files * times
    config = TrainerConfig(
        base_weights="random", epochs=0, fine_tune_epochs=2, fine_tune_layers=LAYERS
    )
    with tempfile.TemporaryDirectory(dir=folder) as state:
        repeated = LabelledExamples.read(examples)
        job = Job(config, LABELS, repeated, evaluation, Path(state) / "log", Path(state))
        train(build_base(SIDE, SIDE, "random"), job)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def _measure_overhead(data: Elpv, folder: Path) -> None:
    """What a training takes beside extraction and epochs: building the network and saving it."""
    started = time.monotonic()
    base = build_base(SIDE, SIDE, "random")
    model = join(base, build_head("pool", base.output_shape[1:], len(LABELS), 0.2))
    built = time.monotonic()
    transform = tft.TFTransformOutput(str(data.graph))
    save(model, transform, contract(SIDE, SIDE, 512, LABELS), folder / "saved")
    saved = time.monotonic()
    rows = [
        ["building the network", f"{built - started:.1f}"],
        ["saving it with its signatures", f"{saved - built:.1f}"],
    ]
    print(tabulate(rows, headers=["overhead", "s"], tablefmt="plain", disable_numparse=True))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(sys.argv[1:])
