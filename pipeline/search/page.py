"""The page of a search: its frontier as a picture, every file in a table, and what won."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from components.report import charts
from components.report.charts import Axis, Chart, Line, Mark
from components.report.figures import LEAST_ACCURACY_SPAN
from components.report.tables import NOTHING, Cell, Table, size
from components.report.templates import environment
from pipeline.search.plan import MEGABYTE, Plan, Point, frontier, ranked, winner

OTHERS, CHOSEN = 0, 1  # styles


def page(name: str, plan: Plan, points: Sequence[Point], settings: str) -> str:
    """The page as HTML that needs no other file.

    Args:
        name: of the model.
        plan: what was searched among.
        points: every file that was measured.
        settings: of the winner, TOML.
    """
    best = frontier(points)
    templates = environment(Path(__file__).parent)
    return templates.get_template("search.html.jinja").render(
        name=name,
        geometry=charts,
        charts=_charts(points, best),
        table=points_table(points),
        budgets=budgets(plan),
        settings=settings,
    )


def budgets(plan: Plan) -> str:
    """The budgets in words."""
    parts = []
    if plan.max_size_mb is not None:
        parts.append(f"at most {plan.max_size_mb:g} MB")
    if plan.max_ms is not None:
        where = "on the device" if plan.slower else "on this machine"
        parts.append(f"at most {plan.max_ms:g} ms an image {where}")
    return " and ".join(parts) or "none"


def points_table(points: Sequence[Point]) -> Table:
    """Every file that was measured, the most accurate first, numbered as in the picture."""
    best, won = frontier(points), winner(points)
    return Table(
        "Files that were made and measured",
        ("", "base", "side", "variant", "size", "latency p50", "accuracy", "budgets", ""),
        tuple(
            (
                Cell(str(number)),
                Cell(point.candidate.base),
                Cell(str(point.candidate.side)),
                Cell(point.variant),
                Cell(size(point.cost.bytes)),
                Cell(f"{point.cost.ms:.1f} ms"),
                Cell(f"{point.accuracy:.4f}"),
                Cell("within" if point.fits else "over", passed=point.fits),
                Cell("won" if point == won else "frontier" if point in best else NOTHING),
            )
            for number, point in enumerate(ranked(points), 1)
        ),
    )


def _charts(points: Sequence[Point], best: Sequence[Point]) -> list[Chart]:
    return [
        _chart("Accuracy against size", "MB", lambda p: p.cost.bytes / MEGABYTE, points, best),
        _chart("Accuracy against latency", "ms, p50", lambda p: p.cost.ms, points, best),
    ]


def _chart(
    title: str,
    unit: str,
    cost: Callable[[Point], float],
    points: Sequence[Point],
    best: Sequence[Point],
) -> Chart:
    won = winner(points)
    numbered = list(enumerate(ranked(points), 1))
    marks = tuple(
        Mark(
            str(number),
            (cost(point), point.accuracy),
            CHOSEN if point == won else OTHERS,
            point.fits,
        )
        for number, point in numbered
    )
    stairs: list[tuple[float, float]] = []
    for point in sorted(best, key=lambda point: (cost(point), -point.accuracy)):
        if not stairs or point.accuracy > stairs[-1][1]:
            stairs.append((cost(point), point.accuracy))
    return Chart(
        title,
        "; ".join(
            f"{number}: {point.candidate.name}, {point.variant}, {cost(point):.4g} {unit}, "
            f"{point.accuracy:.4f}"
            for number, point in numbered
        ),
        Axis.around(unit, [0.0, *map(cost, points)]),
        Axis.around(
            "accuracy",
            [point.accuracy for point in points],
            least_span=LEAST_ACCURACY_SPAN,
            limits=(0.0, 1.0),
        ),
        (Line("the best for their cost", stairs, OTHERS),),
        marks,
    )
