"""The gate, on predictions made up to sit on either side of each threshold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from components.tflite_evaluator.judge import Gate, SplitError, judge
from components.tflite_evaluator.metrics import accuracy_drop, agreement, auc
from components.tflite_evaluator.predict import Predictions
from components.tflite_models import ModelFile
from components.verdict import VariantVerdict, Verdict, metric_value

LABELS = ("functional", "defective")
LABEL_IDS = np.array([0, 1] * 50)
MADE = ModelFile("float16", "float16 weights", "tensorflow", 1.0, "f", "aa", 10)
FAILED = ModelFile("int8", "int8", "tensorflow", 1.0, error="the conversion ended with signal 6")


def saying(label_ids: NDArray[np.int64], wrong: int = 0) -> NDArray[np.float32]:
    """Probabilities of a model that is right but for the first `wrong` examples."""
    said = label_ids.copy()
    said[:wrong] = 1 - said[:wrong]
    return np.where(np.eye(2)[said] == 1, 0.9, 0.1).astype(np.float32)


def predictions(
    float_wrong: int = 0, variant_wrong: int = 0, label_ids: NDArray[np.int64] = LABEL_IDS
) -> Predictions:
    return Predictions(
        label_ids=label_ids,
        slices={"line": np.array(["a"] * 20 + ["b"] * (len(label_ids) - 20))},
        float_model=saying(label_ids, float_wrong),
        variants={"float16": saying(label_ids, variant_wrong)},
        seconds={"float16": np.full(len(label_ids), 0.002)},
    )


def judged(made_up: Predictions, gate: Gate, *models: ModelFile) -> Verdict:
    return judge(made_up, models or (MADE,), gate, "test", LABELS)


CASES: dict[str, tuple[Predictions, Gate, tuple[str, ...], str]] = {
    "everything is reached": (predictions(10, 10), Gate(0.9), ("float16",), ""),
    "the float model is too inaccurate, and so nothing passes": (
        predictions(11, 11),
        Gate(0.9),
        (),
        "float: accuracy is 0.8900, 0.0100 below the minimum of 0.9000",
    ),
    "only the variant is too inaccurate": (
        predictions(10, 11),
        Gate(0.9, max_drop=0.5),
        (),
        "float16: accuracy is 0.8900, 0.0100 below the minimum of 0.9000",
    ),
    "the variant lost too much": (
        predictions(0, 3),
        Gate(0.5, max_drop=0.02),
        (),
        "float16: accuracy drop is 0.0300, 0.0100 above the maximum of 0.0200",
    ),
    "a slice is below its minimum": (
        predictions(10, 10),
        Gate(0.5, min_slice_accuracy={"line": 0.6}),
        (),
        "float: accuracy on line=a is 0.5000, 0.1000 below the minimum of 0.6000",
    ),
    "the area under the curve is too small": (
        predictions(10, 10),
        Gate(0.5, min_auc=0.95),
        (),
        "float: auc is 0.9000, 0.0500 below the minimum of 0.9500",
    ),
}


@pytest.mark.parametrize(("made_up", "gate", "passed", "reason"), CASES.values(), ids=CASES)
def test_the_gate_passes_and_refuses(
    made_up: Predictions, gate: Gate, passed: tuple[str, ...], reason: str
) -> None:
    verdict = judged(made_up, gate)
    assert verdict.passed == passed
    assert reason in "\n".join(reasons(verdict))


def test_a_variant_that_was_not_converted_does_not_pass_and_says_why() -> None:
    verdict = judged(predictions(), Gate(0.5), MADE, FAILED)
    assert verdict.passed == ("float16",)
    assert "int8: the conversion ended with signal 6" in reasons(verdict)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_returns_no_number_does_not_pass(value: float) -> None:
    made_up = predictions()
    made_up.variants["float16"][3, 0] = value
    verdict = judged(made_up, Gate(0.0, max_drop=1.0))
    assert verdict.passed == ()
    assert "float16: the model returned NaN or infinity" in reasons(verdict)


def test_a_split_without_a_class_is_not_judged_on() -> None:
    with pytest.raises(SplitError, match="'test' has no example of defective"):
        judged(predictions(label_ids=np.zeros(30, np.int64)), Gate(0.5))


def test_an_unknown_label_is_not_judged_on() -> None:
    with pytest.raises(SplitError, match="1 examples have a label that is not among"):
        judged(predictions(label_ids=np.array([0, 1, -1] + [0] * 20)), Gate(0.5))


def test_a_verdict_survives_json_and_draws_its_conclusions_anew() -> None:
    verdict = judged(predictions(0, 3), Gate(0.5, max_drop=0.02), MADE, FAILED)
    assert Verdict.from_json(verdict.to_json()) == verdict
    forged = verdict.to_json().replace(b'"passed": []', b'"passed": ["float16"]')
    assert forged != verdict.to_json()
    assert Verdict.from_json(forged).passed == ()


def test_a_verdict_of_nothing_passes_nothing() -> None:
    assert not VariantVerdict("float16").passed


def test_the_drop_comes_with_a_paired_interval() -> None:
    drop, (low, high) = accuracy_drop(saying(LABEL_IDS, 8), saying(LABEL_IDS, 3), LABEL_IDS)
    assert drop == pytest.approx(0.05)
    assert 0.0 < low < 0.05 < high < 0.12
    same, interval = accuracy_drop(saying(LABEL_IDS, 8), saying(LABEL_IDS, 8), LABEL_IDS)
    assert (same, interval) == (0.0, (0.0, 0.0)), "paired: the same answers leave nothing open"


def test_agreement_and_auc() -> None:
    assert agreement(saying(LABEL_IDS, 8), saying(LABEL_IDS, 3)) == pytest.approx(0.95)
    assert auc(saying(LABEL_IDS), LABEL_IDS) == 1.0
    assert metric_value(judged(predictions(), Gate(0.5)).float_model.checks, "auc") == 1.0


def reasons(verdict: Verdict) -> list[str]:
    return [
        f"{model.variant}: {reason}"
        for model in (verdict.float_model, *verdict.variants)
        for reason in model.reasons
    ]
