"""Randomly changed views of images: rotated, shifted, zoomed, mirrored.

A view is drawn from the seed, the image's place in the data and the view's number, and from nothing
else. So it is the same whether features are cached or not, and after a run was resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import tensorflow as tf

from pipeline.config import TrainerConfig

DRAWS = 6  # rotation, shift x, shift y, zoom x, zoom y, flip


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn; see the settings `trainer.augment_*`.

    Attributes:
        views: of each image; 0 leaves images as they are.
        rotation: degrees to either side, at most.
        shift: share of width and height to either side, at most.
        zoom: share by which width and height, each on its own, are nearer or farther, at most.
        flip: mirror every other view.
        seed: of the draws.
    """

    views: int
    rotation: float
    shift: float
    zoom: float
    flip: bool
    seed: int

    @classmethod
    def of(cls, config: TrainerConfig) -> Augmentation:
        """As configured, with no more views than a phase has epochs to show them in."""
        return cls(
            views=min(config.augment_views, max(config.epochs, config.fine_tune_epochs)),
            rotation=config.augment_rotation,
            shift=config.augment_shift,
            zoom=config.augment_zoom,
            flip=config.augment_flip,
            seed=config.seed,
        )

    @property
    def rows(self) -> int:
        """How many rows an image has in a cache: one a view, or one."""
        return max(1, self.views)

    def __call__(self, pixels: tf.Tensor, indices: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
        """Draws one view of each image.

        Args:
            pixels: float32 `[batch, height, width, 3]`.
            indices: of the images in the data, int64 `[batch]`.
            views: the number of the view to draw of each, int64 `[batch]`.

        Returns:
            As `pixels`: sampled bilinearly, the edge repeated beyond the edge.
        """
        return self.change(pixels, self._draw(indices, views)) if self.views else pixels

    def change(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Changes each image as drawn.

        Args:
            pixels: float32 `[batch, height, width, 3]`.
            draws: in [-1, 1), float32 `[batch, DRAWS]`: each as a share of what is allowed at most;
                below 0, the last one mirrors.

        Returns:
            As `pixels`.
        """
        shape = tf.shape(pixels)
        height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
        transforms = self._transforms(draws, height, width)
        return keras.ops.image.affine_transform(
            pixels, transforms, interpolation="bilinear", fill_mode="nearest"
        )

    def all_views(self, pixels: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        """Draws every view of each image: `[batch * rows, height, width, 3]`, an image's together.

        Args:
            pixels: float32 `[batch, height, width, 3]`.
            indices: of the images in the data, int64 `[batch]`.
        """
        if not self.views:
            return pixels
        views = tf.tile(tf.range(self.views, dtype=tf.int64), [tf.shape(pixels)[0]])
        return self(tf.repeat(pixels, self.views, 0), tf.repeat(indices, self.views), views)

    def _draw(self, indices: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
        """Uniform numbers in [-1, 1), float32 `[batch, DRAWS]`."""
        seed = tf.constant(self.seed, tf.int64)

        def draw(number: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_uniform([DRAWS], [seed, number], -1.0, 1.0)

        numbers = indices * self.views + views
        return tf.map_fn(draw, numbers, fn_output_signature=tf.TensorSpec([DRAWS], tf.float32))

    def _transforms(self, draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """From an output pixel to the place to sample at, about the centre; float32 `[batch, 8]`.

        With `R` for rotation, `S` for shift, `Z` for zoom by axis and `F` for the flip, it is
        `R S Z F`, as in Keras' ImageDataGenerator: a shift is along the axes of the turned image.
        """
        turn = draws[:, 0] * math.radians(self.rotation)
        zoom_x, zoom_y = 1.0 + self.zoom * draws[:, 3], 1.0 + self.zoom * draws[:, 4]
        side = tf.where(draws[:, 5] < 0.0, -1.0, 1.0) if self.flip else tf.ones_like(turn)
        cos, sin = tf.cos(turn), tf.sin(turn)
        shift_x, shift_y = self.shift * draws[:, 1] * width, self.shift * draws[:, 2] * height
        xx, xy = cos * zoom_x * side, -sin * zoom_y
        yx, yy = sin * zoom_x * side, cos * zoom_y
        centre_x, centre_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
        x = centre_x - xx * centre_x - xy * centre_y + cos * shift_x - sin * shift_y
        y = centre_y - yx * centre_x - yy * centre_y + sin * shift_x + cos * shift_y
        zero = tf.zeros_like(turn)
        return tf.stack([xx, xy, x, yx, yy, y, zero, zero], axis=1)
