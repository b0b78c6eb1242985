"""Runs the float model, every variant and the deployed release over the same examples, in one pass.

The variants run as on a device: one image at a time, through the device package's own wrapper of
the interpreter (XNNPACK on, integer inputs rounded and clipped, names checked). TFMA's extractor
for TFLite does none of the three, which is why the predictions are made here and handed to it.

The first images are predicted alone, with every core, which gives the latency; the others on every
core at once, an image each, which is fastest. The probabilities are the same bit for bit.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.examples import TransformedExamples
from components.tflite_evaluator.baseline import Baseline
from edgeline.contract import PreprocessingContract
from edgeline.errors import ModelError
from edgeline.preprocessing import load_image, preprocess
from edgeline.runtime.interpreter import PixelModel

BATCH = 32  # images
THREADS = os.cpu_count() or 1  # of one timed prediction
TIMED_IMAGES = 128
WORKERS = min(THREADS, 8)  # interpreters of one variant, each with a copy of its weights
FLOAT = "float"
PROGRESS_SECONDS = 5.0

_LOG = logging.getLogger(__name__)

Probabilities = NDArray[np.float32]  # [examples, classes]


@dataclass(frozen=True)
class Predictions:
    """What the models said, `[examples]` long each.

    Attributes:
        image_ids: SHA-256 of each example's original file, in hex.
        label_ids: int64 `[examples]`.
        slices: by slice key, the value of each example.
        float_model: float32 `[examples, classes]`.
        variants: by variant, float32 `[examples, classes]`; those that gave a number each time.
        seconds: by variant, how long each of the first `TIMED_IMAGES` examples took.
        errors: by variant, why it gave none.
        deployed: by variant of the deployed release, float32 `[examples, classes]`.
    """

    image_ids: tuple[str, ...]
    label_ids: NDArray[np.int64]
    slices: Mapping[str, NDArray[np.str_]]
    float_model: Probabilities
    variants: Mapping[str, Probabilities]
    seconds: Mapping[str, NDArray[np.float64]]
    errors: Mapping[str, str] = field(default_factory=dict)
    deployed: Mapping[str, Probabilities] = field(default_factory=dict)


def predict(
    examples: TransformedExamples,
    saved_model: Path,
    variants: Mapping[str, Path],
    contract: PreprocessingContract,
    slice_keys: Sequence[str],
    baseline: Baseline | None,
) -> Predictions:
    """Predicts every example with every model.

    Args:
        examples: of the split to judge on.
        saved_model: the float model; its `pixels` signature is used.
        variants: the file of each variant.
        contract: that the variants were made for.
        slice_keys: raw features to pass on.
        baseline: the deployed release, which preprocesses the raw images by its own contract.
    """
    float_model = tf.saved_model.load(str(saved_model)).signatures["pixels"]
    runners = {name: VariantRunner(path.read_bytes(), contract) for name, path in variants.items()}
    deployed = _deployed_runners(baseline)
    rows = _Rows(slice_keys)

    said = time.monotonic()
    for batch in examples.batches(BATCH, raw_features=("image", "image_id", *slice_keys)):
        pixels = batch["pixels"]
        rows.add(batch, float_model(pixels=pixels)["probabilities"].numpy())
        for runner in runners.values():
            runner.run(pixels.numpy())
        if baseline:
            own = [preprocess(baseline.contract, load_image(i)) for i in batch["image"].numpy()]
            for runner in deployed.values():
                runner.run(np.stack(own))
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            _LOG.info("%d images predicted by every model", len(rows.image_ids))

    return Predictions(
        image_ids=tuple(rows.image_ids),
        label_ids=np.concatenate(rows.label_ids),
        slices={key: np.concatenate(values) for key, values in rows.slices.items()},
        float_model=np.concatenate(rows.probabilities),
        variants={name: np.stack(r.outputs) for name, r in runners.items() if not r.error},
        seconds={name: np.array(r.seconds) for name, r in runners.items() if not r.error},
        errors={name: runner.error for name, runner in runners.items() if runner.error},
        deployed={
            name: np.stack(runner.outputs)[:, baseline.columns(contract.labels)]
            for name, runner in deployed.items()
            if baseline and not runner.error
        },
    )


def _deployed_runners(baseline: Baseline | None) -> dict[str, VariantRunner]:
    if baseline is None:
        return {}
    return {name: VariantRunner(m, baseline.contract) for name, m in baseline.models.items()}


class _Rows:
    """Collects what a batch says of its examples."""

    def __init__(self, slice_keys: Sequence[str]) -> None:
        self.image_ids: list[str] = []
        self.label_ids: list[NDArray[np.int64]] = []
        self.probabilities: list[Probabilities] = []
        self.slices: dict[str, list[NDArray[np.str_]]] = {key: [] for key in slice_keys}

    def add(self, batch: Mapping[str, tf.Tensor], probabilities: Probabilities) -> None:
        self.image_ids += [value.decode() for value in batch["image_id"].numpy()]
        self.label_ids.append(batch["label_id"].numpy())
        self.probabilities.append(probabilities)
        for key, values in self.slices.items():
            values.append(np.char.decode(batch[key].numpy().astype(bytes), "utf-8"))


class VariantRunner:
    """One model, what it returned and how long it took, until it fails."""

    def __init__(self, model: bytes, contract: PreprocessingContract) -> None:
        self.outputs: list[Probabilities] = []
        self.seconds: list[float] = []
        self.error: str | None = None
        self._content = model
        self._contract = contract
        self._workers: list[PixelModel] = []
        try:
            self._timed = self._open(THREADS)
        except ModelError as error:
            self.error = str(error)

    def run(self, pixels: Probabilities) -> None:
        """Predicts `[batch, height, width, 3]`."""
        if self.error:
            return
        timed = TIMED_IMAGES - len(self.seconds)
        try:
            for image in pixels[:timed]:
                started = time.perf_counter()
                self.outputs.append(self._timed(image))
                self.seconds.append(time.perf_counter() - started)
            if len(pixels) > timed:
                self.outputs.extend(self._run_on_every_core(pixels[timed:]))
        except ModelError as error:
            self.error = str(error)

    def _run_on_every_core(self, pixels: Probabilities) -> Probabilities:
        # The interpreter releases Python's lock while it works.
        if not self._workers:
            self._workers = [self._open(num_threads=1) for _ in range(WORKERS)]
        outputs = np.empty((len(pixels), len(self._contract.labels)), np.float32)

        def run(number: int) -> None:
            for index in range(number, len(pixels), WORKERS):
                outputs[index] = self._workers[number](pixels[index])

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(run, range(WORKERS)))
        return outputs

    def _open(self, num_threads: int) -> PixelModel:
        height, width = self._contract.height, self._contract.width
        model = PixelModel(
            self._content,
            height=height,
            width=width,
            classes=len(self._contract.labels),
            num_threads=num_threads,
        )
        # The first call packs weights; a device pays that once, not an image.
        model(np.zeros((height, width, 3), np.float32))
        return model
