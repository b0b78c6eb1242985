"""Turns predictions and metrics into a verdict: each metric with its threshold, float first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from components.intervals import (
    Area,
    Interval,
    drop_interval,
    scale_needed,
    share_interval,
)
from components.predictions import FLOAT, Predictions, Probabilities
from components.report.measures import said_of
from components.tflite_evaluator.gate import Gate
from components.tflite_evaluator.measure import Measured
from components.tflite_models import ModelFile
from components.timing import is_noisy
from components.verdict import OVERALL, Check, VariantVerdict

REFERENCE_VARIANT = "float32"  # that a latency ratio is relative to
MEGABYTE = 1e6
Ints = NDArray[np.int64]

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
            f"p{percentile}": _latency(model.variant, predictions, percentile)
            for percentile in (25, 50, 75, 95)
        },
        noisy=is_noisy(predictions.seconds[model.variant]),
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
    images = measured.images[OVERALL]
    for metric, value in measured.by_slice[OVERALL].items():
        if metric == "calibration error":
            # It has no interval that holds: binning alone moves it.
            yield Check(metric, OVERALL, value, gate.max_calibration_error, "max")
        elif metric == "auc":
            yield _area(measured.area, images["accuracy"], gate)
        else:
            yield _share(metric, OVERALL, value, images.get(metric, 0), gate.minimum(metric), gate)
    for slice_, metrics in sorted(measured.by_slice.items()):
        if slice_ != OVERALL:
            minimum = gate.min_slice_accuracy.get(slice_.partition("=")[0])
            accuracy, images_there = metrics["accuracy"], measured.images[slice_]["accuracy"]
            yield _share("accuracy", slice_, accuracy, images_there, minimum, gate)


def _share(
    metric: str, slice_: str, value: float, images: int, minimum: float | None, gate: Gate
) -> Check:
    """A share of images; one of no images is NaN and has no interval."""
    check = Check(metric, slice_, value, minimum)
    if minimum is None or not images:
        return check
    return _proved(
        check, images, gate, lambda scale: share_interval(value, images * scale, gate.confidence)
    )


def _area(area: Area, images: int, gate: Gate) -> Check:
    check = Check("auc", OVERALL, area.value, gate.min_auc)
    if gate.min_auc is None:
        return check
    return _proved(check, images, gate, lambda scale: area.interval(gate.confidence, scale))


def _drop(
    metric: str,
    said: Probabilities,
    reference: Probabilities,
    label_ids: Ints,
    gate: Gate,
    most: float | None,
) -> Check:
    """How much less accurate a model is than a reference on the same images."""
    right = said_of(said) == label_ids
    reference_right = said_of(reference) == label_ids
    lost = int(np.count_nonzero(reference_right & ~right))
    gained = int(np.count_nonzero(right & ~reference_right))
    images = len(label_ids)
    check = Check(metric, OVERALL, (lost - gained) / images, most, "max")
    return _proved(
        check,
        images,
        gate,
        lambda scale: drop_interval(lost * scale, gained * scale, images * scale, gate.confidence),
    )


def _proved(
    check: Check, images: int, gate: Gate, interval_at: Callable[[float], Interval]
) -> Check:
    """Adds the interval, what it decides, and how many images would decide where it doesn't."""
    if math.isnan(check.value):
        return check
    unproven = gate.unproven if gate.evidence == "interval" else "point"
    proved = replace(check, interval=interval_at(1.0), unproven=unproven)
    if proved.decision != "not proved":
        return proved

    def decides(scale: float) -> bool:
        return replace(proved, interval=interval_at(scale)).decision != "not proved"

    scale = scale_needed(decides)
    return replace(proved, images_needed=math.ceil(scale * images) if scale else None)


def _against_float(variant: str, predictions: Predictions, gate: Gate) -> Iterator[Check]:
    said, reference = predictions.variants[variant], predictions.float_model
    labels = predictions.label_ids
    yield _drop("accuracy drop", said, reference, labels, gate, gate.max_drop)
    agreement = float(np.mean(said_of(said) == said_of(reference)))
    yield _share("agreement", OVERALL, agreement, len(labels), gate.min_agreement, gate)


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
    yield _drop(name, said, deployed, predictions.label_ids, gate, gate.max_drop_deployed)
    agreement = float(np.mean(said_of(said) == said_of(deployed)))
    interval = share_interval(agreement, len(said), gate.confidence)
    # What a rollout's devices have to bear out, when the two run beside each other.
    name = f"agreement with {release.tag} {counterpart}"
    yield Check(name, OVERALL, agreement, interval=interval)


def _budgets(model: ModelFile, predictions: Predictions, gate: Gate) -> Iterator[Check]:
    size = (model.bytes or 0) / MEGABYTE
    yield Check("size in MB", OVERALL, size, gate.max_size_mb, "max")
    seconds = predictions.seconds
    noisy = is_noisy(seconds[model.variant])
    p50 = _latency(model.variant, predictions, 50)
    p95 = _latency(model.variant, predictions, 95)
    yield _timed("p50 latency in ms", p50, gate.max_latency_p50_ms, noisy, gate)
    yield _timed("p95 latency in ms", p95, gate.max_latency_p95_ms, noisy, gate)
    if REFERENCE_VARIANT in seconds:
        ratio = p50 / _latency(REFERENCE_VARIANT, predictions, 50)
        name = f"p50 latency against {REFERENCE_VARIANT}"
        noisy = noisy or is_noisy(seconds[REFERENCE_VARIANT])
        yield _timed(name, ratio, gate.max_latency_ratio, noisy, gate)
    elif gate.max_latency_ratio is not None:
        # Not measurable is not passed.
        yield Check(
            f"p50 latency against {REFERENCE_VARIANT}, which failed", OVERALL, float("nan"), 0
        )


def _timed(metric: str, value: float, most: float | None, noisy: bool, gate: Gate) -> Check:
    """A latency, which is not held against its threshold where it says what else was running.

    Unless only what is proved may pass.
    """
    if noisy and gate.unproven == "accept":
        return Check(metric, OVERALL, value, bound="max", waived=most)
    return Check(metric, OVERALL, value, most, "max")


def _latency(variant: str, predictions: Predictions, percentile: int) -> float:
    """Milliseconds of one image."""
    return round(float(np.percentile(predictions.seconds[variant], percentile)) * 1000, 3)
