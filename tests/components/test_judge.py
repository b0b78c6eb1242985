"""The gate, on predictions made up to sit on either side of each threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from components.intervals import Area, drop_interval
from components.predictions import DeployedRelease, Predictions
from components.tflite_evaluator.gate import Gate
from components.tflite_evaluator.judge import (
    SplitError,
    check_classes,
    judge_float,
    judge_variant,
)
from components.tflite_evaluator.measure import Measured
from components.tflite_models import ModelFile
from components.verdict import OVERALL, Check, Policy, VariantVerdict, Verdict

LABELS = ("functional", "defective")
LABEL_IDS = np.array([0, 1] * 50)
ANY_THAT_PASSED = Policy()
MADE = ModelFile("float16", "float16 weights", "tensorflow", 1.0, "f", "aa", 8_000_000)
FAILED = ModelFile("int8", "int8", "tensorflow", 1.0, error="the conversion ended with signal 6")


def saying(label_ids: NDArray[np.int64], wrong: int = 0) -> NDArray[np.float32]:
    """Probabilities of a model that is right but for the first `wrong` examples."""
    said = label_ids.copy()
    said[:wrong] = 1 - said[:wrong]
    return np.where(np.eye(2)[said] == 1, 0.9, 0.1).astype(np.float32)


def predictions(
    float_wrong: int = 0, variant_wrong: int = 0, deployed_wrong: int | None = None
) -> Predictions:
    deployed = {} if deployed_wrong is None else {"float16": saying(LABEL_IDS, deployed_wrong)}
    return Predictions(
        image_ids=tuple(map(str, range(100))),
        label_ids=LABEL_IDS,
        slices={"line": np.array(["a"] * 20 + ["b"] * 80)},
        float_model=saying(LABEL_IDS, float_wrong),
        variants={"float16": saying(LABEL_IDS, variant_wrong)},
        seconds={"float16": np.full(100, 0.002), "float32": np.full(100, 0.001)},
        deployed=deployed,
        deployed_release=DEPLOYED if deployed else None,
    )


DEPLOYED = DeployedRelease("v3", "sha256:aa", ("float16",), default="float16")


def measured(made_up: Predictions, said: NDArray[np.float32]) -> Measured:
    """The metrics the cases below need; that they are computed so is test_measure's."""
    right = said.argmax(axis=1) == LABEL_IDS
    overall = {
        "accuracy": float(right.mean()),
        "auc": float(right.mean()),
        "recall of defective": float(right[LABEL_IDS == 1].mean()),
        "calibration error": abs(0.9 - float(right.mean())),
    }
    lines = {
        f"line={value}": {"accuracy": float(right[made_up.slices["line"] == value].mean())}
        for value in ("a", "b")
    }
    images = {"accuracy": 100, "recall of defective": 50}
    by_slice = {OVERALL: images, "line=a": {"accuracy": 20}, "line=b": {"accuracy": 80}}
    return Measured(
        {OVERALL: overall, **lines}, by_slice, Area(overall["auc"], 0.02, 50), ((0, 0), (0, 0))
    )


def judged(
    made_up: Predictions, gate: Gate, *models: ModelFile, policy: Policy = ANY_THAT_PASSED
) -> Verdict:
    answers = {"float": made_up.float_model, **made_up.variants}
    by_model = {
        name: measured(made_up, said) for name, said in answers.items() if np.isfinite(said).all()
    }
    return Verdict(
        split="test",
        examples=100,
        float_model=judge_float(by_model, gate),
        variants=tuple(
            judge_variant(model, made_up, by_model, gate) for model in models or (MADE,)
        ),
        policy=policy,
    )


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
    "a class is not found often enough": (
        predictions(10, 10),
        Gate(0.5, min_recall={"defective": 0.95}),
        (),
        "float: recall of defective is 0.9000, 0.0500 below the minimum of 0.9500",
    ),
    "the model is too sure of itself": (
        predictions(20, 20),
        Gate(0.5, max_calibration_error=0.05),
        (),
        "float: calibration error is 0.1000, 0.0500 above the maximum of 0.0500",
    ),
    "the fleet's model is better": (
        predictions(10, 10, deployed_wrong=4),
        Gate(0.5, max_drop_deployed=0.05),
        (),
        "float16: accuracy drop against v3 float16 is 0.0600, 0.0100 above the maximum of 0.0500",
    ),
    "the fleet's model is worse": (
        predictions(10, 10, deployed_wrong=30),
        Gate(0.5, max_drop_deployed=0.0),
        ("float16",),
        "",
    ),
    "the variant says something else too often": (
        predictions(0, 3),
        Gate(0.5, max_drop=0.5, min_agreement=0.98),
        (),
        "float16: agreement is 0.9700, 0.0100 below the minimum of 0.9800",
    ),
    "the file is too large": (
        predictions(),
        Gate(0.5, max_size_mb=5),
        (),
        "float16: size in MB is 8.0000, 3.0000 above the maximum of 5.0000",
    ),
    "the median latency is too high": (
        predictions(),
        Gate(0.5, max_latency_p50_ms=1.5),
        (),
        "float16: p50 latency in ms is 2.0000, 0.5000 above the maximum of 1.5000",
    ),
    "the tail latency is too high": (
        predictions(),
        Gate(0.5, max_latency_p95_ms=1.5),
        (),
        "float16: p95 latency in ms is 2.0000",
    ),
    "the variant is slower than float32 by too much": (
        predictions(),
        Gate(0.5, max_latency_ratio=1.2),
        (),
        "float16: p50 latency against float32 is 2.0000, 0.8000 above the maximum of 1.2000",
    ),
}


