"""The tables of a report: rows of cells, each with what it says and how it is to be marked.

No table grows with the classes or with the values of a slice key beyond the limits below: what is
worst stays, and the rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from components.intervals import share_interval
from components.report.measures import (
    Calibration,
    ClassCurves,
    Confused,
    Group,
    Ints,
    confusion,
    together,
)
from components.tflite_models import ModelFile, Parity
from components.verdict import OVERALL, Check, VariantVerdict, Verdict

NOTHING = "–"  # noqa: RUF001, what a cell says when there is nothing to say
MOST_GATED = 200  # rows of checks with a threshold that are all shown
MOST_MISSED = 1000  # rows of thresholds that a model missed, where there are more
MOST_KEPT = 20  # rows of thresholds that every model kept, where there are more
MOST_FREE = 400  # rows of checks without a threshold that are all shown
LOWEST_FREE = 100  # rows of the metrics of classes, where there are more
MOST_SUSPECTS = 25
MOST_VALUES = 30  # of a slice key that are all shown
WORST_VALUES = 10  # of a slice key with more
MOST_SLICES = 1000  # rows of all slice keys together
WORST_CLASSES = 25
MOST_CLASSES = 1000  # rows of classes that follow these, folded away
MOST_CONFUSIONS = 25
MOST_COUNTED = 60  # classes whose images are counted one by one
SMALLEST, LARGEST = 30, 10  # classes that are counted one by one where there are more


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
    return Table(
        "The models side by side",
        head,
        tuple(_variant_row(model, verdict) for model in verdict.models),
    )


def outcome(model: VariantVerdict, verdict: Verdict, most: int = 1) -> tuple[bool, tuple[str, ...]]:
    """Whether a model may be published, and why not, in about as many reasons.

    What the float model missed as well is said of that, and counted here.
    """
    of_float = verdict.float_model
    if model.passed and not of_float.passed:
        return False, ("the float model did not pass",)
    if model == of_float or model.error:
        return model.passed, _reasons(model, most)
    shared = _keys(of_float) & _keys(model)
    others = tuple(check for check in model.checks if (check.metric, check.slice) not in shared)
    own = replace(model, checks=others)
    if not shared:
        return model.passed, _reasons(own, most)
    also = f"{len(shared):,} of the thresholds that the float model missed, too"
    return False, (*own.main_reasons(most), also)


def _keys(model: VariantVerdict) -> set[tuple[str, str]]:
    return {(check.metric, check.slice) for check in model.missed}


def _reasons(model: VariantVerdict, most: int) -> tuple[str, ...]:
    return model.main_reasons(most) or (() if model.passed else ("nothing was measured",))


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
    details = []
    if model.threads is not None:
        details.append("1 thread" if model.threads == 1 else f"{model.threads} threads")
    if percentile == "p50" and "p25" in model.latency_ms:
        details.append(
            f"half within {model.latency_ms['p25']:.1f} to {model.latency_ms['p75']:.1f}"
        )
    if model.noisy:
        details.append("noisy: the machine was busy")
    return Cell(f"{model.latency_ms[percentile]:.1f} ms", ", ".join(details))


def find(model: VariantVerdict, metric: str) -> Check | None:
    """A metric over all examples, if it was measured."""
    return next((c for c in model.checks if (c.metric, c.slice) == (metric, OVERALL)), None)


@dataclass(frozen=True)
class CheckTables:
    """Every check of every model, or those that matter.

    Attributes:
        gated: those with a threshold. If they are many: what is overall, what was missed by most,
            and what was kept by least.
        missed_left_out: how many more were missed by a model.
        kept_left_out: how many more were kept by every model.
        reported: those without a threshold. If they are many: what is overall, and what is lowest
            of the classes.
        reported_left_out: how many more there are.
    """

    gated: Table
    missed_left_out: int
    kept_left_out: int
    reported: Table
    reported_left_out: int


def check_tables(verdict: Verdict) -> CheckTables:
    """Tables of the checks, of bounded length."""
    by_model = [{_row_key(check): check for check in model.checks} for model in verdict.models]
    # What differs in its threshold is a row of its own: no value stands beside another's threshold.
    keys = dict.fromkeys(key for checks in by_model for key in checks)
    gated = [key for key in keys if key.threshold is not None]
    free = [key for key in keys if key.threshold is None]
    shown = gated if len(gated) <= MOST_GATED else _main_gated(gated, by_model)
    reported = free if len(free) <= MOST_FREE else _main_free(free, by_model)
    missed_left_out = sum(_is_missed(key, by_model) for key in set(gated).difference(shown))
    head = ("metric", "threshold", *(model.variant for model in verdict.models))

    def table(caption: str, rows: Sequence[_RowKey]) -> Table:
        return Table(caption, head, tuple(_check_row(key, by_model) for key in rows))

    return CheckTables(
        gated=table("Metrics with a threshold", shown),
        missed_left_out=missed_left_out,
        kept_left_out=len(gated) - len(shown) - missed_left_out,
        reported=table("Metrics without a threshold", reported),
        reported_left_out=len(free) - len(reported),
    )


def _is_missed(key: _RowKey, by_model: _ByModel) -> bool:
    return any(key in checks and not checks[key].passed for checks in by_model)


def _main_gated(keys: Sequence[_RowKey], by_model: _ByModel) -> list[_RowKey]:
    """What is overall, what was missed by most, and what was kept by least."""

    def margin(key: _RowKey) -> float:
        return min(checks[key].margin for checks in by_model if key in checks)

    parts = sorted((key for key in keys if key.of_part), key=margin)
    missed = [key for key in parts if _is_missed(key, by_model)]
    kept = [key for key in parts if not _is_missed(key, by_model)]
    return [
        *(key for key in keys if not key.of_part),
        *missed[:MOST_MISSED],
        *kept[:MOST_KEPT],
    ]


def _main_free(keys: Sequence[_RowKey], by_model: _ByModel) -> list[_RowKey]:
    """What is overall, and then the metrics of classes that are lowest for some model."""

    def lowest(key: _RowKey) -> float:
        # A precision that isn't defined, of a class never said, is as low as can be.
        return min(np.nan_to_num(checks[key].value) for checks in by_model if key in checks)

    of_classes = (key for key in keys if key.of_part and key.slice == OVERALL)
    return [
        *(key for key in keys if not key.of_part),
        *sorted(of_classes, key=lowest)[:LOWEST_FREE],
    ]


def _check_row(key: _RowKey, by_model: _ByModel) -> tuple[Cell, ...]:
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
    of_part: bool


_ByModel = Sequence[Mapping[_RowKey, Check]]


def _row_key(check: Check) -> _RowKey:
    return _RowKey(check.metric, check.slice, check.asked, check.bound, check.of_part)


def _check_cell(check: Check | None) -> Cell:
    if check is None:
        return Cell(NOTHING)
    return Cell(
        f"{check.value:.4f}",
        _doubt(check),
        None if check.threshold is None else check.passed,
    )


def _doubt(check: Check) -> str:
    if check.waived is not None:
        return "not gated on: the machine was busy"
    if check.interval is None:
        return ""
    said = span(check.interval)
    return f"{said}, not proved" if check.decision == "not proved" else said


def _accuracy_cell(check: Check | None, examples: int) -> Cell:
    if check is None:
        return Cell(NOTHING)
    return Cell(f"{check.value:.4f}", span(share_interval(check.value, examples)))


def confusion_table(name: str, said: Ints, label_ids: Ints, labels: Sequence[str]) -> Table:
    """How often each class was said of each label; the tint is the share of the label's images."""
    counts = confusion(said, label_ids, len(labels))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Table(
        f"What {name} said of each label",
        ("label", *labels),
        tuple(
            (Cell(label), *(Cell(str(n), heat=s) for n, s in zip(ns, ss, strict=True)))
            for label, ns, ss in zip(labels, counts.tolist(), shares.tolist(), strict=True)
        ),
    )


