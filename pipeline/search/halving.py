"""The search itself: successive halving (Jamieson and Talwalkar 2016) over candidates.

1. What can't be within the budgets is left out, by files of untrained networks: what the weights
   are changes neither a file's size nor its latency.
2. All others train a head on a quarter of the images, the better half on half of them, and the
   better half of these on all. What the frozen base says of an image is computed once.
3. The variants of those are made and measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.errors import UserError
from pipeline.search.notes import Costs, Judged, Notes
from pipeline.search.plan import FEWEST, MEGABYTE, SHARES, Candidate, Plan, Point, winner

# Of the minutes: after which no other candidate's files are asked for, and after which none is
# trained. The rest is for the conversions of what was trained.
COSTS_SHARE = 0.3
TRAINING_SHARE = 0.7

Say = Callable[[str], None]


class Lab(Protocol):
    """What does the work."""

    def costs(self, candidate: Candidate) -> Costs:
        """What the files of an untrained candidate cost, by variant."""

    def score(self, candidate: Candidate, share: float) -> float:
        """What a candidate reaches on the eval split, trained on a share; lower is better."""

    def judge(self, candidate: Candidate) -> Judged:
        """Costs and accuracies of a candidate that was trained on all images, by variant."""


def search(
    plan: Plan, lab: Lab, notes: Notes, say: Say, clock: Callable[[], float] = time.monotonic
) -> list[Point]:
    """Searches; returns every file that was measured.

    Args:
        plan: what is searched among.
        lab: what does the work.
        notes: of what is known already; it is added to.
        say: called with a line of text.
        clock: seconds.

    Raises:
        UserError: nothing is within the budgets, or the minutes are too few.
    """
    started = clock()

    def has_time(share: float) -> bool:
        return clock() - started < 60 * plan.minutes * share

    left = list(plan.candidates)
    if plan.has_budget:
        left = _affordable(plan, lab, notes, say, lambda: has_time(COSTS_SHARE))
    for share in SHARES:
        left = _round(left, share, lab, notes, say, lambda: has_time(TRAINING_SHARE))
    points: list[Point] = []
    for candidate in left:
        if points and not has_time(1.0):
            say(f"{candidate.name}: not converted: the {plan.minutes:g} minutes are over")
            continue
        points += _judged(candidate, plan, lab, notes, say)
    best = winner(points)
    if best is None:
        raise UserError(
            f"none of {len(points)} files is within the budgets once it is trained; expected at "
            "least one: allow more MB or ms, or search among smaller bases and inputs"
        )
    return points


def _affordable(
    plan: Plan, lab: Lab, notes: Notes, say: Say, has_time: Callable[[], bool]
) -> list[Candidate]:
    """The candidates of which a variant is within the budgets.

    Where time runs out, who was not asked goes no further; a rerun asks.
    """
    kept, least, unasked = [], math.inf, 0
    for number, candidate in enumerate(plan.candidates, 1):
        # A file's size, without a latency, hardly depends on the input's: it is asked once a base.
        asked = candidate if plan.max_ms is not None else Candidate(candidate.base, min(plan.sides))
        costs = notes.costs(asked)
        if costs is None:
            if least < math.inf and not has_time():
                say(f"{candidate.name}: its files were not made: time is over")
                unasked += 1
                continue
            costs = lab.costs(asked)
            notes.note_costs(asked, costs)
        fitting = [name for name, cost in costs.items() if plan.fits(cost)]
        least = min([least, *(cost.bytes for cost in costs.values())])
        what = f"within the budgets as {', '.join(fitting)}" if fitting else "too large or too slow"
        say(f"{number} of {len(plan.candidates)}, {candidate.name}: {what}")
        kept += [candidate] if fitting else []
    if not kept:
        raise UserError(
            f"nothing is within the budgets: the smallest file has {least / MEGABYTE:.2f} MB; "
            + (
                f"there was no time for {unasked} more: search again, which goes on with them, "
                "or allow more minutes, MB or ms"
                if unasked
                else "allow more MB or ms, or search among smaller bases and inputs"
            )
        )
    return kept


def _round(
    candidates: Sequence[Candidate],
    share: float,
    lab: Lab,
    notes: Notes,
    say: Say,
    has_time: Callable[[], bool],
) -> list[Candidate]:
    """Trains candidates on a share of the images; the better half, or all in the last round.

    Where time runs out, who was not trained goes no further.
    """
    scores: dict[Candidate, float] = {}
    for number, candidate in enumerate(candidates, 1):
        score = notes.score(candidate, share)
        if score is None:
            if scores and not has_time():
                say(f"{candidate.name}: not trained on {share:.0%}: time is over")
                continue
            score = lab.score(candidate, share)
            notes.note_score(candidate, share, score)
        scores[candidate] = score
        say(
            f"{number} of {len(candidates)} on {share:.0%} of the images, {candidate.name}: "
            f"{score:.4f}, best {min(scores.values()):.4f}"
        )
    ranked = sorted(scores, key=lambda candidate: scores[candidate])
    most = len(ranked) if share == SHARES[-1] else max(FEWEST, math.ceil(len(ranked) / 2))
    return ranked[:most]


def _judged(candidate: Candidate, plan: Plan, lab: Lab, notes: Notes, say: Say) -> list[Point]:
    judged = notes.judged(candidate)
    if judged is None:
        judged = lab.judge(candidate)
        notes.note_judged(candidate, judged)
    points = [
        Point(candidate, variant, cost, accuracy, plan.fits(cost))
        for variant, (cost, accuracy) in judged.items()
    ]
    for point in points:
        say(
            f"{candidate.name}, {point.variant}: accuracy {point.accuracy:.4f}, "
            f"{point.cost.bytes / MEGABYTE:.2f} MB, {point.cost.ms:.1f} ms"
            f"{'' if point.fits else ', over the budget'}"
        )
    return points
