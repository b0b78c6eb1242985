"""Turns predictions into a verdict: every metric with its threshold, the float model's first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.tflite_evaluator import metrics
from components.tflite_evaluator.predict import THREADS, Predictions
from components.tflite_models import ModelFile
from components.verdict import OVERALL, Check, VariantVerdict, Verdict


@dataclass(frozen=True)
class Gate:
    """The thresholds, as fractions; see `[gate]` in the configuration."""

    min_accuracy: float
    min_auc: float | None = None
    min_slice_accuracy: Mapping[str, float] = field(default_factory=dict)
    max_drop: float = 0.01


class SplitError(Exception):
    """The split can't be judged on."""


def judge(
    predictions: Predictions,
    models: Sequence[ModelFile],
    gate: Gate,
    split: str,
    labels: Sequence[str],
) -> Verdict:
    """Measures the float model and every variant against the gate.

    Args:
        predictions: of the float model and of each variant that could be converted.
        models: every variant asked for, converted or not.
        gate: the thresholds.
        split: name of the split the predictions are of.
        labels: class names in order.

    Raises:
        SplitError: a class has no example in the split, or an example has an unknown label.
    """
    _check_classes(predictions.label_ids, split, labels)
    return Verdict(
        split=split,
        examples=len(predictions.label_ids),
        float_model=_judge_float(predictions, gate),
        variants=tuple(_judge_variant(model, predictions, gate) for model in models),
    )


def _check_classes(label_ids: NDArray[np.int64], split: str, labels: Sequence[str]) -> None:
    if (label_ids < 0).any():
        raise SplitError(
            f"split {split!r}: {int((label_ids < 0).sum())} examples have a label that is not "
            f"among {', '.join(labels)}"
        )
    missing = [label for i, label in enumerate(labels) if not (label_ids == i).any()]
    if missing:
        raise SplitError(
            f"split {split!r} has no example of {', '.join(missing)}: nothing can be said of a "
            "class that was not measured; add images or choose another gate.split"
        )


def _judge_float(predictions: Predictions, gate: Gate) -> VariantVerdict:
    if not np.isfinite(predictions.float_model).all():
        return VariantVerdict("float", error="the float model returned NaN or infinity")
    return VariantVerdict(
        "float", checks=tuple(_absolute(predictions.float_model, predictions, gate))
    )


def _judge_variant(model: ModelFile, predictions: Predictions, gate: Gate) -> VariantVerdict:
    if model.error:
        return VariantVerdict(model.variant, error=model.error)
    probabilities = predictions.variants[model.variant]
    if not np.isfinite(probabilities).all():
        return VariantVerdict(model.variant, error="the model returned NaN or infinity")
    checks = [
        *_absolute(probabilities, predictions, gate),
        *_relative(probabilities, predictions, gate),
    ]
    milliseconds = predictions.seconds[model.variant] * 1000
    return VariantVerdict(
        model.variant,
        checks=tuple(checks),
        bytes=model.bytes,
        sha256=model.sha256,
        latency_ms={
            f"p{percent}": round(float(np.percentile(milliseconds, percent)), 3)
            for percent in (50, 95)
        },
        threads=THREADS,
    )


def _absolute(
    probabilities: NDArray[np.float32], predictions: Predictions, gate: Gate
) -> Iterator[Check]:
    label_ids = predictions.label_ids
    yield Check("accuracy", OVERALL, metrics.accuracy(probabilities, label_ids), gate.min_accuracy)
    yield Check("auc", OVERALL, metrics.auc(probabilities, label_ids), gate.min_auc)
    for key, values in predictions.slices.items():
        for value in np.unique(values):
            members = values == value
            yield Check(
                "accuracy",
                f"{key}={value}",
                metrics.accuracy(probabilities[members], label_ids[members]),
                gate.min_slice_accuracy.get(key),
            )


def _relative(
    probabilities: NDArray[np.float32], predictions: Predictions, gate: Gate
) -> Iterator[Check]:
    drop, interval = metrics.accuracy_drop(
        probabilities, predictions.float_model, predictions.label_ids
    )
    yield Check("accuracy drop", OVERALL, drop, gate.max_drop, "max", interval)
    yield Check("agreement", OVERALL, metrics.agreement(probabilities, predictions.float_model))
