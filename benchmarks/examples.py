"""Raw examples and their transform graph, made without running a pipeline."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from components.records import compression
from pipeline.preprocessing import IMAGE, LABEL, preprocessing_fn


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
    schema: schema_pb2.Schema = schema_utils.schema_from_feature_spec(spec, domains)
    settings = {"height": side, "width": side}
    with (
        beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        nothing = pipeline | beam.Create([], reshuffle=False)
        metadata = dataset_metadata.DatasetMetadata(schema)
        graph = (nothing, metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, settings)
        )
        _ = graph | tft_beam.WriteTransformFn(str(folder / "graph"))
        _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / "metadata"), pipeline)
    return folder / "graph"


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
