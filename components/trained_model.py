"""What the Trainer leaves beside a SavedModel for the steps that come after it."""

from __future__ import annotations

from pathlib import Path

CONTRACT_FILE = "preprocessing.json"
HISTORY_FILE = "history.json"  # in the ModelRun artifact: training curves by name


def contract_path(saved_model: Path) -> Path:
    """Where a SavedModel's preprocessing contract is.

    In `assets.extra`, a folder that TensorFlow carries along and does not read.
    """
    return saved_model / "assets.extra" / CONTRACT_FILE
