"""Fits a model on several devices, as Keras' `Model.fit` does on one.

Keras 3's own weighs the parts of an uneven batch alike. Here, each device
adds up the losses of its images divided by the images of the whole batch, and gradients are added
up over the devices. So a step is the same however many devices share its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.training.devices import Devices
from pipeline.training.inputs import PhaseInputs
from pipeline.training.keras_internals import SEED

SEEDS_APART = 7919  # between the seeds of two devices


def fit(
    model: keras.Model,
    inputs: PhaseInputs,
    devices: Devices,
    loss: keras.losses.Loss,
    metrics: Sequence[keras.metrics.Metric],
    *,
    first_epoch: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fits a model until its epochs are over or a callback ends it.

    Args:
        model: compiled in the devices' scope; none of its layers adds a loss of its own.
        inputs: cut for the devices.
        devices: with a strategy.
        loss: of every image, not reduced.
        metrics: of labels and probabilities, made in the devices' scope.
        first_epoch: to begin with; above 0 where an earlier run left off.
        epochs: to stop before, at most.
        callbacks: of Keras.
    """
    steps = _Steps(model, devices, loss, metrics)
    training = devices.feed(inputs.epochs(first_epoch, epochs))
    evaluation = devices.feed(inputs.evaluation)
    told = keras.callbacks.CallbackList(
        list(callbacks),
        add_progbar=True,
        model=model,
        verbose=2,
        epochs=epochs,
        steps=len(inputs.batch_sizes),
    )
    model.stop_training = False
    told.on_train_begin()
    steps.draw_apart()
    logs: dict[str, float] = {}
    for epoch in range(first_epoch, epochs):
        told.on_epoch_begin(epoch)
        steps.reset()
        for step, images in enumerate(inputs.batch_sizes):
            told.on_train_batch_begin(step)
            mean = steps.train(training, tf.constant(images))
            told.on_train_batch_end(step, {"loss": float(mean)})
        logs = steps.results()
        steps.reset()
        for images in inputs.evaluation_batch_sizes:
            steps.evaluate(evaluation, tf.constant(images))
        logs |= steps.results("val_")
        told.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    told.on_train_end(logs)


class _Steps:
    """A step of training and one of evaluation, traced once, and what is counted in them."""

    def __init__(
        self,
        model: keras.Model,
        devices: Devices,
        loss: keras.losses.Loss,
        metrics: Sequence[keras.metrics.Metric],
    ) -> None:
        assert devices.strategy is not None
        self._model = model
        self._strategy = devices.strategy
        self._part_size = devices.part_size
        self._loss = loss
        with devices.scope():
            self._mean = keras.metrics.Mean("loss")
        self._metrics = metrics
        self.train = tf.function(self._train)
        self.evaluate = tf.function(self._evaluate)

    def reset(self) -> None:
        """Begins to count anew."""
        for metric in (self._mean, *self._metrics):
            metric.reset_state()

    def results(self, prefix: str = "") -> dict[str, float]:
        """What was counted on all devices."""
        metrics = (self._mean, *self._metrics)
        return {f"{prefix}{metric.name}": float(metric.result()) for metric in metrics}

    def draw_apart(self) -> None:
        """Lets each device draw other random numbers; the first one's are those of one device.

        Where all draw the same, they drop the same features of each part of a batch.
        """
        seeds = [v for v in self._model.variables if v.name == SEED]

        def draw_apart() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for seed in seeds:
                apart = tf.stack([tf.cast(replica, tf.uint32) * SEEDS_APART, 0])
                seed.assign(seed + tf.cast(apart, seed.dtype))

        if seeds:
            self._strategy.run(tf.function(draw_apart))

    def _train(self, batches: Iterator[Any], images: tf.Tensor) -> tf.Tensor:
        """Takes a step on a batch of so many images; returns its mean loss."""
        losses = self._strategy.run(self._train_on_part, args=(next(batches), images))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _train_on_part(self, part: tuple[tf.Tensor, ...], images: tf.Tensor) -> tf.Tensor:
        x, y_true, weights = part
        model, optimizer, size = self._model, self._model.optimizer, self._part_size(images)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            losses = (weights * self._loss(y_true, y_pred))[:size]
            loss = tf.reduce_sum(losses) / tf.cast(images, losses.dtype)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_weights)
        # Adds up the gradients over the devices.
        optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        self._count(losses, y_true[:size], y_pred[:size])
        return loss

    def _evaluate(self, batches: Iterator[Any], images: tf.Tensor) -> None:
        self._strategy.run(self._evaluate_part, args=(next(batches), images))

    def _evaluate_part(self, part: tuple[tf.Tensor, ...], images: tf.Tensor) -> None:
        x, y_true = part
        y_pred, size = self._model(x, training=False), self._part_size(images)
        self._count(self._loss(y_true, y_pred)[:size], y_true[:size], y_pred[:size])

    def _count(self, losses: tf.Tensor, y_true: tf.Tensor, y_pred: tf.Tensor) -> None:
        self._mean.update_state(losses)
        for metric in self._metrics:
            metric.update_state(y_true, y_pred)
