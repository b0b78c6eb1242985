"""What a local run tells of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["running", "done", "cached", "failed"]


@dataclass(frozen=True)
class Step:
    """One step of a run."""

    name: str
    state: State
    seconds: float = 0.0
    outputs: Mapping[str, Path] = field(default_factory=dict)  # artifact folder by output name
