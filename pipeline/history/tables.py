"""Runs and comparisons, for people: on a terminal, and as a page of HTML."""

from __future__ import annotations

from pathlib import Path

from components.report.tables import Cell, Table
from components.report.templates import environment
from pipeline.history.comparison import (
    NOTHING,
    Change,
    Comparison,
    FigureChange,
    changed_settings,
)
from pipeline.history.record import Judged, RunRecord
from pipeline.history.runs import Runs

BRIEF = 24  # characters of a setting in the list
MOST_CHANGES = 3  # settings that a row of the list names
LIST_HEAD = ("RUN", "OUTCOME", "TOOK", "FLOAT", "FASTEST", "ACCURACY", "RELEASE", "CHANGED")
LIST_RIGHT = (2, 3, 5)  # columns of figures


def list_rows(runs: Runs) -> list[tuple[str, ...]]:
    """A row a run, the newest first, with `LIST_HEAD`."""
    befores = (None, *runs.records[:-1])
    rows = [_list_row(*pair) for pair in zip(befores, runs.records, strict=True)]
    return rows[::-1]


def _list_row(before: RunRecord | None, run: RunRecord) -> tuple[str, ...]:
    judgement = run.judgement
    fastest = judgement.model(judgement.fastest) if judgement else None
    return (
        run.id,
        run.outcome,
        f"{run.seconds:,.0f} s",
        _accuracy(judgement.model("float") if judgement else None),
        fastest.name if fastest else NOTHING,
        _accuracy(fastest),
        f"{run.release.tag} ({run.release.channel})" if run.release else NOTHING,
        what_changed(before, run),
    )


def what_changed(before: RunRecord | None, run: RunRecord) -> str:
    """What a run had that the one before it had not."""
    if before is None:
        return "the first on record"
    parts = [
        f"{change.name} {_brief(change.before)} -> {_brief(change.after)}"
        for change in changed_settings(before, run)
    ]
    parts[MOST_CHANGES:] = [f"{len(parts) - MOST_CHANGES} more"] if parts[MOST_CHANGES:] else []
    for name in ("dataset", "code"):
        if before.inputs.get(name) != run.inputs.get(name):
            parts.append(f"the {name}")
    return ", ".join(parts) or ("nothing: all cached" if not run.made else "nothing")


def _brief(text: str) -> str:
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 4]} ..."


def _accuracy(model: Judged | None) -> str:
    figure = model.figures.get("accuracy") if model else None
    return _number(figure.value if figure else None)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Settings, data and figures that differ; the ones that nothing differs in are left out."""
    ids = (comparison.before.id, comparison.after.id)
    figures = [change for change in comparison.figures if change.direction != "same"]
    tables = [
        Table("Outcome", ("", *ids), _outcome_rows(comparison)),
        Table("Settings", ("setting", *ids), tuple(map(_change_row, comparison.settings))),
        Table("Data and code", ("", *ids), tuple(map(_change_row, comparison.data))),
        Table(
            "Figures",
            ("metric", *ids, "difference", "interval", "verdict"),
            tuple(map(_figure_row, figures)),
        ),
    ]
    return [table for table in tables if table.rows]


def _outcome_rows(comparison: Comparison) -> tuple[tuple[Cell, ...], ...]:
    runs = (comparison.before, comparison.after)
    facts: dict[str, list[str]] = {
        "outcome": [run.outcome for run in runs],
        "why": [(run.reason or NOTHING).splitlines()[0].rstrip(":") for run in runs],
        "release": [run.release.tag if run.release else NOTHING for run in runs],
        "steps made": [", ".join(run.made) or "none" for run in runs],
    }
    return tuple((Cell(name), *(Cell(value) for value in values)) for name, values in facts.items())


def _change_row(change: Change) -> tuple[Cell, ...]:
    return Cell(change.name), Cell(change.before), Cell(change.after)


def _figure_row(change: FigureChange) -> tuple[Cell, ...]:
    both = change.before is not None and change.after is not None
    difference = (change.after or 0) - (change.before or 0)
    low, high = change.interval or (0, 0)
    return (
        Cell(f"{change.model}: {change.metric}"),
        Cell(_number(change.before)),
        Cell(_number(change.after)),
        Cell(f"{difference:+.4f}" if both else NOTHING),
        Cell(f"{low:+.4f} to {high:+.4f}" if change.interval else NOTHING),
        Cell(
            change.direction or NOTHING,
            passed={"better": True, "worse": False}.get(change.direction),
        ),
    )


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def page(comparison: Comparison) -> str:
    """A comparison as HTML that needs no other file."""
    templates = environment(Path(__file__).parent)
    return templates.get_template("comparison.html.jinja").render(
        name=comparison.after.config.get("name", ""),
        before=comparison.before.id,
        after=comparison.after.id,
        tables=comparison_tables(comparison),
    )
