"""Finds the signatures of a Trainer's SavedModel; makes pixels by the one `transform_features`.

That is the transform graph, as the Trainer saved it with the network. A step that loads the model
needs neither that graph nor TensorFlow Transform, which take seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components.feature_names import IMAGE
from edgeline.errors import ModelError


def signature(loaded: Any, name: str) -> Any:
    """A signature of a SavedModel.

    Raises:
        ModelError: it has none of that name.
    """
    if name not in loaded.signatures:
        raise ModelError(
            f"expected a SavedModel with the signature {name}, as the Trainer saves it; it has "
            + (", ".join(loaded.signatures) or "none")
        )
    return loaded.signatures[name]


def mapped(batches: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Applies a function to several batches at once; they stay in order."""
    # There is no Python control flow on tensors to rewrite, and looking for it takes seconds.
    function = tf.autograph.experimental.do_not_convert(function)
    return batches.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def transformed(
    loaded: Any, serialized: tf.data.Dataset, batch_size: int, *, with_images: bool = False
) -> tf.data.Dataset:
    """Yields a dict of features a batch of serialized raw examples, string `[]`, in order.

    They are `pixels`, float32 `[batch, height, width, 3]` in [0, 1], and `label_id`, int64
    `[batch]`, which is -1 for a name that is not among the labels.

    Args:
        loaded: a SavedModel of the Trainer's.
        serialized: the examples.
        batch_size: in examples; the last batch may be smaller.
        with_images: whether `image`, string `[batch]`, is among the features: as it is encoded.

    Raises:
        ModelError: the model makes no pixels.
    """
    transform = signature(loaded, "transform_features")
    encoded = {IMAGE: tf.io.FixedLenFeature([], tf.string)}

    def features(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.io.parse_example(batch, encoded) if with_images else {}
        return {**transform(examples=batch), **images}

    return mapped(serialized.batch(batch_size), features)
