"""Successive halving: who goes on, what is left out, and what is known is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.search.halving import search
from pipeline.search.notes import NOTES_FILE, Costs, Judged, Notes
from pipeline.search.plan import Candidate, Cost, Plan, Point, frontier, winner

BASES = tuple(f"b{number}" for number in range(8))
PLAN = Plan(BASES, (96,), ("int8", "float16"))


@dataclass
class Paper:
    """A lab on paper: base number `n` has files of `n` and `2 n` MB, and the larger, the better."""

    done: list[str] = field(default_factory=list)

    def costs(self, candidate: Candidate) -> Costs:
        self.done.append(f"costs {candidate.base}")
        megabytes = int(candidate.base[1:]) + 1
        return {
            "int8": Cost(megabytes * 10**6, megabytes * 1.0),
            "float16": Cost(megabytes * 2 * 10**6, megabytes * 3.0),
        }

    def score(self, candidate: Candidate, share: float) -> float:
        self.done.append(f"{candidate.base} {share}")
        return 1.0 / (int(candidate.base[1:]) + 1)

    def judge(self, candidate: Candidate) -> Judged:
        self.done.append(f"judge {candidate.base}")
        accuracy = 0.8 + int(candidate.base[1:]) / 100
        costs = dict(self.costs(candidate))
        self.done.pop()
        return {"int8": (costs["int8"], accuracy - 0.005), "float16": (costs["float16"], accuracy)}


def notes(folder: Path, key: str = "key") -> Notes:
    return Notes(folder, key)


def quiet(text: str) -> None:
    """Says nothing."""


def best(points: list[Point]) -> str:
    found = winner(points)
    assert found
    return f"{found.candidate.base} {found.variant}"


def test_the_better_half_goes_on_with_more_images(tmp_path: Path) -> None:
    lab = Paper()
    points = search(PLAN, lab, notes(tmp_path), quiet)
    assert lab.done == [
        *(f"{base} 0.25" for base in BASES),
        *(f"{base} 0.5" for base in ("b7", "b6", "b5", "b4")),
        *(f"{base} 1.0" for base in ("b7", "b6")),
        "judge b7",
        "judge b6",
    ]
    assert len(points) == 4
    assert best(points) == "b7 float16"


@pytest.mark.parametrize(
    ("budgets", "won"),
    [
        ({"max_size_mb": 4.0}, "b3 int8"),
        ({"max_ms": 6.0}, "b5 int8"),
        ({"max_size_mb": 4.0, "max_ms": 3.0}, "b2 int8"),
    ],
)
def test_what_is_over_a_budget_is_not_trained(
    budgets: dict[str, Any], won: str, tmp_path: Path
) -> None:
    lab = Paper()
    points = search(replace(PLAN, **budgets), lab, notes(tmp_path), quiet)
    assert best(points) == won
    trained = {each.split()[0] for each in lab.done if each.endswith(" 0.25")}
    assert max(trained) == won.split()[0], "the larger ones fit in no variant"


@pytest.mark.parametrize(
    ("budgets", "asked"),
    [
        ({"max_size_mb": 4.0}, ["b0-96", "b3-96"]),
        ({"max_ms": 6.0}, ["b0-150", "b0-96", "b3-150", "b3-96"]),
    ],
)
def test_what_a_file_weighs_is_asked_once_a_base_and_its_latency_at_each_size(
    budgets: dict[str, Any], asked: list[str], tmp_path: Path
) -> None:
    begun = notes(tmp_path)
    plan = replace(PLAN, bases=("b0", "b3"), sides=(150, 96), **budgets)
    search(plan, Paper(), begun, quiet)
    known = [each.name for each in plan.candidates if begun.costs(each) is not None]
    assert sorted(known) == asked
    assert all(begun.score(each, 0.25) is not None for each in plan.candidates)


def test_where_nothing_is_within_the_budgets_the_smallest_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is within .* the smallest file has 1\.00 MB"):
        search(replace(PLAN, max_size_mb=0.5), Paper(), notes(tmp_path), quiet)


def test_what_is_known_is_not_done_again(tmp_path: Path) -> None:
    first, plan = Paper(), replace(PLAN, max_size_mb=4.0)
    points = search(plan, first, notes(tmp_path), quiet)
    again = Paper()
    assert search(plan, again, notes(tmp_path), quiet) == points
    assert again.done == []
    wider = search(replace(plan, max_size_mb=5.0), again, notes(tmp_path), quiet)
    assert best(wider) == "b4 int8"
    assert "costs b0" not in again.done
    other = Paper()
    search(plan, other, notes(tmp_path, "of other data"), quiet)
    assert other.done == first.done


@pytest.mark.parametrize("content", ["", "[]", '{"key": "other"}', "\x00"])
def test_notes_of_something_else_are_begun_anew(content: str, tmp_path: Path) -> None:
    (tmp_path / NOTES_FILE).write_text(content)
    begun = notes(tmp_path)
    assert begun.is_new
    begun.note_score(Candidate("b1", 96), 0.5, 0.25)
    assert notes(tmp_path).score(Candidate("b1", 96), 0.5) == 0.25
    assert json.loads((tmp_path / NOTES_FILE).read_text())["key"] == "key"


def test_when_time_is_over_it_ends_with_what_it_has(tmp_path: Path) -> None:
    """A minute passes each time that somebody looks at the clock."""
    minutes = count()
    lab, said = Paper(), list[str]()
    plan = replace(PLAN, minutes=4)
    points = search(plan, lab, notes(tmp_path), said.append, lambda: 60.0 * next(minutes))
    trained = [each for each in lab.done if each.endswith(" 0.25")]
    assert 1 <= len(trained) < len(BASES)
    assert f"{BASES[-1]}-96: not trained on 25%: time is over" in said
    assert len([each for each in lab.done if each.startswith("judge")]) == 1
    assert points


def minutes_of_costs(lab: Paper) -> Callable[[], float]:
    """A clock on which a candidate's files take a minute to make, and all else no time."""
    return lambda: 60.0 * sum(each.startswith("costs") for each in lab.done)


