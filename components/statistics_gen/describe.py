"""Describes raw examples by TFDV, and images by their sizes instead of their bytes.

A worker reads a file of examples and puts, in the place of each image, the bytes that it takes and
its width and height, which its header tells. Nothing larger goes through Beam. TFDV makes its usual
statistics of these numbers, and in the end they become those of the feature `image`. So
ExampleValidator finds the features that the schema names, and no others.

`image_id` and `source` are different in each example: how often each of their values occurs is not
counted. Of other strings TFDV counts in a sketch, which takes the same memory for any number.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
import tensorflow_data_validation as tfdv  # type: ignore[import-untyped]
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.examples import serialized_examples
from components.feature_names import IMAGE, IMAGE_ID, SOURCE

# What stands for an image on its way through TFDV.
BYTES, WIDTH, HEIGHT = f"{IMAGE}/bytes", f"{IMAGE}/width", f"{IMAGE}/height"
IDENTITIES = (IMAGE_ID, SOURCE)
FORMATS = ("JPEG", "PNG")
BATCH_EXAMPLES = 256
BATCH_BYTES = 2**24  # of examples, unless a single one has more


@beam.ptransform_fn
@beam.typehints.with_input_types(beam.Pipeline)
def describe(
    pipeline: beam.Pipeline, files: Sequence[str], schema: schema_pb2.Schema, output: str
) -> beam.PCollection:
    """Writes the statistics of examples, a serialized DatasetFeatureStatisticsList.

    Of `image`: how many examples have one, bytes encoded, and by the names `width` and `height`
    histograms in pixels; `unreadable` is how many have a header that tells no size.

    Args:
        pipeline: to add this to.
        files: of TFRecords of raw examples; each is read by one worker.
        schema: of the examples.
        output: file to write.
    """
    options = tfdv.StatsOptions(
        schema=_without_counts_of_identities(schema), use_sketch_based_topk_uniques=True
    )
    return (
        pipeline
        | "Files" >> beam.Create(files, reshuffle=False)
        | "Distribute" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(record_batches).with_output_types(pa.RecordBatch)
        | "Describe" >> tfdv.GenerateStatistics(options)
        | "Images" >> beam.Map(with_images)
        | "Write" >> tfdv.WriteStatisticsToBinaryFile(output)
    )


def record_batches(file: str) -> Iterator[pa.RecordBatch]:
    """Reads a file of TFRecords of examples, without their images."""
    decoder = ExamplesToRecordBatchDecoder()
    for records in _batches(serialized_examples([file]).as_numpy_iterator()):
        yield _with_sizes(decoder.DecodeBatch(records))


def with_images(
    described: statistics_pb2.DatasetFeatureStatisticsList,
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Makes what is known of images' numbers the statistics of the images."""
    result = statistics_pb2.DatasetFeatureStatisticsList()
    result.CopyFrom(described)
    for dataset in result.datasets:
        found = {feature.path.step[0]: feature for feature in dataset.features}
        others = [feature for name, feature in found.items() if name not in (BYTES, WIDTH, HEIGHT)]
        images = [_of_images(found)] if BYTES in found else []
        del dataset.features[:]
        dataset.features.extend([*others, *images])
    return result


def _of_images(
    found: dict[str, statistics_pb2.FeatureNameStatistics],
) -> statistics_pb2.FeatureNameStatistics:
    size = found[BYTES].num_stats
    described = statistics_pb2.FeatureNameStatistics(
        path={"step": [IMAGE]},
        type=statistics_pb2.FeatureNameStatistics.BYTES,
        bytes_stats=statistics_pb2.BytesStatistics(
            common_stats=size.common_stats,
            avg_num_bytes=size.mean,
            min_num_bytes=size.min,
            max_num_bytes=size.max,
            max_num_bytes_int=int(size.max),
        ),
    )
    readable = 0
    for name, feature in (("width", WIDTH), ("height", HEIGHT)):
        if feature in found:
            pixels = found[feature].num_stats
            readable = pixels.common_stats.tot_num_values
            described.custom_stats.add(name=name, histogram=pixels.histograms[0])
    unreadable = size.common_stats.tot_num_values - readable
    described.custom_stats.add(name="unreadable", num=unreadable)
    return described


def _without_counts_of_identities(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    result = schema_pb2.Schema()
    result.CopyFrom(schema)
    for feature in result.feature:
        if feature.name in IDENTITIES:
            feature.string_domain.is_categorical = schema_pb2.StringDomain.CATEGORICAL_NO
    return result


def _batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and (len(batch) == BATCH_EXAMPLES or size + len(record) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield batch


def _with_sizes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Puts sizes in the place of images; what are no bytes stay, for ExampleValidator to see."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if IMAGE not in columns or not _is_bytes(columns[IMAGE].type):
        return batch
    images: list[list[bytes] | None] = columns.pop(IMAGE).to_pylist()
    pixels = [[_pixels(image) for image in row or ()] for row in images]
    numbers = {
        BYTES: [None if row is None else [len(image) for image in row] for row in images],
        WIDTH: [[size[0] for size in row if size] or None for row in pixels],
        HEIGHT: [[size[1] for size in row if size] or None for row in pixels],
    }
    kind = pa.large_list(pa.int64())
    columns |= {name: pa.array(values, kind) for name, values in numbers.items()}
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _is_bytes(kind: pa.DataType) -> bool:
    value = getattr(kind, "value_type", None)
    return value is not None and (pa.types.is_binary(value) or pa.types.is_large_binary(value))


def _pixels(image: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, by the header; None if it tells none."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
