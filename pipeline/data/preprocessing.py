"""How the bytes of a raw example become the pixels a model sees.

This is the only place that decides it. Transform traces `preprocessing_fn` into a graph; the
Trainer, the SavedModel's signatures and the TFLite steps all apply that graph, and `contract`
writes the same decision down for the devices, which have no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from components.feature_names import IMAGE, LABEL
from edgeline.contract import PreprocessingContract

PIXELS = "pixels"
CHANNELS = 3


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Turns a batch of raw examples into model inputs (called by TFX Transform).

    Args:
        inputs: `image` (JPEG or PNG) and `label` (UTF-8 name), string `[batch, 1]` each.
        custom_config: `height`, `width` in pixels.

    Returns:
        `pixels`, float32 `[batch, height, width, 3]` in [0, 1], and `label`, string `[batch]`, of
        which a reader makes an id (`components.examples`).
    """
    height, width = custom_config["height"], custom_config["width"]
    pixels = tf.map_fn(
        lambda encoded: rescale(resize(decode_image(encoded), height, width)),
        tf.reshape(inputs[IMAGE], [-1]),
        fn_output_signature=tf.TensorSpec([height, width, CHANNELS], tf.float32),
    )
    return {PIXELS: pixels, LABEL: tf.reshape(inputs[LABEL], [-1])}


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one JPEG or PNG to uint8 `[height, width, 3]` RGB; gray is repeated.

    EXIF orientation is not looked at: ingest has already applied it.
    """
    return tf.cond(
        tf.io.is_jpeg(encoded),
        # The exact DCT is what Pillow and libjpeg use by default; TensorFlow's own default is a
        # faster one that differs by a few grey levels.
        lambda: tf.io.decode_jpeg(encoded, channels=CHANNELS, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=CHANNELS),
    )


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes uint8 `[h, w, 3]` to float32 `[height, width, 3]`: bilinear, half-pixel centres."""
    return tf.image.resize(image, [height, width])


def rescale(image: tf.Tensor) -> tf.Tensor:
    """Maps [0, 255] to [0, 1]."""
    return image / 255.0


def contract(
    height: int, width: int, max_side: int, labels: Sequence[str]
) -> PreprocessingContract:
    """The same preprocessing, written down for a device, with what ingest did before."""
    return PreprocessingContract(
        height=height, width=width, max_side=max_side, labels=tuple(labels)
    )
