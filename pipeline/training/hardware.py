"""Fits TensorFlow to the machine: threads to the cores it may use, precision to its processors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from edgeline.runtime.threads import cores
from pipeline.training.model import finalize_scaling

# NVIDIA's compute capability from which on float16 is faster than float32.
LEAST_CAPABILITY = (7, 0)

_LOG = logging.getLogger(__name__)


def limit_threads() -> None:
    """Keeps TensorFlow from starting a thread for each core of a host that it may not use.

    Without effect where TensorFlow runs already, in a process that did other steps before.
    """
    usable = cores()
    if usable == len(os.sched_getaffinity(0)):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(usable)
        tf.config.threading.set_inter_op_parallelism_threads(usable)
    except RuntimeError:
        _LOG.info("TensorFlow runs already: its threads are not limited to %d cores", usable)


def compute_policy(precision: str) -> str:
    """The Keras policy to train with.

    Args:
        precision: as `TrainerConfig.precision`; "auto" is "mixed_float16" where every GPU gains by
            it, and else "float32".
    """
    if precision != "auto":
        return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capable = [d.get("compute_capability", (0, 0)) >= LEAST_CAPABILITY for d in details]
    return "mixed_float16" if gpus and all(capable) else "float32"


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Has layers compute as `compute_policy` says that are built inside."""
    keras.config.set_dtype_policy(compute_policy(precision))
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def as_shipped(model: keras.Model) -> keras.Model:
    """The same model with every layer in float32 and a single copy of its variables.

    To be called when Keras' policy is float32 again, outside any strategy's scope. Training with
    mixed precision keeps weights in float32: only the computation changes.

    Args:
        model: base and head, joined.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    cloned = keras.models.clone_model(model, clone_function=clone, recursive=True)
    cloned.set_weights(model.get_weights())
    finalize_scaling(cloned.get_layer("head"))
    return cloned