def test_the_files_of_candidates_are_asked_for_within_the_minutes(tmp_path: Path) -> None:
    """Of ten minutes, three are for that."""
    plan = replace(PLAN, minutes=10, max_ms=4.0)
    first, said = Paper(), list[str]()
    points = search(plan, first, notes(tmp_path), said.append, minutes_of_costs(first))
    assert best(points) == "b2 int8"
    assert first.done[:4] == ["costs b0", "costs b1", "costs b2", "b0 0.25"]
    assert "b3-96: its files were not made: time is over" in said
    assert not any("b3 " in each for each in first.done), "it may be too large or too slow"
    again = Paper()
    points = search(plan, again, notes(tmp_path), quiet, minutes_of_costs(again))
    assert best(points) == "b3 int8"
    assert again.done[:4] == ["costs b3", "costs b4", "costs b5", "b3 0.25"]


def test_the_first_candidate_is_asked_however_few_the_minutes(tmp_path: Path) -> None:
    plan = replace(PLAN, bases=("b0",), minutes=0.0, max_ms=4.0)
    assert best(search(plan, Paper(), notes(tmp_path), quiet)) == "b0 float16"


def test_where_the_minutes_were_too_few_to_find_anything_a_rerun_goes_on(tmp_path: Path) -> None:
    plan = replace(PLAN, bases=("b7", "b6", "b0"), minutes=1, max_ms=4.0)
    for known in (
        r"8\.00 MB; there was no time for 2 more",
        r"7\.00 MB; there was no time for 1 more",
    ):
        lab = Paper()
        with pytest.raises(UserError, match=f"has {known}: search again, which goes on"):
            search(plan, lab, notes(tmp_path), quiet, minutes_of_costs(lab))
        assert len(lab.done) == 1
    lab = Paper()
    assert best(search(plan, lab, notes(tmp_path), quiet, minutes_of_costs(lab))) == "b0 float16"


def test_the_frontier_is_what_nothing_beats_in_everything() -> None:
    def point(name: str, megabytes: int, ms: float, accuracy: float, fits: bool = True) -> Point:
        return Point(Candidate(name, 96), "int8", Cost(megabytes, ms), accuracy, fits)

    small, fast, good = point("s", 1, 9, 0.7), point("f", 5, 1, 0.7), point("g", 9, 9, 0.9, False)
    worse = point("w", 6, 9, 0.65)
    assert frontier([worse, good, fast, small]) == [small, fast, good]
    assert winner([worse, good, fast, small]) == fast, "of equals, the least size times latency"
    assert winner([good]) is None
