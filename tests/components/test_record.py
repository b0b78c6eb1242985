"""What of a verdict goes on record: all of a small one, what matters of a large one."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.predictions import Predictions
from components.report.report import ReportData
from components.tflite_evaluator.record import (
    images_by_slice,
    recorded,
    write_checks,
    write_confusion,
    write_predictions,
)
from components.verdict import MOST_CHECKS, OVERALL, Check, VariantVerdict, Verdict
from edgeline.publish.verdict import Verdict as ReadVerdict
from edgeline.registry.format import MAX_VERDICT
from tests.components.many import many


@pytest.fixture(scope="module", params=[None, 0.05, 1.0], ids=["free", "some missed", "all missed"])
def large(request: pytest.FixtureRequest) -> ReportData:
    return many(min_slice_accuracy=request.param)


def test_a_large_verdict_is_read_where_it_is_deployed(large: ReportData) -> None:
    content = recorded(large.verdict, images_by_slice(large.slices)).to_json()
    assert len(content) < MAX_VERDICT / 2
    read = ReadVerdict.from_json(content)
    assert read.float_model.passed == large.verdict.float_model.passed
    assert [variant.passed for variant in read.variants] == [
        variant.passed for variant in large.verdict.variants
    ]


def test_what_is_on_record_comes_to_the_same_conclusions(large: ReportData) -> None:
    verdict = recorded(large.verdict, images_by_slice(large.slices))
    assert verdict.publishable == large.verdict.publishable
    assert [model.passed for model in verdict.models] == [
        model.passed for model in large.verdict.models
    ]
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert len(verdict.float_model.checks) == MOST_CHECKS
    assert verdict.left_out == len(large.verdict.float_model.checks) - MOST_CHECKS


def test_a_small_verdict_is_on_record_as_it_is() -> None:
    data = many(classes=30, keys=2, values=5, variants=2, examples=300)
    assert recorded(data.verdict, images_by_slice(data.slices)) == data.verdict


def test_a_model_that_failed_in_one_slice_alone_is_on_record_as_failed() -> None:
    slices = [f"line={i}" for i in range(100)]
    bad = tuple(Check("accuracy", name, 0.0, 0.9) for name in slices)
    nearly = tuple(Check("accuracy", n, 0.95 if n != "line=57" else 0.89, 0.9) for n in slices)
    overall = Check("accuracy", OVERALL, 0.9, 0.5)
    verdict = Verdict(
        "test",
        100,
        VariantVerdict("float", (overall, *bad)),
        (VariantVerdict("int8", (overall, *nearly)),),
    )
    kept = recorded(verdict, {}, most=10)
    assert len(kept.float_model.checks) == 10
    assert overall in kept.float_model.checks
    assert [check.slice for check in kept.variants[0].missed] == ["line=57"]


def test_without_thresholds_the_worst_slices_stay_and_not_the_smallest() -> None:
    checks = (
        Check("accuracy", OVERALL, 0.9, 0.5),
        Check("accuracy", "line=tiny", 0.0),
        Check("accuracy", "line=bad", 0.2),
        Check("accuracy", "line=good", 0.95),
        Check("precision of ant", OVERALL, math.nan),
    )
    verdict = Verdict("test", 1000, VariantVerdict("float", checks), ())
    images = {"line=tiny": 1, "line=bad": 500, "line=good": 499}
    kept = recorded(verdict, images, most=3)
    assert [(check.metric, check.slice) for check in kept.float_model.checks] == [
        ("accuracy", OVERALL),
        ("accuracy", "line=bad"),
        ("precision of ant", OVERALL),
    ]
    assert kept.left_out == 2


def test_every_check_is_written_with_its_images(tmp_path: Path) -> None:
    interval = Check("accuracy drop", OVERALL, 0.01, 0.02, "max", (0.0, 0.03))
    named = Check("accuracy", 'line=a,"b"\n', 0.5)
    verdict = Verdict("test", 10, VariantVerdict("float", (named, interval)), ())
    write_checks(verdict, {named.slice: 4}, tmp_path / "checks.csv")
    with (tmp_path / "checks.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {
                "model": "float", "metric": "accuracy", "slice": named.slice, "images": "4",
                "value": "0.5", "threshold": "", "bound": "", "low": "", "high": "",
            },
            {
                "model": "float", "metric": "accuracy drop", "slice": "overall", "images": "10",
                "value": "0.01", "threshold": "0.02", "bound": "max", "low": "0.0", "high": "0.03",
            },
        ]  # fmt: skip


def test_what_was_said_of_each_label_is_written(tmp_path: Path) -> None:
    said = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    write_confusion(
        {"float": said}, np.array([0, 0, 0, 1]), ("ant", "bee", "fly"), tmp_path / "confusion.csv"
    )
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["model", "label", "said", "images"],
            ["float", "ant", "ant", "1"],
            ["float", "ant", "bee", "2"],
            ["float", "bee", "bee", "1"],
        ]


def test_a_verdict_from_before_anything_was_left_out_is_read() -> None:
    verdict = Verdict("test", 10, VariantVerdict("float", (Check("accuracy", OVERALL, 0.9),)), ())
    older = verdict.to_json().replace(b'  "left_out": 0,\n', b"")
    assert older != verdict.to_json()
    assert Verdict.from_json(older) == verdict
    assert Verdict.from_json(replace(verdict, left_out=7).to_json()).left_out == 7


def test_what_every_model_says_of_every_image_is_a_table(tmp_path: Path) -> None:
    predictions = Predictions(
        image_ids=("aa", "bb"),
        label_ids=np.array([0, 1]),
        slices={"line": np.array(["a", "b"])},
        float_model=np.array([[0.75, 0.25], [0.5, 0.5]], np.float32),
        variants={"int8": np.array([[0.25, 0.75], [0.125, 0.875]], np.float32)},
        seconds={},
        sources=("photos/1, old.jpg", "photos/2.jpg"),
    )
    write_predictions(predictions, ("cat", "dog"), tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        head, first, second = csv.reader(file)
    assert head == [
        *("source", "image_id", "label", "line", "float said", "float probability"),
        *("int8 said", "int8 probability"),
    ]
    assert first == ["photos/1, old.jpg", "aa", "cat", "a", "cat", "0.750000", "dog", "0.750000"]
    assert second[2:] == ["dog", "b", "cat", "0.500000", "dog", "0.875000"]
