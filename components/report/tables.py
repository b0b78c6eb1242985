"""The tables of a report: rows of cells, each with what it says and how it is to be marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.report.measures import (
    Calibration,
    ClassCurves,
    Floats,
    Ints,
    accuracy,
    confusion,
    wilson_interval,
)
from components.tflite_models import ModelFile, Parity
from components.verdict import OVERALL, Check, VariantVerdict, Verdict

NOTHING = "–"  # noqa: RUF001, what a cell says when there is nothing to say


@dataclass(frozen=True)
class Cell:
    """What a cell says."""

    text: str
    detail: str = ""  # smaller, below
    passed: bool | None = None  # against a threshold; None is without
    heat: float | None = None  # how strongly it is tinted, 0 to 1


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def variant_table(verdict: Verdict) -> Table:
    """A row a model: what it costs, what it is worth, and whether it may be published."""
    head = (
        "model",
        "verdict",
        "accuracy",
        "accuracy drop",
        "size",
        "latency p50",
        "latency p95",
        "agreement",
    )
    models = (verdict.float_model, *verdict.variants)
    return Table(
        "The models side by side",
        head,
        tuple(_variant_row(model, verdict) for model in models),
    )


def outcome(model: VariantVerdict, verdict: Verdict) -> tuple[bool, tuple[str, ...]]:
    """Whether a model may be published, and why not."""
    if model.passed and not verdict.float_model.passed:
        return False, ("the float model did not pass",)
    return model.passed, model.reasons or (() if model.passed else ("nothing was measured",))


def _variant_row(model: VariantVerdict, verdict: Verdict) -> tuple[Cell, ...]:
    passed, _ = outcome(model, verdict)
    return (
        Cell(model.variant),
        Cell("passed" if passed else "failed", passed=passed),
        _accuracy_cell(find(model, "accuracy"), verdict.examples),
        _check_cell(find(model, "accuracy drop")),
        Cell(size(model.bytes)),
        *(_latency_cell(model, percentile) for percentile in ("p50", "p95")),
        _check_cell(find(model, "agreement")),
    )


def _latency_cell(model: VariantVerdict, percentile: str) -> Cell:
    if not model.latency_ms:
        return Cell(NOTHING)
    threads = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    return Cell(
        f"{model.latency_ms[percentile]:.1f} ms", threads if model.threads is not None else ""
    )


def find(model: VariantVerdict, metric: str) -> Check | None:
    """A metric over all examples, if it was measured."""
    return next((c for c in model.checks if (c.metric, c.slice) == (metric, OVERALL)), None)


def check_tables(verdict: Verdict) -> tuple[Table, Table]:
    """Every check of every model: those with a threshold, and those that are only reported."""
    models = (verdict.float_model, *verdict.variants)
    head = ("metric", "threshold", *(model.variant for model in models))
    by_model = [{_row_key(check): check for check in model.checks} for model in models]
    # What differs in its threshold is a row of its own: no value stands beside another's threshold.
    keys = dict.fromkeys(key for checks in by_model for key in checks)
    gated, reported = (
        tuple(_check_row(key, by_model) for key in keys if (key.threshold is None) == free)
        for free in (False, True)
    )
    return (
        Table("Metrics with a threshold", head, gated),
        Table("Metrics without a threshold", head, reported),
    )


def _check_row(key: _RowKey, by_model: Sequence[Mapping[_RowKey, Check]]) -> tuple[Cell, ...]:
    return (
        Cell(key.metric, "" if key.slice == OVERALL else key.slice),
        Cell(NOTHING if key.threshold is None else f"{_SIGN[key.bound]} {key.threshold:.4f}"),
        *(_check_cell(checks.get(key)) for checks in by_model),
    )


_SIGN = {"min": "≥", "max": "≤"}


class _RowKey(NamedTuple):
    metric: str
    slice: str
    threshold: float | None
    bound: str


def _row_key(check: Check) -> _RowKey:
    return _RowKey(check.metric, check.slice, check.threshold, check.bound)


def _check_cell(check: Check | None) -> Cell:
    if check is None:
        return Cell(NOTHING)
    return Cell(
        f"{check.value:.4f}",
        span(check.interval) if check.interval else "",
        None if check.threshold is None else check.passed,
    )


def _accuracy_cell(check: Check | None, examples: int) -> Cell:
    if check is None:
        return Cell(NOTHING)
    return Cell(f"{check.value:.4f}", span(wilson_interval(check.value, examples)))


def confusion_table(
    name: str, probabilities: Floats, label_ids: Ints, labels: Sequence[str]
) -> Table:
    """How often each class was said of each label; the tint is the share of the label's images."""
    counts = confusion(probabilities, label_ids)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Table(
        f"What {name} said of each label",
        ("label", *labels),
        tuple(
            (Cell(label), *(Cell(str(n), heat=s) for n, s in zip(ns, ss, strict=True)))
            for label, ns, ss in zip(labels, counts.tolist(), shares.tolist(), strict=True)
        ),
    )


