"""What Keras has no public name for is still what it was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training.keras_internals import (
    SEED,
    clipping_the_sum,
    layers_read_by,
    remembered,
    remind,
)


def test_a_layer_tells_what_it_reads() -> None:
    inputs = keras.Input((4,), name="pixels")
    left, right = (keras.layers.Dense(2, name=name)(inputs) for name in ("left", "right"))
    model = keras.Model(inputs, keras.layers.Concatenate(name="both")([left, right]))
    assert layers_read_by(model.get_layer("left")) == ["pixels"]
    assert layers_read_by(model.get_layer("both")) == ["left", "right"]


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_a_gradient_is_clipped_once_when_its_parts_are_added_up(optimizer: Any) -> None:
    """By a strategy's optimizer, which adds parts up: Keras' own clips each part before."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    clipped: list[list[float]] = []

    class Observed(optimizer):
        def _clip_gradients(self, grads: list[tf.Tensor]) -> list[tf.Tensor]:
            clipped.append([float(tf.norm(grad)) for grad in grads])
            result: list[tf.Tensor] = super()._clip_gradients(grads)
            clipped.append([float(tf.norm(grad)) for grad in result])
            return result

    with strategy.scope():
        variable = keras.Variable(np.zeros(2, np.float32))
        made = clipping_the_sum(Observed)(learning_rate=1.0, global_clipnorm=1.0)
        made.build([variable])
    made.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
    assert clipped == [[5.0], [pytest.approx(1.0)]]
    assert made.__class__.__name__ == "Observed"


def test_a_callback_goes_on_with_what_another_remembered() -> None:
    first = keras.callbacks.EarlyStopping("val_loss", patience=3)
    first.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    first.on_train_begin()
    for epoch, loss in enumerate((0.5, 0.4, 0.6)):
        first.on_epoch_end(epoch, {"val_loss": loss})
    assert remembered(first) == {"best": 0.4, "wait": 1, "best_epoch": 1, "stopped_epoch": 0}
    second = keras.callbacks.EarlyStopping("val_loss", patience=3)
    second.on_train_begin()
    remind(second, remembered(first))
    assert remembered(second) == remembered(first)
    plateau = keras.callbacks.ReduceLROnPlateau()
    plateau.on_train_begin()
    assert {"best", "wait", "cooldown_counter"} <= remembered(plateau).keys()


def test_what_draws_random_numbers_has_its_name() -> None:
    dropout = keras.layers.Dropout(0.5, seed=1)
    assert [variable.name for variable in dropout.variables] == [SEED]
