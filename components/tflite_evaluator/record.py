"""Puts a verdict on record: the part of it that a release carries, and all of it for those who ask.

A model of 1,000 classes that is measured on 10,000 slices has 12,000 checks, as often as there are
models. `recorded` keeps what a release is decided by and what is worst, so that a verdict's size is
bounded and its conclusions stay the same. `write_checks` and `write_confusion` write everything.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.feature_names import IMAGE_ID, LABEL, SOURCE
from components.intervals import share_interval
from components.predictions import FLOAT, Predictions
from components.report.measures import said_of
from components.verdict import (
    MOST_CHECKS,
    MOST_CONFUSED,
    Check,
    VariantVerdict,
    Verdict,
)

_Key = tuple[str, str]  # metric and slice


def images_by_slice(slices: Mapping[str, NDArray[np.str_]]) -> dict[str, int]:
    """How many images each slice has, by its name in a check: "<key>=<value>"."""
    return {
        f"{key}={value}": images
        for key, values in slices.items()
        for value, images in Counter(values.tolist()).items()
    }


def recorded(verdict: Verdict, images: Mapping[str, int], most: int = MOST_CHECKS) -> Verdict:
    """A verdict of bounded size with the same conclusions.

    What is kept first: what is neither of a class nor of a slice; of every model the thresholds it
    missed, the worst first; then those that were nearest to being missed; then the classes and
    slices without a threshold, the worst first. A check is kept of every model or of none.

    Args:
        verdict: with every check.
        images: how many images each slice has; of any other check, it is all of them.
        most: checks to keep of one model; more than are overall, and one for each model.
    """
    checks = {(check.metric, check.slice) for model in verdict.models for check in model.checks}
    kept = checks if len(checks) <= most else set(islice(_ranked(verdict, images, most), most))
    return replace(
        verdict,
        float_model=_reduced(verdict.float_model, kept),
        variants=tuple(_reduced(variant, kept) for variant in verdict.variants),
        left_out=len(checks) - len(kept),
    )


def write_checks(verdict: Verdict, images: Mapping[str, int], file: Path) -> None:
    """Writes every check of every model as CSV, in UTF-8, a row each."""
    head = ("model", "metric", "slice", "images", "value", "threshold", "bound", "low", "high")
    rows = (
        (
            model.variant,
            check.metric,
            check.slice,
            images.get(check.slice, verdict.examples),
            check.value,
            check.threshold,
            "" if check.threshold is None else check.bound,
            *(check.interval or ("", "")),
        )
        for model in verdict.models
        for check in model.checks
    )
    _write_csv(file, head, rows)


def write_confusion(
    probabilities: Mapping[str, NDArray[np.float32]],
    label_ids: NDArray[np.int64],
    labels: Sequence[str],
    file: Path,
) -> None:
    """Writes how often every class was said of every label as CSV, in UTF-8, where it was at all.

    Args:
        probabilities: by model, `[examples, classes]`.
        label_ids: `[examples]`.
        labels: class names in order.
        file: to write.
    """
    rows = (
        (name, labels[label], labels[said], images)
        for name, of_model in probabilities.items()
        for (label, said), images in sorted(
            Counter(zip(label_ids.tolist(), said_of(of_model).tolist(), strict=True)).items()
        )
    )
    _write_csv(file, ("model", "label", "said", "images"), rows)


def write_predictions(predictions: Predictions, labels: Sequence[str], file: Path) -> None:
    """Writes what every model said of every image as CSV, in UTF-8, a row an image.

    Args:
        predictions: of the split.
        labels: class names in order.
        file: to write.
    """
    models = {FLOAT: predictions.float_model, **predictions.variants}
    said = {name: said_of(probabilities) for name, probabilities in models.items()}
    head = [SOURCE, IMAGE_ID, LABEL, *predictions.slices]
    head += [f"{name} {what}" for name in models for what in ("said", "probability")]
    rows = (
        [
            source,
            image_id,
            labels[label_id],
            *(values[index] for values in predictions.slices.values()),
            *(
                value
                for name, probabilities in models.items()
                for value in (labels[said[name][index]], f"{probabilities[index].max():.6f}")
            ),
        ]
        for index, (source, image_id, label_id) in enumerate(
            zip(predictions.sources, predictions.image_ids, predictions.label_ids, strict=True)
        )
    )
    _write_csv(file, head, rows)


def _write_csv(file: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)


def _reduced(model: VariantVerdict, kept: set[_Key]) -> VariantVerdict:
    checks = tuple(check for check in model.checks if (check.metric, check.slice) in kept)
    few_classes = len(model.confusion or ()) <= MOST_CONFUSED
    return replace(model, checks=checks, confusion=model.confusion if few_classes else None)


def _ranked(verdict: Verdict, images: Mapping[str, int], most: int) -> Iterator[_Key]:
    """Checks in the order in which they are kept, each once."""
    checks = [check for model in verdict.models for check in model.checks]
    whole = _keys(check for check in checks if not check.of_part)
    # Without one of its own that was missed, a model that failed would seem to have passed.
    of_each = max(1, (most - len(whole)) // len(verdict.models))
    missed = [
        check
        for model in verdict.models
        for check in sorted(model.missed, key=lambda check: check.margin)[:of_each]
    ]
    parts = [check for check in checks if check.of_part]
    gated = sorted((c for c in parts if c.threshold is not None), key=lambda c: c.margin)
    free = sorted(
        (check for check in parts if check.threshold is None),
        key=lambda check: _at_best(check, images.get(check.slice, verdict.examples)),
    )
    return iter({**whole, **_keys(missed), **_keys(gated), **_keys(free)})


def _keys(checks: Iterable[Check]) -> dict[_Key, None]:
    return {(check.metric, check.slice): None for check in checks}


def _at_best(check: Check, images: int) -> float:
    """The upper end of a share's interval: where it is low, the share is bad, and not by chance."""
    return 0.0 if math.isnan(check.value) else share_interval(check.value, images)[1]
