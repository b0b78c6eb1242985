"""Turns predictions and metrics into a verdict: each metric with its threshold, float first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from components.predictions import FLOAT, Predictions
from components.tflite_evaluator.gate import Gate
from components.tflite_evaluator.measure import Measured
from components.tflite_evaluator.paired import accuracy_drop, agreement
from components.tflite_models import ModelFile
from components.verdict import OVERALL, Check, VariantVerdict

REFERENCE_VARIANT = "float32"  # that a latency ratio is relative to
MEGABYTE = 1e6
NAMED = 20  # classes, in a message
MOST_ERROR = 1000  # characters, which is what a verdict's readers take


class SplitError(Exception):
    """The split can't be judged on."""


def check_classes(label_ids: NDArray[np.int64], split: str, labels: Sequence[str]) -> None:
    """Checks that every class can be measured.

    Raises:
        SplitError: a class has no example in the split, or an example has an unknown label.
    """
    unknown = int((label_ids < 0).sum())
    if unknown:
        raise SplitError(
            f"split {split!r}: {unknown} examples have a label that is not among {_some(labels)}"
        )
    present = set(label_ids.tolist())
    missing = [label for i, label in enumerate(labels) if i not in present]
    if missing:
        raise SplitError(
            f"split {split!r} has no example of {_some(missing)}: nothing can be said of a "
            "class that was not measured; add images or choose another gate.split"
        )


def judge_float(measured: Mapping[str, Measured], gate: Gate) -> VariantVerdict:
    """Judges the float model by the absolute thresholds."""
    if FLOAT not in measured:
        return VariantVerdict(FLOAT, error="the float model returned NaN or infinity")
    of_float = measured[FLOAT]
    return VariantVerdict(
        FLOAT, checks=tuple(_absolute(of_float, gate)), confusion=of_float.confusion
    )


def judge_variant(
    model: ModelFile,
    predictions: Predictions,
    measured: Mapping[str, Measured],
    gate: Gate,
) -> VariantVerdict:
    """Judges one variant by every threshold.

    Args:
        model: converted or not.
        predictions: of all models.
        measured: the metrics of those that gave predictions.
        gate: the thresholds.
    """
    error = model.error or predictions.errors.get(model.variant)
    if error:
        return VariantVerdict(
            model.variant, error=_shortened(error), bytes=model.bytes, sha256=model.sha256
        )
    of_variant = measured[model.variant]
    checks = [
        *_absolute(of_variant, gate),
        *_against_float(model.variant, predictions, gate),
        *_against_deployed(model.variant, predictions, gate),
        *_budgets(model, predictions, gate),
    ]
    return VariantVerdict(
        model.variant,
        checks=tuple(checks),
        bytes=model.bytes,
        sha256=model.sha256,
        latency_ms={
            "p50": _latency(model.variant, predictions, 50),
            "p95": _latency(model.variant, predictions, 95),
        },
        threads=predictions.threads,
        confusion=of_variant.confusion,
    )


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:NAMED])
    return shown if len(labels) <= NAMED else f"{shown} and {len(labels) - NAMED:,} more"


def _shortened(error: str) -> str:
    """How an error begins and ends: what a converter says last matters most."""
    if len(error) <= MOST_ERROR:
        return error
    half = MOST_ERROR // 2 - len(" ... ")
    return f"{error[:half]} ... {error[-half:]}"


def _absolute(measured: Measured, gate: Gate) -> Iterator[Check]:
    for metric, value in measured.by_slice[OVERALL].items():
        if metric == "calibration error":
            yield Check(metric, OVERALL, value, gate.max_calibration_error, "max")
        else:
            yield Check(metric, OVERALL, value, gate.minimum(metric))
    for slice_, metrics in sorted(measured.by_slice.items()):
        if slice_ != OVERALL:
            minimum = gate.min_slice_accuracy.get(slice_.partition("=")[0])
            yield Check("accuracy", slice_, metrics["accuracy"], minimum)


def _against_float(variant: str, predictions: Predictions, gate: Gate) -> Iterator[Check]:
    said, reference = predictions.variants[variant], predictions.float_model
    drop, interval = accuracy_drop(said, reference, predictions.label_ids)
    yield Check("accuracy drop", OVERALL, drop, gate.max_drop, "max", interval)
    yield Check("agreement", OVERALL, agreement(said, reference), gate.min_agreement)


def _against_deployed(variant: str, predictions: Predictions, gate: Gate) -> Iterator[Check]:
    release = predictions.deployed_release
    if release is None:
        return
    counterpart = release.counterpart(variant)
    name = f"accuracy drop against {release.tag} {counterpart}"
    if counterpart not in predictions.deployed:
        # A deployed model that no longer gives numbers is no reason to keep it.
        yield Check(f"{name} (which fails)", OVERALL, 0.0)
        return
    said, deployed = predictions.variants[variant], predictions.deployed[counterpart]
    drop, interval = accuracy_drop(said, deployed, predictions.label_ids)
    yield Check(name, OVERALL, drop, gate.max_drop_deployed, "max", interval)


def _budgets(model: ModelFile, predictions: Predictions, gate: Gate) -> Iterator[Check]:
    size = (model.bytes or 0) / MEGABYTE
    yield Check("size in MB", OVERALL, size, gate.max_size_mb, "max")
    p50 = _latency(model.variant, predictions, 50)
    p95 = _latency(model.variant, predictions, 95)
    yield Check("p50 latency in ms", OVERALL, p50, gate.max_latency_p50_ms, "max")
    yield Check("p95 latency in ms", OVERALL, p95, gate.max_latency_p95_ms, "max")
    if REFERENCE_VARIANT in predictions.seconds:
        ratio = p50 / _latency(REFERENCE_VARIANT, predictions, 50)
        name = f"p50 latency against {REFERENCE_VARIANT}"
        yield Check(name, OVERALL, ratio, gate.max_latency_ratio, "max")
    elif gate.max_latency_ratio is not None:
        # Not measurable is not passed.
        yield Check(
            f"p50 latency against {REFERENCE_VARIANT}, which failed", OVERALL, float("nan"), 0
        )


def _latency(variant: str, predictions: Predictions, percentile: int) -> float:
    """Milliseconds of one image."""
    return round(float(np.percentile(predictions.seconds[variant], percentile)) * 1000, 3)
