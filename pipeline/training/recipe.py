"""What the settings say of optimization: loss, class weights, metrics, optimizer, schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from pipeline.config import TrainerConfig
from pipeline.training.keras_internals import clipping_the_sum

MOMENTUM = 0.9
PLATEAU_FACTOR = 0.2
WARMUP_START = 0.01  # share of the highest learning rate that warm-up starts from
CROSS_ENTROPY = "cross_entropy"


class Monitored(NamedTuple):
    """What early stopping and a search look at, on the eval split: its name, and what is best."""

    name: str
    mode: Literal["min", "max"]  # as Keras calls it


# Not the loss that is minimized: with label smoothing it has another scale, and the search would
# choose what smooths less.
MONITORED = {
    "loss": Monitored(f"val_{CROSS_ENTROPY}", "min"),
    "accuracy": Monitored("val_accuracy", "max"),
    "mean_recall": Monitored("val_mean_recall", "max"),
}

_OPTIMIZERS = {
    "adam": clipping_the_sum(keras.optimizers.Adam),
    "adamw": clipping_the_sum(keras.optimizers.AdamW),
    "rmsprop": clipping_the_sum(keras.optimizers.RMSprop),
    "sgd": partial(clipping_the_sum(keras.optimizers.SGD), momentum=MOMENTUM, nesterov=True),
}


class Metrics(NamedTuple):
    """What is told of an epoch beside the loss; `recall` holds the confusion matrix."""

    accuracy: keras.metrics.CategoricalAccuracy
    cross_entropy: keras.metrics.CategoricalCrossentropy
    recall: MeanRecall


def compile_model(
    model: keras.Model, config: TrainerConfig, learning_rate: float, steps: int, epochs: int
) -> Metrics:
    """Compiles a classifier for one phase.

    Args:
        model: anything to probabilities, float32 `[batch, classes]`.
        config: the recipe.
        learning_rate: of the phase, at its highest.
        steps: in an epoch.
        epochs: of the phase, at most.

    Returns:
        What is told of an epoch beside the loss.
    """
    rate = _learning_rate(config, learning_rate, steps, epochs)
    optimizer = _OPTIMIZERS[config.optimizer](learning_rate=rate, global_clipnorm=config.clip_norm)
    metrics = Metrics(
        keras.metrics.CategoricalAccuracy("accuracy"),
        keras.metrics.CategoricalCrossentropy(CROSS_ENTROPY),
        MeanRecall(model.output_shape[-1]),
    )
    model.compile(
        optimizer=optimizer,
        loss=loss(config, "sum_over_batch_size"),
        metrics=list(metrics),
    )
    # Before the first step, so that a checkpoint can be read into it. Not the one made above:
    # Keras wraps it where precision is mixed.
    model.optimizer.build(model.trainable_variables)
    return metrics


def loss(config: TrainerConfig, reduction: str | None) -> keras.losses.Loss:
    """Of one-hot labels and probabilities, float32 `[batch, classes]` each.

    Args:
        config: the recipe.
        reduction: of Keras; None gives a value for each image.
    """
    return keras.losses.CategoricalCrossentropy(
        label_smoothing=config.label_smoothing, reduction=reduction
    )


def schedule_callbacks(
    config: TrainerConfig, learning_rate: float
) -> list[keras.callbacks.Callback]:
    """What lowers the learning rate between epochs; only a plateau can't be known before."""
    if config.schedule != "plateau":
        return []
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor=MONITORED["loss"].name, factor=PLATEAU_FACTOR, patience=max(1, config.patience // 2)
    )
    return [WarmUp(learning_rate, config.warmup_epochs), plateau]


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops a phase when nothing gets better, and puts its best weights back.

    Those that it sets out from count as well: no phase ends worse than the one before.
    """

    def __init__(self, config: TrainerConfig, start: float | None) -> None:
        """Args: the recipe, and what is monitored at the outset; None if that is not known."""
        monitored = MONITORED[config.early_stopping]
        super().__init__(
            monitor=monitored.name,
            mode=monitored.mode,
            patience=config.patience,
            restore_best_weights=True,
        )
        self._start = start

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """See the base class."""
        super().on_train_begin(logs)
        if self._start is not None:
            self.best = self._start
            self.best_weights = self.model.get_weights()


def best(curves: Mapping[str, Sequence[float]], config: TrainerConfig) -> float | None:
    """The best value, in any phase, of what early stopping looks at; None before the first."""
    monitored = MONITORED[config.early_stopping]
    values = [
        value
        for name, of_phase in curves.items()
        if name.rpartition("/")[2] == monitored.name
        for value in of_phase
    ]
    return (min if monitored.mode == "min" else max)(values, default=None)


def class_weights(
    config: TrainerConfig, label_ids: NDArray[np.int64], classes: int
) -> NDArray[np.float32]:
    """The weight of each class in the loss, float32 `[classes]`, 1 for each image on average.

    "balanced" is images / (classes * images of the class), as in scikit-learn.
    """
    if config.class_weights == "none":
        return np.ones(classes, np.float32)
    weights = compute_class_weight("balanced", classes=np.arange(classes), y=label_ids)
    return np.asarray(weights, np.float32)


class MeanRecall(keras.metrics.Metric):
    """The recall of a class, averaged over the classes; keeps the confusion matrix it comes from.

    What says one class for all images has 1 / classes of it, however many images that class has.
    A class without an image counts as 0.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(name="mean_recall")
        self._classes = classes
        # Counts [label, predicted]; float32, which every kind of device adds up with the others'.
        self.confusion = self.add_weight(
            shape=(classes, classes), initializer="zeros", dtype="float32", name="confusion"
        )

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Counts a batch: one-hot labels and probabilities, float32 `[batch, classes]` each."""
        del sample_weight  # A recall is of images.
        self.confusion.assign_add(
            tf.math.confusion_matrix(
                tf.argmax(y_true, -1), tf.argmax(y_pred, -1), self._classes, dtype=tf.float32
            )
        )

    def result(self) -> tf.Tensor:
        """The mean recall so far, float32."""
        counts = tf.convert_to_tensor(self.confusion)
        return tf.reduce_mean(
            tf.math.divide_no_nan(tf.linalg.diag_part(counts), tf.reduce_sum(counts, axis=1))
        )


class WarmUp(keras.callbacks.Callback):
    """Raises the learning rate from near 0 epoch by epoch, where no formula sets it by step."""

    def __init__(self, learning_rate: float, epochs: int) -> None:
        super().__init__()
        self._learning_rate = learning_rate
        self._epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See the base class."""
        if epoch < self._epochs:
            share = (epoch + 1) / (self._epochs + 1)
            self.model.optimizer.learning_rate = self._learning_rate * share
        elif epoch == self._epochs:
            self.model.optimizer.learning_rate = self._learning_rate


def _learning_rate(config: TrainerConfig, learning_rate: float, steps: int, epochs: int) -> Any:
    """A number, or where it follows a formula a schedule that counts the optimizer's steps."""
    if config.schedule == "plateau" or (config.schedule == "constant" and not config.warmup_epochs):
        return learning_rate
    warmup = steps * config.warmup_epochs
    return keras.optimizers.schedules.CosineDecay(
        learning_rate * WARMUP_START if warmup else learning_rate,
        decay_steps=steps * epochs - warmup,
        # Down to this share of the highest; "constant" stays up.
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
