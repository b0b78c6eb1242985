"""Statistics of raw examples: of images their sizes, and nothing that grows with their number."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv  # type: ignore[import-untyped]
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import (
    DatasetFeatureStatisticsList,
    FeatureNameStatistics,
)
from tfx.types import standard_artifacts
from tfx.types.artifact_utils import encode_split_names

from components.example_validator.step import validate
from components.statistics_gen import describe
from components.statistics_gen.executor import Executor

FEATURES = ("image", "label", "image_id", "source", "camera")
SIZES = [(40, 30), (64, 48), (8, 100)]


def encoded(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


IMAGES = [encoded(size, kind) for size, kind in zip(SIZES, ("JPEG", "PNG", "JPEG"), strict=True)]


def example(**features: bytes) -> bytes:
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    content: bytes = tf.train.Example(
        features=tf.train.Features(feature=feature)
    ).SerializeToString()
    return content


def rows(images: Sequence[bytes], label: bytes = b"cat") -> list[bytes]:
    return [
        example(
            image=image,
            label=label,
            image_id=b"%d" % index,
            source=b"photos/%d.jpg" % index,
            camera=b"left" if index % 2 else b"right",
        )
        for index, image in enumerate(images)
    ]


@pytest.fixture
def schema() -> schema_pb2.Schema:
    """As ingest writes it."""
    made = schema_pb2.Schema()
    for name in FEATURES:
        feature = made.feature.add(name=name, type=schema_pb2.BYTES)
        feature.presence.min_fraction = 1
        feature.presence.min_count = 1
        feature.shape.dim.add(size=1)
        if name == "label":
            feature.string_domain.value.extend(["cat", "dog"])
    return made


def described(
    folder: Path, schema: schema_pb2.Schema, *files: Sequence[bytes]
) -> DatasetFeatureStatisticsList:
    """What the step says of a split that has the files."""
    examples, of_schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    statistics = standard_artifacts.ExampleStatistics()
    for name, artifact in {"e": examples, "schema": of_schema, "statistics": statistics}.items():
        artifact.uri = str(folder / name)
    examples.split_names = encode_split_names(["train"])
    (folder / "e" / "Split-train").mkdir(parents=True)
    for index, records in enumerate(files):
        with tf.io.TFRecordWriter(str(folder / "e" / "Split-train" / f"{index}")) as writer:
            for record in records:
                writer.write(record)
    (folder / "schema").mkdir()
    tfdv.write_schema_text(schema, str(folder / "schema" / "schema.pbtxt"))
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner"])
    Executor(context).Do(
        {"examples": [examples], "schema": [of_schema]}, {"statistics": [statistics]}, {}
    )
    assert statistics.split_names == examples.split_names
    file = folder / "statistics" / "Split-train" / "FeatureStats.pb"
    return DatasetFeatureStatisticsList.FromString(file.read_bytes())


def features(statistics: DatasetFeatureStatisticsList) -> dict[str, FeatureNameStatistics]:
    (dataset,) = statistics.datasets
    return {feature.path.step[0]: feature for feature in dataset.features}


def test_images_are_described_by_their_sizes_in_one_pass(
    tmp_path: Path, schema: schema_pb2.Schema, passes: Counter[str]
) -> None:
    statistics = described(tmp_path, schema, rows(IMAGES), rows(IMAGES[:1]))
    assert passes == {"0": 1, "1": 1}
    assert statistics.datasets[0].num_examples == 4
    image = features(statistics)["image"]
    sizes = [len(each) for each in (*IMAGES, IMAGES[0])]
    assert image.bytes_stats.common_stats.num_non_missing == 4
    assert image.bytes_stats.avg_num_bytes == pytest.approx(np.mean(sizes))
    assert (image.bytes_stats.min_num_bytes, image.bytes_stats.max_num_bytes) == (
        min(sizes),
        max(sizes),
    )
    told = {each.name: each for each in image.custom_stats}
    assert told["unreadable"].num == 0
    for name, axis in (("width", 0), ("height", 1)):
        buckets = told[name].histogram.buckets
        values = [size[axis] for size in SIZES]
        assert (buckets[0].low_value, buckets[-1].high_value) == (min(values), max(values))
        assert sum(bucket.sample_count for bucket in buckets) == pytest.approx(4)


def test_example_validator_finds_what_the_schema_says(
    tmp_path: Path, schema: schema_pb2.Schema
) -> None:
    statistics = described(tmp_path, schema, rows(IMAGES))
    assert set(features(statistics)) == set(FEATURES)
    assert not validate(statistics, schema).anomaly_info


def without_image(record: bytes) -> bytes:
    parsed = tf.train.Example.FromString(record)
    del parsed.features.feature["image"]
    return bytes(parsed.SerializeToString())


def with_another(record: bytes) -> bytes:
    parsed = tf.train.Example.FromString(record)
    parsed.features.feature["mask"].bytes_list.value.append(b"x")
    return bytes(parsed.SerializeToString())


def with_numbers(record: bytes) -> bytes:
    parsed = tf.train.Example.FromString(without_image(record))
    parsed.features.feature["image"].int64_list.value.append(1)
    return bytes(parsed.SerializeToString())


ANOMALIES = {
    "an image is missing": ([without_image(rows(IMAGES)[0]), *rows(IMAGES)], {"image"}),
    "no image at all": ([without_image(each) for each in rows(IMAGES)], {"image"}),
    "a feature that the schema lacks": (list(map(with_another, rows(IMAGES))), {"mask"}),
    "images of numbers": (list(map(with_numbers, rows(IMAGES))), {"image"}),
    "a label that the schema lacks": (rows(IMAGES, b"owl"), {"label"}),
}


@pytest.mark.parametrize(("records", "found"), ANOMALIES.values(), ids=ANOMALIES)
def test_example_validator_finds_what_is_wrong(
    records: list[bytes], found: set[str], tmp_path: Path, schema: schema_pb2.Schema
) -> None:
    statistics = described(tmp_path, schema, records)
    anomalies = validate(statistics, schema)
    assert set(anomalies.anomaly_info) == found
    assert anomalies == tfdv.validate_statistics(statistics, schema)


def test_a_header_that_tells_no_size_is_counted(tmp_path: Path, schema: schema_pb2.Schema) -> None:
    image = features(described(tmp_path, schema, rows([*IMAGES, b"", b"GIF89a"])))["image"]
    told = {each.name: each for each in image.custom_stats}
    assert told["unreadable"].num == 2
    assert image.bytes_stats.common_stats.num_non_missing == 5


def test_values_are_counted_but_for_those_that_are_all_different(
    tmp_path: Path, schema: schema_pb2.Schema
) -> None:
    found = features(described(tmp_path, schema, rows(IMAGES)))
    assert {each.value: each.frequency for each in found["camera"].string_stats.top_values} == {
        "right": 2,
        "left": 1,
    }
    assert found["label"].string_stats.unique == 1
    for name in ("image_id", "source"):
        assert found[name].string_stats.common_stats.num_non_missing == 3
        assert not found[name].string_stats.top_values
        assert not found[name].string_stats.rank_histogram.buckets


def test_no_image_goes_through_beam(tmp_path: Path) -> None:
    file = tmp_path / "train"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in rows(IMAGES * 200):
            writer.write(record)
    batches = list(describe.record_batches(str(file)))
    assert sum(batch.num_rows for batch in batches) == 600
    assert all("image" not in batch.schema.names for batch in batches)
    assert sum(batch.nbytes for batch in batches) < 600 * 200
