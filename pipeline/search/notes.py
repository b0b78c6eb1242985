"""What a search knows so far, in a file: one that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeline._files import write_whole
from pipeline.search.plan import Candidate, Cost

NOTES_FILE = "notes.json"

Costs = Mapping[str, Cost]  # by variant
Judged = Mapping[str, tuple[Cost, float]]  # cost and accuracy, by variant


class Notes:
    """The outcomes of a search, written down as they come."""

    def __init__(self, folder: Path, key: str) -> None:
        """Opens the notes in a folder; those of other data, settings or code count for nothing.

        Args:
            folder: of the search.
            key: tells what outcomes depend on.
        """
        self._file = folder / NOTES_FILE
        self._content: dict[str, Any] = {"key": key}
        try:
            found = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            found = {}
        if isinstance(found, dict) and found.get("key") == key:
            self._content = found

    @property
    def is_new(self) -> bool:
        """Whether nothing is known."""
        return len(self._content) == 1

    def costs(self, candidate: Candidate) -> Costs | None:
        """What the files of a candidate cost, if that is known."""
        found = self._content.get(f"costs {candidate.name}")
        return None if found is None else {name: Cost(**cost) for name, cost in found.items()}

    def score(self, candidate: Candidate, share: float) -> float | None:
        """What a candidate reached on a share of the images, if that is known."""
        found: float | None = self._content.get(f"score {candidate.name} {share}")
        return found

    def judged(self, candidate: Candidate) -> Judged | None:
        """The files of a trained candidate, if they were measured."""
        found = self._content.get(f"judged {candidate.name}")
        if found is None:
            return None
        return {name: (Cost(**each["cost"]), each["accuracy"]) for name, each in found.items()}

    def note_costs(self, candidate: Candidate, costs: Costs) -> None:
        """Writes them down."""
        self._note(f"costs {candidate.name}", {name: asdict(cost) for name, cost in costs.items()})

    def note_score(self, candidate: Candidate, share: float, score: float) -> None:
        """Writes it down."""
        self._note(f"score {candidate.name} {share}", score)

    def note_judged(self, candidate: Candidate, judged: Judged) -> None:
        """Writes them down."""
        rows = {
            name: {"cost": asdict(cost), "accuracy": accuracy}
            for name, (cost, accuracy) in judged.items()
        }
        self._note(f"judged {candidate.name}", rows)

    def _note(self, name: str, value: Any) -> None:
        self._content[name] = value
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(self._content, indent=2).encode())
