"""Reads a split's raw examples through the transform graph, for the steps that need pixels.

Transformed pixels are not kept on disk (a 150x150 image is 270 KB of float32): the graph is applied
where they are needed, by this one reader. Labels become ids here, and not in the graph: the labels
are in the schema that the graph was made for, so that no step is told them in its settings, where
thousands of them don't fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2

from components.feature_names import LABEL, LABEL_ID, UNKNOWN_LABEL
from components.records import compression, skim
from components.saved_transform import mapped

SHUFFLE_BUFFER = 4096  # examples
SEEDS_APART = 100_003  # a prime above any number of epochs: no two orders share a seed

Cut = Callable[[tf.data.Dataset], tf.data.Dataset]


def _uncut(batches: tf.data.Dataset) -> tf.data.Dataset:
    return batches


def labels_of(schema: schema_pb2.Schema) -> tuple[str, ...]:
    """The class names in their order: the domain that a schema gives the feature `label`.

    Raises:
        ValueError: it gives none.
    """
    for feature in schema.feature:
        if feature.name == LABEL and feature.string_domain.value:
            return tuple(feature.string_domain.value)
    raise ValueError(f"the schema has no string_domain, which lists the classes, for {LABEL!r}")


class LabelIds:
    """Looks labels up in the fixed list: string `[batch]` to int64 `[batch]`, -1 if unknown.

    Not a TFT vocabulary, which is ordered by frequency: ids would move from run to run. Nor a hash
    table, which a SavedModel would initialize, and a TFLite file made from it, too.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)

    def __call__(self, names: tf.Tensor) -> tf.Tensor:
        matches = tf.equal(names[:, tf.newaxis], tf.constant(self._labels)[tf.newaxis, :])
        known = tf.reduce_any(matches, axis=1)
        return tf.where(known, tf.argmax(matches, axis=1), tf.constant(UNKNOWN_LABEL, tf.int64))


class TransformedExamples:
    """The examples of one split, transformed on the way."""

    def __init__(self, file_patterns: Sequence[str], transform_graph: Path | str) -> None:
        """Finds the files (`files`), loads the graph (`transform`), and reads the `labels`.

        Args:
            file_patterns: globs of TFRecords of serialized raw tf.Examples, gzipped if their names
                end in `.gz`.
            transform_graph: folder of a TransformGraph artifact.

        Raises:
            FileNotFoundError: no file matches.
            ValueError: the schema that the graph was made for lists no labels.
        """
        self.files = example_files(file_patterns)
        self.transform = tft.TFTransformOutput(str(transform_graph))
        self.labels = labels_of(self.transform.raw_metadata.schema)
        self._raw_spec = self.transform.raw_feature_spec()
        self._label_ids = LabelIds(self.labels)
        self._layer = self.transform.transform_features_layer()

    def batches(
        self,
        batch_size: int,
        *,
        skip: int = 0,
        cut: Cut = _uncut,
    ) -> tf.data.Dataset:
        """Yields a dict of features a batch, in order.

        Among the transformed are `pixels`, float32 `[batch, height, width, 3]` in [0, 1], and
        `label_id`, int64 `[batch]`, which is -1 for a name that is not among the labels.

        Args:
            batch_size: in examples; the last batch may be smaller.
            skip: examples to leave out at the beginning; they are not decoded.
            cut: what becomes of the batches before they are decoded.
        """
        batches = cut(self._serialized().skip(skip).batch(batch_size))
        return mapped(batches, self._features)

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
            return indices, epoch, self._features(serialized)

        batches = reduce(tf.data.Dataset.concatenate, map(one_epoch, range(first, last)))
        return mapped(batches, transform)

    def skim(self, *names: str) -> Iterator[Mapping[str, bytes]]:
        """Yields raw bytes features of each example, in the order of `batches`.

        Images are not read on the way, where the files are not compressed: this is no pass over
        the data.

        Raises:
            ValueError: a file is damaged.
        """
        for file in self.files:
            for record in skim(file, names):
                yield record.features

    def _features(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """The transformed features of serialized examples, string `[batch]`, and label ids."""
        features = self._layer(tf.io.parse_example(serialized, self._raw_spec))
        return {**features, LABEL_ID: self._label_ids(features[LABEL])}

    def _serialized(self) -> tf.data.Dataset:
        return serialized_examples(self.files)


def example_files(patterns: Sequence[str]) -> list[str]:
    """The files that globs match, in order.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise FileNotFoundError(f"no examples at {', '.join(patterns)}")
    return files


def serialized_examples(files: Sequence[str]) -> tf.data.Dataset:
    """The records of TFRecord files, one after another, string `[]`; plain or gzipped each."""
    compressions = [compression(file) for file in files]
    return tf.data.Dataset.from_tensor_slices((list(files), compressions)).flat_map(
        lambda file, kind: tf.data.TFRecordDataset(file, compression_type=kind)
    )
