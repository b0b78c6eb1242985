"""A split's examples come through the graph, with ids by the schema's list of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from benchmarks.examples import png, write_examples, write_transform_graph
from components.examples import LabelIds, TransformedExamples, labels_of

LABELS = ("owl", "ant", "Bär")
NAMES = ["ant", "owl", "mouse", "Bär", "ant"]
IMAGE = png(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transform_graph(tmp_path_factory.mktemp("transform"), 4, LABELS)


@pytest.fixture(scope="module")
def examples(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> TransformedExamples:
    """In files of both kinds."""
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder / "a.gz", [(IMAGE, name) for name in NAMES[:2]])
    write_examples(folder / "b.tfrecord", [(IMAGE, name) for name in NAMES[2:]])
    return TransformedExamples([str(folder / "*")], graph)


def test_the_labels_are_those_of_the_schema_in_its_order(examples: TransformedExamples) -> None:
    assert examples.labels == LABELS


def test_plain_and_gzipped_files_are_read_one_after_the_other(
    examples: TransformedExamples,
) -> None:
    batches = list(examples.batches(4))
    ids = np.concatenate([batch["label_id"].numpy() for batch in batches])
    assert ids.tolist() == [1, 0, -1, 2, 1]
    assert ids.dtype == np.int64
    assert batches[0]["pixels"].shape == (4, 4, 4, 3)


def test_skimming_keeps_the_order(examples: TransformedExamples) -> None:
    assert [raw["label"].decode() for raw in examples.skim("label")] == NAMES


def test_an_epoch_has_the_ids_too(examples: TransformedExamples) -> None:
    (batch,) = examples.epochs(5, 0, 1, seed=0)
    indices, _, features = batch
    ids = np.array([1, 0, -1, 2, 1])
    np.testing.assert_array_equal(features["label_id"], ids[indices.numpy()])


def test_thousands_of_labels_are_looked_up() -> None:
    labels = [f"class {i}" for i in range(11_000)]
    found = LabelIds(labels)(tf.constant(["class 10999", "class 0", "class"]))
    assert found.numpy().tolist() == [10_999, 0, -1]


def test_a_schema_without_labels_is_refused() -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="label", type=schema_pb2.BYTES)
    with pytest.raises(ValueError, match="no string_domain"):
        labels_of(schema)