def confused_table(pairs: Sequence[Confused], labels: Sequence[str], label_ids: Ints) -> Table:
    """The most frequent confusions, and how many images the others are."""
    shown, others = pairs[:MOST_CONFUSIONS], pairs[MOST_CONFUSIONS:]
    images = np.bincount(label_ids, minlength=len(labels)).tolist()
    models = tuple(pairs[0].counts) if pairs else ()
    rows = [
        (
            Cell(labels[pair.label_id], f"said to be {labels[pair.said_id]}"),
            Cell(f"{images[pair.label_id]:,}"),
            *(Cell(f"{n:,}", heat=n / images[pair.label_id]) for n in pair.counts.values()),
        )
        for pair in shown
    ]
    if others:
        counts = (sum(pair.counts[model] for pair in others) for model in models)
        name = Cell(f"{len(others):,} other confusions")
        rows.append((name, Cell(NOTHING), *(Cell(f"{n:,}") for n in counts)))
    head = ("label", "images", *models)
    return Table(f"The most frequent of {len(pairs):,} confusions", head, tuple(rows))


def class_tables(ranked: Sequence[Group], models: Sequence[str]) -> tuple[Table, Table]:
    """How much of each class the models recall: of the worst, and of those that follow.

    Args:
        ranked: the classes, the worst first.
        models: their names.
    """
    worst, others = ranked[:WORST_CLASSES], ranked[WORST_CLASSES:]
    following = others[:MOST_CLASSES]
    rows = [*worst, *([together(f"the other {len(others):,}", others)] if others else [])]
    caption = f"Recall of the {len(worst):,} worst of {len(ranked):,} classes"
    head = ("class", "images", *models)
    return (
        Table(caption, head, tuple(map(_group_row, rows))),
        Table(f"Recall of {len(following):,} more", head, tuple(map(_group_row, following))),
    )


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    name: str
    label_id: int
    suggested_id: int
    probability: float  # of the suggested class