def area_table(curves: Mapping[str, Mapping[str, ClassCurves]], models: Sequence[str]) -> Table:
    """The areas under the curves of each class: ROC, and precision-recall below it."""
    rows = []
    for label, by_model in curves.items():
        areas = [by_model[model] for model in models]
        cells = (Cell(f"{a.area:.4f}", f"{a.average_precision:.4f}") for a in areas)
        rows.append((Cell(label), *cells))
    return Table(
        "Area under the ROC curve; below it, average precision", ("label", *models), tuple(rows)
    )


def calibration_table(calibrations: Mapping[str, Calibration]) -> Table:
    """Each model's expected calibration error."""
    return Table(
        "Expected calibration error",
        ("model", "error"),
        tuple((Cell(name), Cell(f"{c.error:.4f}")) for name, c in calibrations.items()),
    )


def slice_table(
    key: str, values: NDArray[np.str_], measured: Mapping[str, Floats], label_ids: Ints
) -> Table:
    """Accuracy on each value of a slice key, with how many images that is."""
    rows = []
    for value in np.unique(values):
        members = values == value
        images = int(members.sum())
        shares = [accuracy(p[members], label_ids[members]) for p in measured.values()]
        cells = (Cell(f"{s:.4f}", span(wilson_interval(s, images))) for s in shares)
        rows.append((Cell(str(value)), Cell(str(images)), *cells))
    return Table(f"Accuracy by {key}", (key, "images", *measured), tuple(rows))


def summary_table(summary: Mapping[str, Mapping[str, int]]) -> Table:
    """The images of each label in each split."""
    labels = list(dict.fromkeys(label for counts in summary.values() for label in counts))
    rows = [(label, [counts.get(label, 0) for counts in summary.values()]) for label in labels]
    rows.append(("together", [sum(counts.values()) for counts in summary.values()]))
    return Table(
        "Images by label and split",
        ("label", *summary, "together"),
        tuple(
            (Cell(label), *(Cell(f"{n:,}") for n in (*counts, sum(counts))))
            for label, counts in rows
        ),
    )


def conversion_table(models: Sequence[ModelFile]) -> Table:
    """How each variant was made, and how near to the float model it came out."""
    return Table(
        "How the variants were made",
        ("variant", "quantization", "largest difference", "converter", "took", "SHA-256"),
        tuple(
            (
                Cell(model.variant),
                Cell(model.quantization),
                _parity_cell(model.parity),
                Cell(model.converter),
                Cell(f"{model.seconds:.0f} s"),
                Cell(model.sha256 or "no file"),
            )
            for model in models
        ),
    )


def _parity_cell(parity: Parity | None) -> Cell:
    if parity is None:
        return Cell(NOTHING)
    return Cell(f"{parity.max_difference:.4f}", f"mean {parity.mean_difference:.4f}")


def kept_table(model: ModelFile) -> Table:
    """The layers of an integer model that stayed float32, and why."""
    return Table(
        f"What {model.variant} keeps in float32",
        ("layer", "operation", "error if quantized"),
        tuple(
            (Cell(layer.name), Cell(layer.op), Cell(f"{layer.error:.4g}"))
            for layer in model.kept_float
        ),
    )


def size(count: int | None) -> str:
    """A number of bytes, in words."""
    if count is None:
        return NOTHING
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def span(interval: Iterable[float]) -> str:
    """An interval, in words."""
    return " to ".join(f"{end:.4f}" for end in interval)
