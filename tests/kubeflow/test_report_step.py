"""What the step that reports leaves for Kubeflow's pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from components.verdict import Check, VariantVerdict, Verdict
from pipeline.history.record import judgement
from pipeline.orchestration.kubeflow.report import (
    MOST_POINTS,
    best,
    confusion_of,
    metrics_of,
    roc_of,
)

FLOAT = VariantVerdict("float", (Check("accuracy", "overall", 0.9),))
PASSED = VariantVerdict("int8", (Check("p50 latency in ms", "overall", 3.0, 9.0, "max"),))
MISSED = VariantVerdict("float16", (Check("recall of a  (größer)/cat", "overall", 0.1, 0.5),))
FAILED = VariantVerdict("dynamic", error="not converted")


def verdict(*variants: VariantVerdict) -> Verdict:
    return Verdict("test", 10, FLOAT, variants)


def test_a_metric_s_name_has_nothing_that_pages_or_mlflow_refuse() -> None:
    assert metrics_of(verdict(PASSED, MISSED)) == {
        "float_accuracy": 0.9,
        "int8_p50_latency_in_ms": 3.0,
        "float16_recall_of_a_größer_cat": 0.1,
    }


def test_they_are_the_figures_that_a_run_here_has_on_record(tmp_path: Path) -> None:
    judged = verdict(PASSED, MISSED, FAILED)
    kept = judgement(judged, tmp_path / "verdict", tmp_path)
    figures = {
        "_".join(f"{model.name} {metric}".split()): figure.value
        for model in kept.models
        for metric, figure in model.figures.items()
    }
    assert figures == {"float_accuracy": 0.9, "int8_p50_latency_in_ms": 3.0}
    assert figures.items() <= metrics_of(judged).items()


@pytest.mark.parametrize(
    ("variants", "shown"),
    [((FAILED, MISSED, PASSED), "int8"), ((FAILED, MISSED), "float16"), ((FAILED,), "")],
)
def test_the_variant_shown_is_one_that_a_release_would_have(
    variants: tuple[VariantVerdict, ...], shown: str
) -> None:
    assert best(verdict(*variants)) == shown


def test_confusion_is_by_label_and_what_was_said(tmp_path: Path) -> None:
    file = tmp_path / "confusion.csv"
    file.write_text("model,label,said,images\nfloat,cat,cat,3\nfloat,cat,dog,1\nint8,cat,cat,4\n")
    assert confusion_of(file, "float") == {
        "annotationSpecs": [{"displayName": "cat"}, {"displayName": "dog"}],
        "rows": [{"row": [3, 1]}, {"row": [0, 0]}],
    }
    assert confusion_of(file, "float16") is None


def test_a_page_has_no_matrix_of_too_many_classes(tmp_path: Path) -> None:
    file = tmp_path / "confusion.csv"
    rows = "".join(f"float,{number},{number},1\n" for number in range(51))
    file.write_text(f"model,label,said,images\n{rows}")
    assert confusion_of(file, "float") is None


def test_the_roc_of_all_classes_is_their_micro_average() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1.0, 1.0, 1.0], 3000).astype(np.float32)
    label_ids = np.array([random.choice(3, p=row / row.sum()) for row in probabilities])
    curve = roc_of(label_ids, probabilities)
    assert len(curve) == MOST_POINTS
    points = [(point["falsePositiveRate"], point["recall"]) for point in curve]
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    exact = roc_auc_score(np.eye(3)[label_ids], probabilities, average="micro")
    assert auc(*zip(*points, strict=True)) == pytest.approx(exact, abs=1e-3)
    middle = curve[100]
    said = probabilities >= middle["confidenceThreshold"]
    assert said[np.arange(3000), label_ids].mean() == pytest.approx(middle["recall"])


def test_without_examples_there_is_no_curve() -> None:
    assert roc_of(np.array([], np.int64), np.zeros((0, 2), np.float32)) == []


def test_a_curve_is_json(tmp_path: Path) -> None:
    curve = roc_of(np.array([0, 1]), np.array([[1.0, 0.0], [0.4, 0.6]], np.float32))
    assert json.loads(json.dumps(curve, allow_nan=False)) == curve
