"""What is told and watched while a phase trains: progress, divergence, TensorBoard's images."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tabulate import tabulate

from pipeline.errors import TrainingError
from pipeline.training.recipe import MeanRecall

SAY_SECONDS = 5.0
# A loss this many times that of guessing, two epochs in a row, does not come back by itself.
DIVERGED = 10.0
CELL = 48  # pixels of a confusion matrix's cell in TensorBoard

_LOG = logging.getLogger(__name__)


class Progress(keras.callbacks.Callback):
    """Logs every few seconds how far a phase is, its images a second and the time left at most."""

    def __init__(self, phase: str, images: int, batch_size: int, epochs: int) -> None:
        super().__init__()
        self._phase = phase
        self._images = images
        self._batch_size = batch_size
        self._epochs = epochs
        self._done = 0
        self._started = self._said = time.monotonic()
        self._before = 0

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """See the base class."""
        self._started = self._said = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Counts the images, and says how far an epoch is that takes long."""
        in_epoch = min((batch + 1) * self._batch_size, self._images)
        self._done += in_epoch - batch * self._batch_size
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._say(f"image {in_epoch} of {self._images}")

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """See the base class."""
        self._epoch = epoch
        if not self._done:
            self._before = epoch * self._images

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Says what the epoch came to."""
        if time.monotonic() - self._said < SAY_SECONDS and epoch + 1 < self._epochs:
            return
        figures = logs or {}
        self._say(
            f"eval accuracy {figures.get('val_accuracy', math.nan):.3f}, "
            f"eval loss {figures.get('val_loss', math.nan):.3f}"
        )

    def _say(self, what: str) -> None:
        self._said = time.monotonic()
        rate = self._done / max(1e-9, self._said - self._started)
        left = (self._epochs * self._images - self._before - self._done) / rate
        _LOG.info(
            "%s: epoch %d of at most %d, %s; %.0f images/s, at most %.0f s left",
            self._phase,
            self._epoch + 1,
            self._epochs,
            what,
            rate,
            left,
        )


class StopOnDivergence(keras.callbacks.Callback):
    """Fails a training whose loss is no number or far above guessing: no model comes of it."""

    def __init__(self, phase: str, classes: int, remedy: str) -> None:
        """Args: the phase's name, the number of classes, and what the user may try."""
        super().__init__()
        self._phase = phase
        self._too_much = DIVERGED * math.log(max(2, classes))
        self._remedy = remedy
        self._above = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Raises TrainingError when the loss is no number."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"training diverged in the {self._phase} phase: the loss is {loss} after batch "
                f"{batch + 1}; {self._remedy}"
            )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Raises TrainingError when the loss stays far above that of guessing."""
        loss = float((logs or {})["loss"])
        self._above = self._above + 1 if loss > self._too_much else 0
        if self._above > 1:
            raise TrainingError(
                f"training diverged in the {self._phase} phase: the loss is {loss:.3g} after "
                f"epoch {epoch + 1}, where guessing has {self._too_much / DIVERGED:.2f}; "
                f"{self._remedy}"
            )


class ConfusionMatrix(keras.callbacks.Callback):
    """Writes the eval split's confusion matrix of every epoch for TensorBoard."""

    def __init__(self, metric: MeanRecall, labels: Sequence[str], log_dir: Path) -> None:
        super().__init__()
        self._metric = metric
        self._labels = labels
        self._writer = tf.summary.create_file_writer(str(log_dir))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """See the base class; the metric's last count is of the eval split."""
        counts = self._metric.confusion.numpy().astype(np.int32)
        table = [[label, *row] for label, row in zip(self._labels, counts.tolist(), strict=True)]
        text = tabulate(table, headers=["is / predicted", *self._labels], tablefmt="github")
        with self._writer.as_default(step=epoch):
            tf.summary.image("confusion matrix", _heat_map(counts))
            tf.summary.text("confusion matrix", text)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """See the base class."""
        self._writer.close()


def write_images(name: str, pixels: tf.Tensor, log_dir: Path) -> None:
    """Writes images for TensorBoard: float32 `[images, height, width, 3]` in [0, 1]."""
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(step=0):
        tf.summary.image(name, pixels, max_outputs=len(pixels))
    writer.close()


def _heat_map(counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """A gray image of the share of each label's images by prediction, `[1, side, side, 1]`."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return np.kron(shares, np.ones((CELL, CELL))).astype(np.float32)[np.newaxis, ..., np.newaxis]
