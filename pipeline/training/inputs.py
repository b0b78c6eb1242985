"""What a phase is fed, epoch by epoch: kept activations, or pixels.

The order of an epoch and the view it shows of each image follow from the seed and the epoch's
number. So a run that goes on at epoch 7 sees what one that was never stopped sees there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.feature_names import LABEL_ID
from pipeline.config import TrainerConfig
from pipeline.data.preprocessing import PIXELS
from pipeline.training.augmentation import Augmentation
from pipeline.training.devices import ONE_DEVICE, Devices
from pipeline.training.features import PREDICT_BATCH, FeatureStore, LabelledExamples
from pipeline.training.recipe import class_weights


@dataclass(frozen=True)
class Job:
    """What is trained on, and how.

    Attributes:
        config: the recipe.
        labels: the classes.
        train: the split to fit.
        evaluation: the split that early stopping looks at.
        log_dir: for TensorBoard.
        state_dir: for caches and checkpoints; a rerun with the same one goes on.
        shared_cache_dir: for caches that other trainings on the same data use, too, and that are
            files for that reason; None keeps them in memory or in `state_dir`.
        devices: that train together.
        keep_features: whether to leave the training images' features in `log_dir`.
    """

    config: TrainerConfig
    labels: Sequence[str]
    train: LabelledExamples
    evaluation: LabelledExamples
    log_dir: Path
    state_dir: Path
    shared_cache_dir: Path | None = None
    devices: Devices = ONE_DEVICE
    keep_features: bool = False

    @property
    def augmentation(self) -> Augmentation:
        """Of the train split's images."""
        return Augmentation.of(self.config)


@dataclass(frozen=True)
class Cache:
    """Both splits' activations at one frontier."""

    train: FeatureStore
    evaluation: FeatureStore

    @property
    def is_complete(self) -> bool:
        """Whether every row is there."""
        return all(store.written == store.rows for store in (self.train, self.evaluation))

    def close(self) -> None:
        """Lets go of memory and files."""
        self.train.close()
        self.evaluation.close()


@dataclass(frozen=True)
class PhaseInputs:
    """What a phase is fed: batches of inputs, one-hot labels and, in training, weights.

    Where several devices train together, each batch is cut for them.

    Attributes:
        epochs: makes the batches of the epochs from one number to before another.
        evaluation: the eval split's batches.
        batch_sizes: images of each whole batch of an epoch.
        evaluation_batch_sizes: images of each whole batch of the eval split.
    """

    epochs: Callable[[int, int], tf.data.Dataset]
    evaluation: tf.data.Dataset
    batch_sizes: Sequence[int]
    evaluation_batch_sizes: Sequence[int]


def cached_inputs(cache: Cache, job: Job) -> PhaseInputs:
    """Feeds activations, in an order that is shuffled anew each epoch over all images."""
    config, classes = job.config, len(job.labels)
    weights = class_weights(config, job.train.label_ids, classes)

    def epochs(first: int, last: int) -> tf.data.Dataset:
        def order(epoch: tf.Tensor) -> tf.data.Dataset:
            seed = tf.stack([tf.constant(config.seed, tf.int64), epoch])
            images = tf.range(len(job.train), dtype=tf.int64)
            images = tf.random.experimental.stateless_shuffle(images, seed)
            batches = tf.data.Dataset.from_tensor_slices(images).batch(config.batch_size)
            return job.devices.cut(batches).map(lambda indices: (indices, epoch))

        def rows(indices: NDArray[np.int64], epoch: np.int64) -> NDArray[np.float32]:
            views = job.augmentation.rows
            return cache.train.read(indices * views + epoch % views)

        def load(indices: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            values = tf.numpy_function(rows, [indices, epoch], tf.float32)
            values = tf.ensure_shape(values, [None, *cache.train.shape])
            label_ids = tf.gather(job.train.label_ids, indices)
            return values, tf.one_hot(label_ids, classes), tf.gather(weights, label_ids)

        batches = tf.data.Dataset.range(first, last).flat_map(order)
        return batches.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def load_evaluation(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.numpy_function(cache.evaluation.read, [indices], tf.float32)
        values = tf.ensure_shape(values, [None, *cache.evaluation.shape])
        return values, tf.one_hot(tf.gather(job.evaluation.label_ids, indices), classes)

    evaluation = job.devices.cut(
        tf.data.Dataset.range(len(job.evaluation)).batch(_evaluation_batch(job))
    )
    return _inputs(job, epochs, evaluation.map(load_evaluation).prefetch(tf.data.AUTOTUNE))


def pixel_inputs(job: Job) -> PhaseInputs:
    """Feeds pixels, decoded and augmented on the way, shuffled within a few thousand images."""
    config, classes = job.config, len(job.labels)
    weights = class_weights(config, job.train.label_ids, classes)

    def epochs(first: int, last: int) -> tf.data.Dataset:
        def load(
            indices: tf.Tensor, epoch: tf.Tensor, batch: dict[str, tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            views = tf.fill(tf.shape(indices), epoch % job.augmentation.rows)
            pixels = job.augmentation(batch[PIXELS], indices, views)
            label_ids = tf.gather(job.train.label_ids, indices)
            return pixels, tf.one_hot(label_ids, classes), tf.gather(weights, label_ids)

        batches = job.train.examples.epochs(
            config.batch_size, first, last, config.seed, cut=job.devices.cut
        )
        return batches.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)

    def load_evaluation(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return batch[PIXELS], tf.one_hot(batch[LABEL_ID], classes)

    evaluation = job.evaluation.examples.batches(_evaluation_batch(job), cut=job.devices.cut)
    return _inputs(job, epochs, evaluation.map(load_evaluation))


def _evaluation_batch(job: Job) -> int:
    return PREDICT_BATCH * job.devices.replicas


def _inputs(
    job: Job, epochs: Callable[[int, int], tf.data.Dataset], evaluation: tf.data.Dataset
) -> PhaseInputs:
    return PhaseInputs(
        epochs,
        evaluation,
        _batch_sizes(len(job.train), job.config.batch_size),
        _batch_sizes(len(job.evaluation), _evaluation_batch(job)),
    )


def _batch_sizes(images: int, batch: int) -> list[int]:
    return [min(batch, images - first) for first in range(0, images, batch)]