def test_latency_comes_with_its_quartiles_and_is_marked_where_it_is_noisy() -> None:
    steady, busy = np.array([2.0, 2.0, 2.1, 2.2]), np.array([2.0, 2.0, 3.0, 9.0])
    for milliseconds, noisy in ((steady, False), (busy, True)):
        timed = replace(predictions(), seconds={"float16": milliseconds / 1e3})
        (verdict,) = [v for v in judged(timed, Gate(0.5)).variants if v.variant == "float16"]
        quartiles = np.percentile(milliseconds, (25, 50, 75)).round(3).tolist()
        assert verdict.latency_ms is not None
        assert [verdict.latency_ms[name] for name in ("p25", "p50", "p75")] == quartiles
        assert verdict.noisy == noisy


LATENCIES = {
    "p50 latency in ms": Gate(0.5, max_latency_p50_ms=1.5),
    "p95 latency in ms": Gate(0.5, max_latency_p95_ms=1.5),
    "p50 latency against float32": Gate(0.5, max_latency_ratio=1.2),
}


@pytest.mark.parametrize("busy", ["float16", "float32"])
@pytest.mark.parametrize(("metric", "gate"), LATENCIES.items(), ids=LATENCIES)
def test_a_noisy_latency_is_not_gated_on(metric: str, gate: Gate, busy: str) -> None:
    """A ratio is noisy where either of its figures is."""
    steady = predictions()
    assert judged(steady, gate).passed == ()
    scattered = steady.seconds[busy] * np.linspace(0.5, 1.5, 100)  # the same median
    made_up = replace(steady, seconds={**steady.seconds, busy: scattered})
    verdict = judged(made_up, gate)
    if busy == "float32" and "float32" not in metric:
        assert verdict.passed == ()
        return
    assert verdict.passed == ("float16",)
    (doubt,) = [check for check in verdict.variants[0].unproven if check.metric == metric]
    assert doubt.reason.endswith("which the machine was too busy for: it is not gated on")
    assert doubt in Verdict.from_json(verdict.to_json()).variants[0].unproven
    # Where only what is proved may pass, the figure decides.
    assert judged(made_up, replace(gate, unproven="refuse")).passed == ()


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


def test_a_variant_that_gave_no_number_does_not_pass() -> None:
    made_up = replace(predictions(), variants={}, errors={"float16": "it gave NaN"})
    verdict = judged(made_up, Gate(0.0, max_drop=1.0))
    assert verdict.passed == ()
    assert "float16: it gave NaN" in reasons(verdict)


def test_a_float_model_that_gives_no_number_lets_nothing_pass() -> None:
    made_up = predictions()
    made_up.float_model[3, 0] = np.nan
    verdict = judged(made_up, Gate(0.0, max_drop=1.0))
    assert verdict.passed == ()
    assert "float: the float model returned NaN or infinity" in reasons(verdict)


def test_a_latency_ratio_without_float32_does_not_pass() -> None:
    made_up = replace(predictions(), seconds={"float16": np.full(100, 0.002)})
    assert judged(made_up, Gate(0.5, max_latency_ratio=9.0)).passed == ()


def test_how_often_a_variant_agrees_with_the_deployed_release_is_on_record() -> None:
    verdict = judged(predictions(10, 10, deployed_wrong=4), Gate(0.5))
    (found,) = (
        each for each in verdict.variants[0].checks if each.metric.startswith("agreement w")
    )
    assert found.metric == "agreement with v3 float16"
    assert (found.value, found.threshold, found.passed) == (0.94, None, True)
    assert found.interval is not None
    assert 0.85 < found.interval[0] < 0.94 < found.interval[1] < 1


def test_without_a_deployed_release_nothing_is_said_of_it() -> None:
    verdict = judged(predictions(), Gate(0.5, max_drop_deployed=0.0))
    assert verdict.deployed is None
    assert not [c for c in verdict.variants[0].checks if "against v" in c.metric]


def test_a_split_without_a_class_is_not_judged_on() -> None:
    with pytest.raises(SplitError, match="'test' has no example of defective"):
        check_classes(np.zeros(30, np.int64), "test", LABELS)


def test_an_unknown_label_is_not_judged_on() -> None:
    with pytest.raises(SplitError, match="1 examples have a label that is not among"):
        check_classes(np.array([0, 1, -1]), "test", LABELS)


