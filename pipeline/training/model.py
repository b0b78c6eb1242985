"""The network: a base on normalized pixels, and a classification head.

The base and the head are separate Keras models, so that a frozen base need run only once an image;
`join` makes the one model that is saved and shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing import CHANNELS, PIXELS
from pipeline.errors import UserError
from pipeline.training.base_weights import imagenet_weights_file
from pipeline.training.bases import BASES

PROBABILITIES = "probabilities"
FEATURES = "features"
HEADS = ("pool", "flatten")


def build_base(height: int, width: int, weights: str, name: str = "densenet121") -> keras.Model:
    """Builds a frozen base without its top, which has the name of its record.

    Its output: features, float32 `[batch, height // 32, width // 32, channels]`.

    Args:
        height: of the input, in pixels; at least 32.
        width: of the input, in pixels; at least 32.
        weights: "imagenet", "random" (from Keras' global seed), or the path of a Keras weights
            file of the same network.
        name: of a record in `pipeline.training.bases`.

    Raises:
        UserError: the weights can't be had, or are those of another network.
    """
    record = BASES[name]
    base = getattr(keras.applications, record.constructor)(
        include_top=False,
        weights=None,
        input_shape=(height, width, CHANNELS),
        name=name,
        **record.options,
    )
    for layer in base.layers:
        # Else a frozen base would say something else each time while a head is trained on it.
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    if weights == "imagenet":
        base.load_weights(imagenet_weights_file(record))
    elif weights != "random":
        _load_weights(base, Path(weights))
    # This, and not `training=False` in a call, keeps batch norms in inference mode: in Keras 3 a
    # model passes its own `training` on to its layers, whatever they were called with.
    base.trainable = False
    return base


@dataclass(frozen=True)
class Statistics:
    """Of the base's pooled features on training images.

    Attributes:
        mean: of each feature, float32 `[channels]`.
        variance: averaged over the features.
    """

    mean: NDArray[np.float32]
    variance: float

    @classmethod
    def of(cls, pooled: NDArray[np.float32]) -> Statistics:
        """Of features, float32 `[images, channels]`."""
        return cls(pooled.mean(axis=0), float(pooled.var(axis=0).mean()))


def head_input(base: keras.Model, kind: str) -> keras.Model:
    """The base, up to what is worth keeping for a head: for "pool", a pooled `[1, 1, channels]`.

    A head gives the same for that as for the features it comes from.
    """
    if kind != "pool":
        return base
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(base.output)
    return keras.Model(base.input, pooled)


def build_head(
    kind: str,
    shape: tuple[int, ...],
    classes: int,
    dropout: float,
    statistics: Statistics | None = None,
) -> keras.Model:
    """Builds the head: the base's features to probabilities `[batch, classes]`.

    Args:
        kind: "pool": global average pooling, centred and scaled, one Dense layer (default and
            small); "flatten": the classic recipe's Flatten, Dense 512, Dense.
        shape: of an image's features, `(height, width, channels)`.
        classes: how many.
        dropout: fraction of features dropped while training, before the last Dense layer.
        statistics: what "pool" centres and scales by; None leaves features as they are, which is
            right where the base's last batch norm learns to do it.
    """
    if kind == "pool":
        # Of any height and width: what was pooled before is trained on, too.
        inputs = keras.Input((None, None, shape[-1]), name="features")
        body = _pool_head(inputs, statistics)
    else:
        inputs = keras.Input(shape, name="features")
        flat = keras.layers.Flatten(name="flatten")(inputs)
        body = keras.layers.Dense(512, activation="relu", name="hidden")(flat)
    body = keras.layers.Dropout(dropout, name="dropout")(body)
    probabilities = keras.layers.Dense(
        classes, activation="softmax", dtype="float32", name=PROBABILITIES
    )(body)
    return keras.Model(inputs, probabilities, name="head")


def _pool_head(inputs: keras.KerasTensor, statistics: Statistics | None) -> keras.KerasTensor:
    # Each feature is centred, and all are divided by one number. Without it a linear head on an
    # untrained base needs several times the epochs; with a number for each feature, those that
    # hardly vary are blown up until the rounding of float16 weights decides the class.
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(inputs)
    scaling = keras.layers.Normalization(name="scaling")
    scaled = scaling(pooled)
    if statistics is not None:
        set_scaling(scaling, statistics)
    return scaled


def set_scaling(scaling: keras.layers.Normalization, statistics: Statistics) -> None:
    """Makes a layer centre and scale by statistics, which are among its weights from then on."""
    scaling.adapt_mean.assign(statistics.mean)
    scaling.adapt_variance.assign(np.full_like(statistics.mean, statistics.variance))
    scaling.finalize_state()


def finalize_scaling(head: keras.Model) -> None:
    """Makes a head scale by its weights after these were set: Keras computes with a copy."""
    for layer in head.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def join(base: keras.Model, head: keras.Model) -> keras.Model:
    """Joins base and head into one model: pixels in [0, 1] to probabilities.

    Normalization is the model's first layer, so that no client can forget it.
    """
    pixels = keras.Input(base.input_shape[1:], name=PIXELS)
    normalized = normalization(base)(pixels)
    return keras.Model(pixels, head(base(normalized)), name="classifier")


def normalization(base: keras.Model) -> keras.layers.Layer:
    """The layer that maps RGB in [0, 1] to what a base was made for."""
    scaling = BASES[base.name].scaling
    return keras.layers.Normalization(
        mean=scaling.mean, variance=np.square(scaling.deviation), name=scaling.layer
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
            f"trainer.base_weights: {path} does not hold the weights of a "
            f"{BASES[base.name].constructor} without its top: {reason}"
        ) from error
