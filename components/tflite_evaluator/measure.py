"""The metrics of every model, overall and by slice, from arrays of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from components.intervals import Area, area_under_curves
from components.predictions import FLOAT, Predictions, Probabilities
from components.report.measures import Group, calibration, confusion, groups, said_of
from components.verdict import MOST_CONFUSED, OVERALL

TOP_K = 3
ALL = "all"  # images of a slice value
BLOCK = 4096  # examples, of which a sorted copy is made at a time

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """The metrics of one model.

    Attributes:
        by_slice: metric name to value, by slice: "overall" or "<key>=<value>".
        images: of metrics that are a share of images, how many these are, by slice and metric.
        area: the metric `auc`, with its error.
        confusion: `[label][said]` counts, in the order of the labels; None of so many classes that
            no verdict would take it.
    """

    by_slice: Mapping[str, Mapping[str, float]]
    images: Mapping[str, Mapping[str, int]]
    area: Area
    confusion: tuple[tuple[int, ...], ...] | None


def measure(predictions: Predictions, labels: Sequence[str]) -> dict[str, Measured]:
    """Measures the float model and every variant that gave predictions (finite ones).

    Metrics: `accuracy`, `top-3 accuracy` (of more than three classes), `auc` (one class against the
    rest, exact, averaged), `precision of <label>` (NaN where the label is never said),
    `recall of <label>`, `calibration error`; by slice, `accuracy` only.

    Returns:
        The metrics by model, the float model under "float".
    """
    models = {FLOAT: predictions.float_model, **predictions.variants}
    return {
        name: _measured(probabilities, predictions, labels)
        for name, probabilities in models.items()
        if np.isfinite(probabilities).all()
    }


def _measured(
    probabilities: Probabilities, predictions: Predictions, labels: Sequence[str]
) -> Measured:
    label_ids, said = predictions.label_ids, said_of(probabilities)
    area = area_under_curves(label_ids, probabilities)
    values = dict(_overall(probabilities, said, label_ids, labels))
    by_slice = {OVERALL: {**values, "auc": area.value}}
    images = {OVERALL: dict(_images(said, label_ids, labels))}
    for key, of_key in predictions.slices.items():
        for group in _by_value(of_key, said, label_ids):
            by_slice[f"{key}={group.name}"] = {"accuracy": group.share(ALL)}
            images[f"{key}={group.name}"] = {"accuracy": group.images}
    counts = None
    if len(labels) <= MOST_CONFUSED:
        matrix = confusion(said, label_ids, len(labels))
        counts = tuple(tuple(row) for row in matrix.tolist())
    return Measured(by_slice, images, area, counts)


def _overall(
    probabilities: Probabilities, said: Ints, label_ids: Ints, labels: Sequence[str]
) -> Iterator[tuple[str, float]]:
    yield "accuracy", float(np.mean(said == label_ids))
    if len(labels) > TOP_K:
        yield f"top-{TOP_K} accuracy", _top_k_accuracy(probabilities, label_ids)
    # Of a class that is never said, no precision is defined: NaN, which passes no threshold.
    precision, recall, _, _ = precision_recall_fscore_support(
        label_ids, said, labels=range(len(labels)), zero_division=np.nan
    )
    for index, label in enumerate(labels):
        yield f"precision of {label}", float(precision[index])
        yield f"recall of {label}", float(recall[index])
    yield "calibration error", calibration(probabilities, label_ids).expected_error


def _top_k_accuracy(probabilities: Probabilities, label_ids: Ints) -> float:
    right = sum(
        top_k_accuracy_score(
            label_ids[first : first + BLOCK],
            probabilities[first : first + BLOCK],
            k=TOP_K,
            normalize=False,
            labels=range(probabilities.shape[1]),
        )
        for first in range(0, len(label_ids), BLOCK)
    )
    return float(right / len(label_ids))


def _images(said: Ints, label_ids: Ints, labels: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Of how many images each metric is a share."""
    yield "accuracy", len(label_ids)
    of_label = np.bincount(label_ids, minlength=len(labels)).tolist()
    said_to_be = np.bincount(said, minlength=len(labels)).tolist()
    for index, label in enumerate(labels):
        yield f"recall of {label}", of_label[index]
        yield f"precision of {label}", said_to_be[index]


def _by_value(values: NDArray[np.str_], said: Ints, label_ids: Ints) -> list[Group]:
    names, group_ids = np.unique(values, return_inverse=True)
    return groups(names.tolist(), group_ids, {ALL: said}, label_ids)