POLICIES = {
    "all that passed": (Policy(), ("float16",)),
    "only the required ones": (Policy(("float16",), "required"), ("float16",)),
    "none, when a required one did not pass": (Policy(("int8",)), ()),
    "none, when one of two required did not pass": (Policy(("float16", "int8")), ()),
}


@pytest.mark.parametrize(("policy", "published"), POLICIES.values(), ids=POLICIES)
def test_what_is_published(policy: Policy, published: tuple[str, ...]) -> None:
    verdict = judged(predictions(), Gate(0.5), MADE, FAILED, policy=policy)
    assert verdict.passed == ("float16",)
    assert verdict.publishable == published


def test_a_verdict_survives_json_and_draws_its_conclusions_anew() -> None:
    verdict = judged(predictions(0, 3), Gate(0.5, max_drop=0.02), MADE, FAILED)
    assert Verdict.from_json(verdict.to_json()) == verdict
    forged = verdict.to_json().replace(b'"passed": []', b'"passed": ["float16"]')
    assert forged != verdict.to_json()
    assert Verdict.from_json(forged).passed == ()


def test_a_verdict_of_nothing_passes_nothing() -> None:
    assert not VariantVerdict("float16").passed


def test_the_drop_comes_with_an_interval_that_knows_doubt() -> None:
    (check,) = [c for c in drops(predictions(3, 8), Gate(0.5, max_drop=0.2)) if c.threshold]
    assert check.value == pytest.approx(0.05)
    assert check.interval == pytest.approx(drop_interval(5, 0, 100))
    (same,) = [c for c in drops(predictions(8, 8), Gate(0.5, max_drop=0.2)) if c.threshold]
    assert same.value == 0.0
    assert same.interval == pytest.approx(drop_interval(0, 0, 100))


DECISIONS: dict[str, tuple[int, float, str]] = {
    "the whole interval is within the budget": (0, 0.04, "passed"),
    "the budget is within the interval, the figure within the budget": (1, 0.04, "not proved"),
    "the budget is within the interval, the figure is not": (5, 0.04, "not proved"),
    "the whole interval is beyond the budget": (20, 0.04, "failed"),
}


@pytest.mark.parametrize(("lost", "budget", "decision"), DECISIONS.values(), ids=DECISIONS)
@pytest.mark.parametrize("unproven", ["accept", "refuse"])
def test_a_decision_is_one_of_three(
    lost: int, budget: float, decision: str, unproven: Literal["accept", "refuse"]
) -> None:
    gate = Gate(0.5, max_drop=budget, unproven=unproven)
    (check,) = [c for c in drops(predictions(0, lost), gate) if c.threshold]
    assert check.decision == decision
    without_proof = unproven == "accept" and lost / 100 <= budget
    assert check.passed == (decision == "passed" or (decision == "not proved" and without_proof))


def test_what_is_not_proved_says_how_many_images_would() -> None:
    gate = Gate(0.5, max_drop=0.04, unproven="refuse")
    (check,) = [c for c in drops(predictions(0, 1), gate) if c.threshold]
    assert check.images_needed is not None
    more = check.images_needed / 100
    assert drop_interval(more, 0, 100 * more)[1] == pytest.approx(0.04, abs=1e-4)
    assert "which the interval -0.0" in check.reason
    assert f"does not prove: it takes about {check.images_needed:,} images" in check.reason


def test_a_gate_by_points_decides_by_the_figure_alone() -> None:
    gate = Gate(0.5, max_drop=0.04, evidence="point", unproven="refuse")
    for lost, decision in ((4, "passed"), (5, "failed")):
        (check,) = [c for c in drops(predictions(0, lost), gate) if c.threshold]
        assert check.decision == decision


def test_every_share_with_a_threshold_has_an_interval_and_others_have_none() -> None:
    gate = Gate(
        0.9,
        min_auc=0.9,
        min_recall={"defective": 0.5},
        min_slice_accuracy={"line": 0.5},
        min_agreement=0.5,
    )
    (variant,) = judged(predictions(3, 3), gate).variants
    with_interval = {(c.metric, c.slice) for c in variant.checks if c.interval}
    assert with_interval == {
        ("accuracy", OVERALL),
        ("auc", OVERALL),
        ("recall of defective", OVERALL),
        ("accuracy", "line=a"),
        ("accuracy", "line=b"),
        ("accuracy drop", OVERALL),
        ("agreement", OVERALL),
    }


def test_intervals_of_several_variants_hold_together() -> None:
    assert Gate(0.5).together(1).confidence == pytest.approx(0.95)
    assert Gate(0.5).together(5).confidence == pytest.approx(0.99)


def drops(made_up: Predictions, gate: Gate) -> list[Check]:
    (variant,) = judged(made_up, gate).variants
    return [check for check in variant.checks if check.metric == "accuracy drop"]


def reasons(verdict: Verdict) -> list[str]:
    return [
        f"{model.variant}: {reason}"
        for model in (verdict.float_model, *verdict.variants)
        for reason in model.reasons
    ]