def suspects_table(suspects: Sequence[Suspect], labels: Sequence[str]) -> Table:
    """The first of the images whose labels are probably wrong."""
    return Table(
        "Labels to look at",
        ("image", "label", "the model says", "probability"),
        tuple(
            (
                Cell(suspect.name),
                Cell(labels[suspect.label_id]),
                Cell(labels[suspect.suggested_id]),
                Cell(f"{suspect.probability:.4f}"),
            )
            for suspect in suspects[:MOST_SUSPECTS]
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
        tuple((Cell(name), Cell(f"{c.expected_error:.4f}")) for name, c in calibrations.items()),
    )


@dataclass(frozen=True)
class SliceTables:
    """Accuracy by slice: a table a key, and how much there was no room for."""

    tables: tuple[Table, ...]
    keys_left_out: int
    values_left_out: int  # of the keys that have a table


def slice_tables(by_key: Mapping[str, Sequence[Group]], models: Sequence[str]) -> SliceTables:
    """Accuracy on each value of the slice keys, with how many images that is.

    Args:
        by_key: the values of each slice key, at least one.
        models: their names.
    """
    shown: list[Table] = []
    rows, values_left_out = 0, 0
    for key, values in by_key.items():
        table = _slice_table(key, values, models)
        rows += len(table.rows)
        if rows > MOST_SLICES:
            break
        shown.append(table)
        values_left_out += max(0, len(values) - WORST_VALUES) if len(values) > MOST_VALUES else 0
    return SliceTables(tuple(shown), len(by_key) - len(shown), values_left_out)


def _slice_table(key: str, values: Sequence[Group], models: Sequence[str]) -> Table:
    head = (key, "images", *models)
    if len(values) <= MOST_VALUES:
        return Table(f"Accuracy by {key}", head, tuple(map(_group_row, values)))
    ranked = worst_first(values)
    shown, others = ranked[:WORST_VALUES], ranked[WORST_VALUES:]
    rows = (*shown, together(f"the other {len(others):,}", others))
    caption = f"Accuracy by {key}: the {len(shown)} worst of {len(values):,} values"
    return Table(caption, head, tuple(map(_group_row, rows)))


def worst_first(rows: Sequence[Group]) -> list[Group]:
    """The groups on which some model is bad, and not by chance, come first."""
    return sorted(rows, key=lambda row: row.at_best)


def _group_row(row: Group) -> tuple[Cell, ...]:
    """A group that has images, and how many of them each model gets right."""
    shares = (Cell(f"{row.share(m):.4f}", span(row.interval(m))) for m in row.right)
    return (Cell(row.name), Cell(str(row.images)), *shares)


def summary_table(summary: Mapping[str, Mapping[str, int]]) -> Table:
    """The images of each label in each split; of many labels, the smallest and the largest."""
    labels = list(dict.fromkeys(label for counts in summary.values() for label in counts))
    rows = [(label, [counts.get(label, 0) for counts in summary.values()]) for label in labels]
    if len(rows) > MOST_COUNTED:
        rows.sort(key=lambda row: sum(row[1]))
        between = rows[SMALLEST:-LARGEST]
        sums = [sum(column) for column in zip(*(counts for _, counts in between), strict=True)]
        middle = (f"{len(between):,} between them", sums)
        rows = [*rows[:SMALLEST], middle, *rows[-LARGEST:]]
    rows.append(("together", [sum(counts.values()) for counts in summary.values()]))
    return Table(
        "Images by label and split",
        ("label", *summary, "together"),
        tuple(
            (Cell(label), *(Cell(f"{n:,}") for n in (*counts, sum(counts))))
            for label, counts in rows
        ),
    )


def settings_table(settings: Mapping[str, str]) -> Table:
    """The settings that the model was made with."""
    rows = tuple((Cell(name), Cell(value)) for name, value in settings.items())
    return Table("Settings", ("setting", "value"), rows)


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


def layer_table(models: Sequence[ModelFile]) -> Table:
    """The layers that bring most of the difference between a variant and the float model."""
    return Table(
        "Where the variants differ from the float model",
        ("variant", "layer", "error before it", "error after it"),
        tuple(
            (
                Cell(model.variant),
                Cell(_short(layer.name)),
                Cell(f"{layer.before:.1%}"),
                Cell(f"{layer.error:.1%}"),
            )
            for model in models
            for layer in model.layers
        ),
    )


def _short(layer: str) -> str:
    """The end of a layer's name, of which fused ones have several."""
    return "/".join(layer.rpartition(";")[2].split("/")[-2:])


def frontier_table(model: ModelFile) -> Table:
    """The recipes that a searched variant was chosen from, numbered as in the charts."""
    return Table(
        f"What {model.variant} was chosen from",
        ("recipe", "layers", "size", "accuracy", "latency p50", "answers"),
        tuple(
            (
                Cell(str(number)),
                Cell(point.name),
                Cell(size(point.bytes)),
                Cell(f"{point.accuracy:.4f}"),
                Cell(f"{point.latency_ms:.1f} ms"),
                Cell(", ".join(point.answers).replace("_", " ") or NOTHING),
            )
            for number, point in enumerate(model.frontier, start=1)
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
