"""The charts of a report: which lines and points, on which axes, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from components.report.charts import Axis, Chart, Line, Mark, Point
from components.report.measures import Calibration, ClassCurves
from components.report.tables import find, outcome
from components.tflite_models import FrontierPoint
from components.verdict import Verdict

# Variants closer than this are not told apart by a test split of ordinary size.
LEAST_ACCURACY_SPAN = 0.02
TRAINING_CURVES = ("training", "validation")  # by style
OTHERS, CHOSEN = 0, 1  # styles of recipes: those that answer a question stand out
LEAST_EPOCHS = 6.0  # on an axis; with fewer, it would have ticks between whole epochs

Styles = Mapping[str, int]


def tradeoff_charts(verdict: Verdict, styles: Styles) -> list[Chart]:
    """Accuracy against what it costs, in bytes and in time."""
    sizes = {v.variant: v.bytes / 1e6 for v in verdict.variants if v.bytes}
    times = {v.variant: v.latency_ms["p50"] for v in verdict.variants if v.latency_ms}
    return [
        chart
        for title, unit, costs in (
            ("Accuracy against size", "MB", sizes),
            ("Accuracy against latency", "ms, p50 of one image", times),
        )
        if (chart := _tradeoff_chart(title, unit, costs, verdict, styles))
    ]


def _tradeoff_chart(
    title: str, unit: str, costs: Mapping[str, float], verdict: Verdict, styles: Styles
) -> Chart | None:
    accuracies = {
        v.variant: check.value for v in verdict.variants if (check := find(v, "accuracy"))
    }
    passed = {v.variant: outcome(v, verdict)[0] for v in verdict.variants}
    marks = tuple(
        Mark(name, (cost, accuracies[name]), styles[name], passed[name])
        for name, cost in costs.items()
        if name in accuracies
    )
    if not marks:
        return None
    float_accuracy = find(verdict.float_model, "accuracy")
    reference = [float_accuracy.value] if float_accuracy else []
    x = Axis.around(unit, [0.0, *(mark.point[0] for mark in marks)])
    y = Axis.around(
        "accuracy",
        [*reference, *(mark.point[1] for mark in marks)],
        least_span=LEAST_ACCURACY_SPAN,
        limits=(0.0, 1.0),
    )
    return Chart(
        title,
        "; ".join(f"{m.name}: {m.point[0]:.4g} {unit}, accuracy {m.point[1]:.4f}" for m in marks),
        x,
        y,
        tuple(Line("the float model", ((x.low, a), (x.high, a)), None) for a in reference),
        marks,
    )


def frontier_charts(frontier: Sequence[FrontierPoint]) -> list[Chart]:
    """What a searched variant was chosen from, numbered as in the table; a line joins the best."""
    return [
        _frontier_chart(title, unit, costs, frontier)
        for title, unit, costs in (
            ("Recipes: accuracy against size", "MB", [p.bytes / 1e6 for p in frontier]),
            ("Recipes: accuracy against latency", "ms", [p.latency_ms for p in frontier]),
        )
    ]


def _frontier_chart(
    title: str, unit: str, costs: Sequence[float], frontier: Sequence[FrontierPoint]
) -> Chart:
    points = [(cost, point.accuracy) for cost, point in zip(costs, frontier, strict=True)]
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    marks = tuple(
        Mark(str(number), point, CHOSEN if found.answers else OTHERS, passed=True)
        for number, (point, found) in enumerate(zip(points, frontier, strict=True), start=1)
    )
    return Chart(
        title,
        "; ".join(
            f"{mark.name}: {mark.point[0]:.4g} {unit}, {mark.point[1]:.4f}" for mark in marks
        ),
        Axis.around(unit, [0.0, *costs]),
        Axis.around(
            "accuracy", [y for _, y in points], least_span=LEAST_ACCURACY_SPAN, limits=(0.0, 1.0)
        ),
        (Line("the best for their cost", best, OTHERS),),
        marks,
    )


def class_charts(label: str, curves: Mapping[str, ClassCurves], styles: Styles) -> list[Chart]:
    """The ROC and precision-recall curves of one class against the rest."""
    chance = Line("chance", ((0.0, 0.0), (1.0, 1.0)), None)
    roc = [Line(name, c.roc, styles[name]) for name, c in curves.items()]
    precision_recall = [Line(name, c.precision_recall, styles[name]) for name, c in curves.items()]
    return [
        Chart(
            f"ROC, {label}",
            _listing("area under the curve", {name: c.area for name, c in curves.items()}),
            Axis("false positive rate"),
            Axis("true positive rate"),
            (chance, *roc),
        ),
        Chart(
            f"Precision and recall, {label}",
            _listing("average precision", {n: c.average_precision for n, c in curves.items()}),
            Axis("recall"),
            Axis("precision"),
            tuple(precision_recall),
        ),
    ]


def calibration_chart(calibrations: Mapping[str, Calibration], styles: Styles) -> Chart:
    """How often a model is right, against the probability that it claims."""
    return Chart(
        "Calibration",
        _listing(
            "expected calibration error", {n: c.expected_error for n, c in calibrations.items()}
        ),
        Axis("probability of what was said"),
        Axis("accuracy"),
        (
            Line("perfect calibration", ((0.0, 0.0), (1.0, 1.0)), None),
            *(Line(name, c.points, styles[name], dots=True) for name, c in calibrations.items()),
        ),
    )


def training_charts(curves: Mapping[str, Sequence[float]]) -> list[Chart]:
    """A chart for each phase and metric, with the training and the validation curve."""
    by_metric: dict[str, dict[str, list[Point]]] = {}
    for name, values in curves.items():
        phase, _, metric = name.rpartition("/")
        plain = metric.removeprefix("val_")
        title = f"{phase}: {plain}" if phase else plain
        # A loss that went to infinity has no place on an axis.
        points = [(float(i), v) for i, v in enumerate(values, start=1) if math.isfinite(v)]
        if points:
            curve = TRAINING_CURVES[metric != plain]
            by_metric.setdefault(title.replace("_", " "), {})[curve] = points
    return [_training_chart(title, curves) for title, curves in by_metric.items()]


def _training_chart(title: str, curves: Mapping[str, Sequence[Point]]) -> Chart:
    epochs, values = zip(*(point for points in curves.values() for point in points), strict=True)
    return Chart(
        title,
        _listing("last value", {name: points[-1][1] for name, points in curves.items()}),
        Axis("epoch", 0.0, max(LEAST_EPOCHS, *epochs)),
        Axis.around("", values),
        tuple(
            Line(name, points, TRAINING_CURVES.index(name), dots=True)
            for name, points in curves.items()
        ),
    )


def _listing(what: str, values: Mapping[str, float]) -> str:
    return f"{what}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
