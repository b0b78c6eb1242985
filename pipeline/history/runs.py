"""Finds the runs that are on record below a run root."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeline._text import one_line
from pipeline.errors import UserError
from pipeline.history.record import HISTORY, RunRecord, read

MOST_NAMED = 5  # ids in a message


@dataclass(frozen=True)
class Runs:
    """The runs below a root.

    Attributes:
        records: of runs, the oldest first.
        unreadable: what is wrong with files that are no records, a line each.
    """

    records: tuple[RunRecord, ...]
    unreadable: tuple[str, ...] = ()

    @classmethod
    def load(cls, root: Path) -> Runs:
        """Reads every record.

        Args:
            root: the run root of one pipeline, with its name.

        Raises:
            UserError: no run is on record.
        """
        records, unreadable = [], []
        for file in sorted((root / HISTORY).glob("*.json"), key=_order):
            try:
                records.append(read(file))
            except UserError as error:
                unreadable.append(str(error))
        if not records and not unreadable:
            raise UserError(
                f"{root}: no run is on record; `python -m pipeline run` leaves a record when it "
                "ends, and runs on Kubeflow are on Kubeflow's pages"
            )
        return cls(tuple(records), tuple(unreadable))

    def find(self, name: str) -> RunRecord:
        """The run with an id, or the only one whose id begins so.

        Raises:
            UserError: there is none, or are several.
        """
        by_id = {run.id: run for run in self.records}
        if name in by_id:
            return by_id[name]
        found = [each for each in by_id if name and each.startswith(name)]
        if len(found) == 1:
            return by_id[found[0]]
        if found:
            raise UserError(f"{one_line(name)}: which of {_listed(found)}?")
        close = difflib.get_close_matches(name, by_id, n=MOST_NAMED, cutoff=0.7)
        hint = (
            f"did you mean {_listed(close)}?" if close else "`python -m pipeline runs` lists them"
        )
        raise UserError(f"{one_line(name)}: no such run; {hint}")

    def last_judged(self) -> RunRecord:
        """The last run that came to a verdict.

        Raises:
            UserError: none did.
        """
        judged = [run for run in self.records if run.judgement]
        if not judged:
            raise UserError("no run on record came to a verdict; `python -m pipeline runs` has why")
        return judged[-1]

    def pair(self, names: Sequence[str]) -> tuple[RunRecord, RunRecord]:
        """Two runs to compare: those named, or one and the last, or the last two.

        Raises:
            UserError: there are not two, or more are named.
        """
        if len(names) > 2:
            raise UserError(f"expected two runs to compare, got {len(names)}")
        if len(self.records) < 2:
            raise UserError("there is one run on record, and nothing to compare it with")
        if not names:
            return self.records[-2], self.records[-1]
        return self.find(names[0]), self.find(names[1]) if names[1:] else self.records[-1]


def _order(file: Path) -> tuple[str, int]:
    """As they were started; a second run of a second has a number."""
    found = re.fullmatch(r"([0-9]{8}-[0-9]{6})(?:-([0-9]{1,4}))?", file.stem)
    return (found[1], int(found[2] or 1)) if found else (file.stem, 0)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
