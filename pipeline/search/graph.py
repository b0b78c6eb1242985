"""The transform graph that the Transform step would write, made without a pipeline.

Nothing is learned from the data: what makes pixels is the same for any of them.
"""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata

from pipeline.data.preprocessing import preprocessing_fn


def write_transform_graph(folder: Path, schema: schema_pb2.Schema, height: int, width: int) -> Path:
    """Writes the graph for images of a size in pixels; returns its folder, `folder/graph`.

    Args:
        folder: made where it is missing.
        schema: of the raw examples.
        height: of the pixels.
        width: of the pixels.
    """
    settings = {"height": height, "width": width}
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
