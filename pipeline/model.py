"""The network: DenseNet121 on normalized pixels, and a classification head.

The base and the head are separate Keras models, so that a frozen base need run only once an image;
`join` makes the one model that is saved and shipped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.base_weights import imagenet_weights_file
from pipeline.errors import UserError
from pipeline.preprocessing import CHANNELS, PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROBABILITIES = "probabilities"


def build_base(height: int, width: int, weights: str) -> keras.Model:
    """Builds a frozen DenseNet121 without its top.

    Its output: features, float32 `[batch, height // 32, width // 32, 1024]`.

    Args:
        height: of the input, in pixels; at least 32.
        width: of the input, in pixels; at least 32.
        weights: "imagenet", "random" (from Keras' global seed), or the path of a Keras weights
            file of the same network.

    Raises:
        UserError: the weights can't be had, or are those of another network.
    """
    base = keras.applications.DenseNet121(
        include_top=False, weights=None, input_shape=(height, width, CHANNELS)
    )
    if weights == "imagenet":
        base.load_weights(imagenet_weights_file())
    elif weights != "random":
        _load_weights(base, Path(weights))
    # This, and not `training=False` in a call, keeps batch norms in inference mode: in Keras 3 a
    # model passes its own `training` on to its layers, whatever they were called with.
    base.trainable = False
    return base


def build_head(
    kind: str, features: NDArray[np.float32], classes: int, dropout: float
) -> keras.Model:
    """Builds the head: the base's features to probabilities `[batch, classes]`.

    Args:
        kind: "pool": global average pooling, centred and scaled, one Dense layer (default and
            small); "flatten": the classic recipe's Flatten, Dense 512, Dense.
        features: of the training images, float32 `[images, height, width, channels]`.
        classes: how many.
        dropout: fraction of features dropped while training, before the last Dense layer.
    """
    inputs = keras.Input(features.shape[1:], name="features")
    body = HEADS[kind](inputs, features)
    body = keras.layers.Dropout(dropout)(body)
    probabilities = keras.layers.Dense(classes, activation="softmax", name=PROBABILITIES)(body)
    return keras.Model(inputs, probabilities, name="head")


def _pool_head(inputs: keras.KerasTensor, features: NDArray[np.float32]) -> keras.KerasTensor:
    # Each feature is centred, and all are divided by one number. Without it a linear head on an
    # untrained base needs several times the epochs; with a number for each feature, those that
    # hardly vary are blown up until the rounding of float16 weights decides the class.
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    values = features.mean(axis=(1, 2))
    variance = np.full(values.shape[1], values.var(axis=0).mean())
    return keras.layers.Normalization(mean=values.mean(axis=0), variance=variance)(pooled)


def _flatten_head(inputs: keras.KerasTensor, features: NDArray[np.float32]) -> keras.KerasTensor:
    del features
    return keras.layers.Dense(512, activation="relu")(keras.layers.Flatten()(inputs))


HEADS: dict[str, Callable[[keras.KerasTensor, NDArray[np.float32]], keras.KerasTensor]] = {
    "pool": _pool_head,
    "flatten": _flatten_head,
}


def join(base: keras.Model, head: keras.Model) -> keras.Model:
    """Joins base and head into one model: pixels in [0, 1] to probabilities.

    Normalization to ImageNet's mean and variance is the model's first layer, so that no client can
    forget it. The base's batch norms run in inference mode, since they are never trainable.
    """
    pixels = keras.Input(base.input_shape[1:], name=PIXELS)
    normalized = normalization()(pixels)
    return keras.Model(pixels, head(base(normalized)), name="classifier")


def normalization() -> keras.layers.Layer:
    """The layer that maps RGB in [0, 1] to ImageNet's zero mean and unit variance."""
    return keras.layers.Normalization(
        mean=IMAGENET_MEAN, variance=np.square(IMAGENET_STD), name="imagenet_normalization"
    )


def unfreeze(base: keras.Model, last_layers: int) -> None:
    """Makes the last layers of the base trainable, except its batch norms, and freezes the rest.

    Raises:
        UserError: none of the chosen layers has weights to train.
    """
    base.trainable = True
    first = len(base.layers) - last_layers
    for index, layer in enumerate(base.layers):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= first and not is_batch_norm
    if not base.trainable_weights:
        raise UserError(
            f"trainer.fine_tune_layers: the base's last {last_layers} layers have no weights to "
            "train (batch norms stay frozen): choose at least 4"
        )


def _load_weights(base: keras.Model, path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"trainer.base_weights: no such file: {path}\n"
            'expected "imagenet", "random" or the path of a Keras .h5 or .weights.h5 file'
        )
    try:
        base.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"trainer.base_weights: {path} does not hold the weights of a DenseNet121 without its "
            f"top: {reason}"
        ) from error
