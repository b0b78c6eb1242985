"""What is different between two runs: settings, data, and figures with what they prove."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import JsonValue

from components.intervals import Interval, difference_interval
from pipeline.history.record import Figure, Judged, RunRecord

Direction = Literal["better", "worse", "not proved", "same", ""]
NOTHING = "-"


@dataclass(frozen=True)
class Change:
    """A setting, or a fact of the data, of which the runs have another value."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class FigureChange:
    """A metric of a model in both runs.

    Attributes:
        model: "float", or the variant.
        metric: its name.
        before: its value, None where it is not defined or the run has none.
        after: likewise.
        interval: of after less before, where both values have one.
        direction: what that says; empty where there is no interval to say it by.
    """

    model: str
    metric: str
    before: float | None
    after: float | None
    interval: Interval | None
    direction: Direction


@dataclass(frozen=True)
class Comparison:
    """What is different between two runs."""

    before: RunRecord
    after: RunRecord
    settings: tuple[Change, ...]
    data: tuple[Change, ...]
    figures: tuple[FigureChange, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs: the ids of the runs, and what differs."""
        return {
            "before": self.before.id,
            "after": self.after.id,
            "settings": [asdict(change) for change in self.settings],
            "data": [asdict(change) for change in self.data],
            "figures": [asdict(change) for change in self.figures],
        }


def compare(before: RunRecord, after: RunRecord) -> Comparison:
    """Compares two runs."""
    return Comparison(
        before,
        after,
        settings=changed_settings(before, after),
        data=tuple(_data(before, after)),
        figures=tuple(_figures(before, after)),
    )


def changed_settings(before: RunRecord, after: RunRecord) -> tuple[Change, ...]:
    """The settings that differ, by name."""
    return tuple(_changes(_texts(before.settings), _texts(after.settings)))


def _texts(values: Mapping[str, JsonValue]) -> dict[str, str]:
    # A setting of nothing is none: what a new section leaves open is no change.
    given = {name: value for name, value in values.items() if value is not None}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in given.items()}


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        change = Change(name, before.get(name, NOTHING), after.get(name, NOTHING))
        if change.before != change.after:
            yield change


def _data(before: RunRecord, after: RunRecord) -> Iterator[Change]:
    """Digests of what the runs were made from, then images, then versions."""
    for facts in (_digests, _images, _versions):
        yield from _changes(facts(before), facts(after))


def _digests(run: RunRecord) -> dict[str, str]:
    # The digest of the settings says no more than these do.
    return {
        f"{name} ({algorithm})": digest[:12]
        for name, digests in run.inputs.items()
        for algorithm, digest in digests.items()
        if name != "config"
    }


def _images(run: RunRecord) -> dict[str, str]:
    totals = {
        f"{split} images": f"{sum(by_class.values()):,}" for split, by_class in run.images.items()
    }
    counts = {
        f"{split} images of {label}": f"{count:,}"
        for split, by_class in run.images.items()
        for label, count in by_class.items()
    }
    return {**totals, **counts}


def _versions(run: RunRecord) -> dict[str, str]:
    return {f"version of {name}": version for name, version in run.libraries.items()}


def _figures(before: RunRecord, after: RunRecord) -> Iterator[FigureChange]:
    models_before, models_after = _models(before), _models(after)
    for name in dict.fromkeys([*models_before, *models_after]):
        figures_before = models_before[name].figures if name in models_before else {}
        figures_after = models_after[name].figures if name in models_after else {}
        for metric in dict.fromkeys([*figures_before, *figures_after]):
            yield _figure(name, metric, figures_before.get(metric), figures_after.get(metric))


def _models(run: RunRecord) -> dict[str, Judged]:
    return {model.name: model for model in run.judgement.models} if run.judgement else {}


def _figure(model: str, metric: str, before: Figure | None, after: Figure | None) -> FigureChange:
    values = (before.value if before else None, after.value if after else None)
    if before is None or after is None or before.value is None or after.value is None:
        return FigureChange(model, metric, *values, None, "")
    if before.value == after.value:
        return FigureChange(model, metric, *values, None, "same")
    if before.interval is None or after.interval is None:
        return FigureChange(model, metric, *values, None, "")
    interval = difference_interval(before.value, before.interval, after.value, after.interval)
    return FigureChange(model, metric, *values, interval, _direction(interval, after.bound))


def _direction(interval: Interval, bound: Literal["min", "max"]) -> Direction:
    low, high = interval
    if low <= 0 <= high:
        return "not proved"
    # Of what has an upper bound, less is better.
    return "better" if (low > 0) == (bound == "min") else "worse"
