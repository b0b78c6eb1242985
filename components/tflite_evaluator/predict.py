"""Runs the float model and every TFLite variant over the same examples, in one pass."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from components.examples import TransformedExamples

BATCH = 32  # images
THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class Predictions:
    """What the models said, `[examples]` long each.

    Attributes:
        label_ids: int64 `[examples]`.
        slices: by slice key, the value of each example.
        float_model: float32 `[examples, classes]`.
        variants: by variant, float32 `[examples, classes]`.
        seconds: by variant, how long each example took.
    """

    label_ids: NDArray[np.int64]
    slices: Mapping[str, NDArray[np.str_]]
    float_model: NDArray[np.float32]
    variants: Mapping[str, NDArray[np.float32]]
    seconds: Mapping[str, NDArray[np.float64]]


def predict(
    examples: TransformedExamples,
    saved_model: Path,
    variants: Mapping[str, Path],
    slice_keys: Sequence[str],
) -> Predictions:
    """Predicts every example with the SavedModel's `pixels` signature and with every variant.

    Raises:
        ValueError: a file is not a TFLite model.
    """
    loaded = tf.saved_model.load(str(saved_model))
    float_model = loaded.signatures["pixels"]
    runners = {name: _Runner(path) for name, path in variants.items()}
    label_ids: list[NDArray[np.int64]] = []
    floats: list[NDArray[np.float32]] = []
    slices: dict[str, list[NDArray[np.str_]]] = {key: [] for key in slice_keys}

    for batch in examples.batches(BATCH, raw_features=slice_keys):
        pixels = batch["pixels"]
        label_ids.append(batch["label_id"].numpy())
        floats.append(float_model(pixels=pixels)["probabilities"].numpy())
        for runner in runners.values():
            runner.run(pixels.numpy())
        for key, values in slices.items():
            values.append(np.char.decode(batch[key].numpy().astype(bytes), "utf-8"))

    return Predictions(
        label_ids=np.concatenate(label_ids),
        slices={key: np.concatenate(values) for key, values in slices.items()},
        float_model=np.concatenate(floats),
        variants={name: np.stack(runner.outputs) for name, runner in runners.items()},
        seconds={name: np.array(runner.seconds) for name, runner in runners.items()},
    )


class _Runner:
    """One interpreter, as a device would run it, and what it returned and took."""

    def __init__(self, model: Path) -> None:
        self._interpreter = Interpreter(model_path=str(model), num_threads=THREADS)
        self._signature = self._interpreter.get_signature_runner()
        self.outputs: list[NDArray[np.float32]] = []
        self.seconds: list[float] = []

    def run(self, pixels: NDArray[np.float32]) -> None:
        for image in pixels:
            started = time.perf_counter()
            output = self._signature(pixels=image[np.newaxis])
            self.seconds.append(time.perf_counter() - started)
            self.outputs.append(output["probabilities"][0])
