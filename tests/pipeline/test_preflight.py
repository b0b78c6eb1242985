"""What is refused or warned about before the first step runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse_config
from pipeline.dataset import Dataset
from pipeline.errors import UserError
from pipeline.preflight import check

COUNTS = {
    "train": {"cat": 60, "dog": 40},
    "eval": {"cat": 5, "dog": 5},
    "test": {"cat": 12, "dog": 8},
}
DATASET = Dataset(
    path=Path("dataset"),
    labels=("cat", "dog"),
    slice_keys=("camera",),
    schema_path=Path("dataset/schema.pbtxt"),
    max_side=512,
    counts=COUNTS,
    fingerprint="aa",
)


def checked(dataset: Dataset = DATASET, **sections: dict[str, Any]) -> list[str]:
    document = {
        "name": "pets",
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": 0.9, **sections.pop("gate", {})},
        "trainer": {"base_weights": "random", **sections.pop("trainer", {})},
        "registry": {"path": "/nonexistent/registry"},
        **sections,
    }
    return check(parse_config(document, "test"), dataset)


def test_nothing_is_said_when_nothing_is_wrong() -> None:
    assert checked() == []


@pytest.mark.parametrize("split", ["train", "eval", "test"])
def test_a_split_without_a_class_is_refused(split: str) -> None:
    lacking = replace(DATASET, counts={**COUNTS, split: {"cat": 10, "dog": 0}})
    with pytest.raises(UserError, match=f"split '{split}' has no image of dog"):
        checked(lacking)


def test_a_slice_key_that_the_data_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="has no such slice key; it has: camera"):
        checked(gate={"min_slice_accuracy": {"cell_type": 0.5}})


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"at most the train split's 100 images; received 128"):
        checked(trainer={"batch_size": 128})


def test_a_model_to_go_on_from_must_be_there() -> None:
    with pytest.raises(UserError, match=r"trainer\.warm_start: no such file or folder: none"):
        checked(trainer={"warm_start": "none"})


def test_a_model_to_go_on_from_needs_no_imagenet_weights(tmp_path: Path) -> None:
    assert checked(trainer={"base_weights": "imagenet", "warm_start": str(tmp_path)}) == []


def test_a_registry_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not a registry")
    with pytest.raises(UserError, match=r"registry\.path: "):
        checked(registry={"path": str(tmp_path)})


def test_an_empty_folder_may_become_a_registry(tmp_path: Path) -> None:
    assert checked(registry={"path": str(tmp_path)}) == []


def test_a_gate_that_always_passes_is_warned_about() -> None:
    (warning,) = checked(gate={"min_accuracy": 0.6})
    assert "always saying 'cat' reaches 0.600 on the test split" in warning


GATES = {
    "a class that does not exist": (
        {"min_recall": {"mouse": 0.5}},
        {},
        "gate.min_recall.mouse: dataset has no such class; it has: cat, dog",
    ),
    "a required variant that is not made": (
        {"require": ["int8"]},
        {},
        "int8 is required but not made; rewriter.variants has: float32, float16",
    ),
    "publishing only what is required, when nothing is": (
        {"publish": "required"},
        {},
        "publishes nothing when gate.require is empty",
    ),
    "a latency against a variant that is not made": (
        {"max_latency_ratio": 0.5},
        {"variants": "speed"},
        "relative to float32, which rewriter.variants does not have",
    ),
}


@pytest.mark.parametrize(("gate", "rewriter", "message"), GATES.values(), ids=GATES)
def test_a_gate_that_cannot_be_measured_is_refused(
    gate: dict[str, Any], rewriter: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        checked(gate=gate, rewriter=rewriter)
    assert message in str(caught.value)
