"""What accuracy is reached on ELPV's solar cells, with which start, beside published figures.

    python -m benchmarks.accuracy [--seeds 5] [--starts frozen scratch imagenet]
        [--epochs 40] [--side 96] [--precision float32]

75% of the images to train on, a tenth of it for early stopping alone; 25% to judge, stratified
by label and type of cell; a cell is defective where the experts' probability is above 0.5. Three
starts: (a) "frozen", a head on an untrained base; (b) "scratch", the whole network, whose 40 epochs
take an hour on two cores; (c) "imagenet", where the weights are on disk.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score
from tabulate import tabulate

from benchmarks import elpv
from benchmarks.elpv import LABELS, Elpv
from pipeline.config import TrainerConfig
from pipeline.data.preprocessing import PIXELS
from pipeline.training.base_weights import cached_file
from pipeline.training.bases import BASES
from pipeline.training.checkpoint import Curves
from pipeline.training.inputs import Job
from pipeline.training.trainer import train_network

STOPPING_SHARE = 0.1
DEFECTIVE = LABELS.index("defective")
VIEWS: dict[str, Any] = {"augment_rotation": 5.0, "augment_shift": 0.05, "augment_zoom": 0.1}
STARTS: dict[str, dict[str, Any]] = {
    "frozen": {"base_weights": "random", "epochs": 100, "learning_rate": 1e-3},
    "scratch": {
        "base_weights": "random",
        "epochs": 0,
        "fine_tune_from": "all",
        "fine_tune_learning_rate": 1e-3,
        "batch_size": 16,
        "optimizer": "adamw",
        "schedule": "cosine",
        "clip_norm": 1.0,
        "patience": 1000,
        **VIEWS,
    },
    "imagenet": {
        "base_weights": "imagenet",
        "epochs": 30,
        "fine_tune_epochs": 20,
        "fine_tune_from": "conv5",
        "fine_tune_learning_rate": 1e-4,
        "augment_views": 4,
        **VIEWS,
    },
}
PUBLISHED = [
    ["SVM, Deitsch et al. 2019", "82.44%"],
    ["CNN, Deitsch et al. 2019", "88.42%"],
    ["Zhang et al. 2023", "91.74%"],
]


def weights_there(start: str) -> bool:
    """Whether a start's weights are on disk; says which are not."""
    if start != "imagenet" or (file := cached_file(BASES[TrainerConfig().base])).is_file():
        return True
    print(f"imagenet: not run, {file} is not there", flush=True)
    return False


def main(arguments: Sequence[str] = ()) -> None:
    """Trains with every start and seed; prints a table of means and 95% intervals."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of a training from scratch")
    parser.add_argument("--side", type=int, default=96, help="pixels, of the square images")
    parser.add_argument("--precision", default="auto", help='"bfloat16" suits newer CPUs')
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    options = parser.parse_args(arguments)
    rows: list[list[str]] = []
    for start in filter(weights_there, options.starts):
        measured = []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(options.seeds):
                config = recipe(start, seed, options.epochs, options.precision)
                measured.append(_measure(config, options.side, Path(folder)))
                print(start, seed, measured[-1], flush=True)
        for name in measured[0]:
            rows.append([start, name, _interval([figures[name] for figures in measured])])
    print(tabulate(rows, headers=["start", f"{options.seeds} seeds", "mean"], tablefmt="github"))
    print(tabulate(PUBLISHED, headers=["published", "accuracy"], tablefmt="github"))


def recipe(start: str, seed: int, epochs: int, precision: str) -> TrainerConfig:
    """How a base of one of the starts is trained; the epochs are those of one from scratch."""
    settings = {**STARTS[start], "seed": seed, "precision": precision}
    if start == "scratch":
        settings |= dict.fromkeys(("fine_tune_epochs", "augment_views"), epochs)
    return TrainerConfig(**settings)


def trained(config: TrainerConfig, data: Elpv, side: int) -> tuple[keras.Model, Curves]:
    """Trains on images of a side in pixels; returns the model and its curves."""
    with tempfile.TemporaryDirectory() as state:
        job = Job(config, LABELS, data.train, data.stopping, Path(state, "log"), Path(state))
        return train_network(side, side, job)


def _measure(config: TrainerConfig, side: int, folder: Path) -> dict[str, float]:
    data = elpv.load(folder, side, config.seed, STOPPING_SHARE)
    started = time.monotonic()
    model, curves = trained(config, data, side)
    epochs = sum(len(values) for name, values in curves.items() if name.endswith("/loss"))
    pixels = np.concatenate([b[PIXELS].numpy() for b in data.evaluation.examples.batches(256)])
    figures = _figures(data, model.predict(pixels, verbose=0))
    return {**figures, "epochs": float(epochs), "minutes": (time.monotonic() - started) / 60}


def _figures(data: Elpv, probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Accuracy, F1 of "defective" and AUC: overall, and by type of cell."""
    is_defective = data.evaluation.label_ids == DEFECTIVE
    said_defective = probabilities.argmax(axis=1) == DEFECTIVE
    figures = {}
    for name in ("", *sorted(set(data.cell_types))):
        some = data.cell_types == name if name else np.ones(len(is_defective), bool)
        suffix = f", {name}" if name else ""
        figures[f"accuracy{suffix}"] = float((is_defective == said_defective)[some].mean())
        figures[f"F1{suffix}"] = float(f1_score(is_defective[some], said_defective[some]))
        score = probabilities[some, DEFECTIVE]
        figures[f"AUC{suffix}"] = float(roc_auc_score(is_defective[some], score))
    return figures


def _interval(values: Sequence[float]) -> str:
    """The mean and its 95% interval over the seeds, by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.4f}"
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values) or 1e-12)
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(sys.argv[1:])
