"""What has no public name in Keras, in one place: an update of Keras that moves it breaks this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

SEED = "seed_generator_state"  # the name of the variable that random numbers are drawn from

# Of callbacks, what they remember from epoch to epoch.
_REMEMBERED = ("best", "wait", "best_epoch", "stopped_epoch", "cooldown_counter")


def layers_read_by(layer: keras.layers.Layer) -> list[str]:
    """Names of the layers whose outputs a layer of a functional model reads."""
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in inputs]


def clipping_the_sum(optimizer: Any) -> Any:
    """A Keras optimizer that clips a gradient after the devices' parts are added up, not before."""

    class ClippingTheSum(optimizer):
        def _clip_gradients(self, grads: list[tf.Tensor]) -> list[tf.Tensor]:
            return grads

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[tuple[tf.Tensor, Any]]:
            summed, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
            return list(zip(super()._clip_gradients(list(summed)), variables, strict=True))

    ClippingTheSum.__name__ = optimizer.__name__  # by which Keras names it, and its variables
    return ClippingTheSum


def remembered(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """What a callback remembers from epoch to epoch, as plain numbers."""
    found = {name: vars(callback)[name] for name in _REMEMBERED if name in vars(callback)}
    return {n: v if v is None or isinstance(v, int) else float(v) for n, v in found.items()}


def remind(callback: keras.callbacks.Callback, values: Mapping[str, Any]) -> None:
    """Gives a callback back what it, or one like it, remembered."""
    vars(callback).update(values)
