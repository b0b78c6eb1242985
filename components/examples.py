"""Reads a split's raw examples through the transform graph, for the steps that need pixels.

Transformed pixels are not kept on disk (a 150x150 image is 270 KB of float32): the graph is applied
where they are needed, by this one reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft


class TransformedExamples:
    """The examples of one split, transformed on the way."""

    def __init__(self, file_patterns: Sequence[str], transform_graph: Path | str) -> None:
        """Finds the files and loads the graph.

        Args:
            file_patterns: globs of gzipped TFRecords of serialized raw tf.Examples.
            transform_graph: folder of a TransformGraph artifact.

        Raises:
            FileNotFoundError: no file matches.
        """
        self._files = sorted(f for pattern in file_patterns for f in tf.io.gfile.glob(pattern))
        if not self._files:
            raise FileNotFoundError(f"no examples at {', '.join(file_patterns)}")
        self.transform = tft.TFTransformOutput(str(transform_graph))
        self._raw_spec = self.transform.raw_feature_spec()
        self._layer = self.transform.transform_features_layer()

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, raw_features: Sequence[str] = ()
    ) -> tf.data.Dataset:
        """Yields a dict of features a batch: the transformed ones and, by name, some raw ones.

        Args:
            batch_size: in examples; the last batch may be smaller.
            shuffle_seed: shuffles the encoded examples, anew each pass; None keeps their order.
            raw_features: names of raw features to pass on, string `[batch]` each.
        """
        examples = tf.data.TFRecordDataset(self._files, compression_type="GZIP")
        if shuffle_seed is not None:
            # Encoded images, not decoded ones: small enough to shuffle thousands in memory.
            examples = examples.shuffle(4096, seed=shuffle_seed)

        def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            raw = tf.io.parse_example(serialized, self._raw_spec)
            passed_on = {name: tf.reshape(raw[name], [-1]) for name in raw_features}
            return {**self._layer(raw), **passed_on}

        batches = examples.batch(batch_size)
        return batches.map(transform, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)

    def raw(self, feature: str) -> Iterator[bytes]:
        """Yields one raw feature of each example, in the order of `batches` without shuffling."""
        spec = {feature: self._raw_spec[feature]}
        for serialized in tf.data.TFRecordDataset(self._files, compression_type="GZIP"):
            value: bytes = tf.io.parse_single_example(serialized, spec)[feature].numpy().item()
            yield value
