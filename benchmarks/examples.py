"""Raw examples and their transform graph, made without running a pipeline."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils

from components.feature_names import IMAGE, LABEL
from components.records import compression
from pipeline.search import graph


def png(image: NDArray[np.uint8]) -> bytes:
    """Encodes an image, uint8 `[height, width]` or `[height, width, 3]`."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_examples(file: Path, examples: Iterable[tuple[bytes, str]]) -> list[str]:
    """Writes encoded images and their labels; returns the file's pattern.

    Args:
        file: of TFRecords, gzipped if its name ends in `.gz`.
        examples: encoded images and labels.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file), compression(str(file))) as writer:
        for image, label in examples:
            feature = {IMAGE: _bytes(image), LABEL: _bytes(label.encode())}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return [str(file)]


def write_transform_graph(folder: Path, side: int, labels: Sequence[str]) -> Path:
    """Writes what the Transform step would, for square images of a side in pixels."""
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (IMAGE, LABEL)}
    domains = {LABEL: schema_pb2.StringDomain(value=labels)}
    schema = schema_utils.schema_from_feature_spec(spec, domains)
    return graph.write_transform_graph(folder, schema, side, side)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
