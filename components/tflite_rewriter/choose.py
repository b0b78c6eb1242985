"""Chooses the real images that variants are calibrated with, checked with and tuned by.

The choice depends on the images alone, not on the files they lie in or on their order there.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.examples import TransformedExamples
from components.tflite_rewriter.images import Images

BATCH = 32  # images


def balanced_images(file_patterns: Sequence[str], transform_graph: Path, count: int) -> Images:
    """Chooses images evenly over the classes; a class that has too few leaves room to the others.

    Args:
        file_patterns: globs of gzipped TFRecords of serialized raw tf.Examples.
        transform_graph: folder of a TransformGraph artifact.
        count: at most so many.

    Raises:
        FileNotFoundError: no file matches, or there is no image in them.
    """
    by_label: dict[str, list[str]] = defaultdict(list)
    for image_id, label in _sorted_ids_and_labels(file_patterns):
        by_label[label].append(image_id)
    # One of each class in turn, until there are enough.
    turns = zip_longest(*(by_label[label] for label in sorted(by_label)))
    chosen = [image_id for image_id in chain.from_iterable(turns) if image_id is not None]
    return _read(file_patterns, transform_graph, chosen[:count])


def first_images(file_patterns: Sequence[str], transform_graph: Path, count: int) -> Images:
    """Chooses the images whose ids come first: hashes, so a fair sample of the split.

    Args and raises: as `balanced_images`.
    """
    ids = [image_id for image_id, _ in _sorted_ids_and_labels(file_patterns)]
    return _read(file_patterns, transform_graph, ids[:count])


def _sorted_ids_and_labels(file_patterns: Sequence[str]) -> list[tuple[str, str]]:
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image_id", "label")}
    rows: list[tuple[bytes, bytes]] = []
    for batch in _records(file_patterns).batch(BATCH).map(lambda s: tf.io.parse_example(s, spec)):
        rows += zip(batch["image_id"].numpy(), batch["label"].numpy(), strict=True)
    return sorted((image_id.decode(), label.decode()) for image_id, label in rows)


def _read(file_patterns: Sequence[str], transform_graph: Path, chosen: Sequence[str]) -> Images:
    """Transforms the chosen images, and decodes no others."""
    if not chosen:
        raise FileNotFoundError(f"no image at {', '.join(file_patterns)}: at least one is needed")
    wanted = set(chosen)
    found: dict[str, bytes] = {}
    for record in _records(file_patterns).as_numpy_iterator():
        image_id = tf.train.Example.FromString(record).features.feature["image_id"]
        name = image_id.bytes_list.value[0].decode()
        if name in wanted:
            found[name] = record
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "chosen.gz")
        with tf.io.TFRecordWriter(file, "GZIP") as writer:
            for image_id in chosen:
                writer.write(found[image_id])
        batches = list(TransformedExamples([file], transform_graph).batches(BATCH))
    return Images(
        tuple(chosen),
        np.concatenate([batch["pixels"].numpy() for batch in batches]),
        np.concatenate([batch["label_id"].numpy() for batch in batches]),
    )


def _records(file_patterns: Sequence[str]) -> tf.data.Dataset:
    files = sorted(f for pattern in file_patterns for f in tf.io.gfile.glob(pattern))
    if not files:
        raise FileNotFoundError(f"no examples at {', '.join(file_patterns)}")
    return tf.data.TFRecordDataset(files, compression_type="GZIP")
