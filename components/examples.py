"""Reads a split's raw examples through the transform graph, for the steps that need pixels.

Transformed pixels are not kept on disk (a 150x150 image is 270 KB of float32): the graph is applied
where they are needed, by this one reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft

SHUFFLE_BUFFER = 4096  # examples
SEEDS_APART = 100_003  # a prime above any number of epochs: no two orders share a seed
RAW_BATCH = 256  # examples

Cut = Callable[[tf.data.Dataset], tf.data.Dataset]


def _uncut(batches: tf.data.Dataset) -> tf.data.Dataset:
    return batches


class TransformedExamples:
    """The examples of one split, transformed on the way."""

    def __init__(self, file_patterns: Sequence[str], transform_graph: Path | str) -> None:
        """Finds the files (`files`) and loads the graph (`transform`).

        Args:
            file_patterns: globs of gzipped TFRecords of serialized raw tf.Examples.
            transform_graph: folder of a TransformGraph artifact.

        Raises:
            FileNotFoundError: no file matches.
        """
        self.files = sorted(f for pattern in file_patterns for f in tf.io.gfile.glob(pattern))
        if not self.files:
            raise FileNotFoundError(f"no examples at {', '.join(file_patterns)}")
        self.transform = tft.TFTransformOutput(str(transform_graph))
        self._raw_spec = self.transform.raw_feature_spec()
        self._layer = self.transform.transform_features_layer()

    def batches(
        self,
        batch_size: int,
        *,
        skip: int = 0,
        raw_features: Sequence[str] = (),
        cut: Cut = _uncut,
    ) -> tf.data.Dataset:
        """Yields a dict of features a batch, in order: the transformed and, by name, some raw ones.

        Args:
            batch_size: in examples; the last batch may be smaller.
            skip: examples to leave out at the beginning; they are not decoded.
            raw_features: names of raw features to pass on, string `[batch]` each.
            cut: what becomes of the batches before they are decoded.
        """

        def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            raw = tf.io.parse_example(serialized, self._raw_spec)
            passed_on = {name: tf.reshape(raw[name], [-1]) for name in raw_features}
            return {**self._layer(raw), **passed_on}

        batches = cut(self._serialized().skip(skip).batch(batch_size))
        return batches.map(transform, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)

    def epochs(
        self, batch_size: int, first: int, last: int, seed: int, *, cut: Cut = _uncut
    ) -> tf.data.Dataset:
        """Yields the batches of several epochs, each shuffled as its number and the seed say.

        Args:
            batch_size: in examples; an epoch's last batch may be smaller.
            first: number of the first epoch.
            last: number of the epoch to stop before.
            seed: of the order.
            cut: what becomes of an epoch's batches before they are decoded.

        Returns:
            The index of each example in the files' order, int64 `[batch]`; the epoch, int64; and a
            dict of the transformed features.
        """

        def one_epoch(epoch: int) -> tf.data.Dataset:
            # Encoded images, not decoded ones: small enough to shuffle thousands in memory.
            order = seed * SEEDS_APART + epoch
            examples = self._serialized().enumerate()
            examples = examples.shuffle(SHUFFLE_BUFFER, seed=order, reshuffle_each_iteration=False)
            number = tf.constant(epoch, tf.int64)
            batches = cut(examples.batch(batch_size))
            return batches.map(lambda *batch: (batch[0], number, batch[1]))

        def transform(
            indices: tf.Tensor, epoch: tf.Tensor, serialized: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
            features = self._layer(tf.io.parse_example(serialized, self._raw_spec))
            return indices, epoch, features

        batches = reduce(tf.data.Dataset.concatenate, map(one_epoch, range(first, last)))
        return batches.map(transform, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)

    def raw_batches(self, feature: str) -> Iterator[tf.Tensor]:
        """Yields one raw feature, string `[batch]`, in the order of `batches`; nothing is decoded.

        Args:
            feature: its name.
        """
        spec = {feature: self._raw_spec[feature]}
        for serialized in self._serialized().batch(RAW_BATCH):
            yield tf.reshape(tf.io.parse_example(serialized, spec)[feature], [-1])

    def raw(self, feature: str) -> Iterator[bytes]:
        """Yields one raw feature of each example, in the order of `batches`."""
        spec = {feature: self._raw_spec[feature]}
        for serialized in self._serialized():
            value: bytes = tf.io.parse_single_example(serialized, spec)[feature].numpy().item()
            yield value

    def _serialized(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(self.files, compression_type="GZIP")
