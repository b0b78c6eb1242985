"""Trains once, or begins to in a process of its own that kills itself on the way.

    python -m tests.pipeline.training.train_once FOLDER FILE TIMES when

FOLDER holds `train.gz`, `eval.gz` and the transform graph; the curves go to `curves.json` there.
The process sends itself SIGKILL when it has written a state file named FILE for the TIMES-th time
(`when` is "after"), or just before that file takes the place of the one before ("before").
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from edgeline._files import write_whole
from pipeline.config import TrainerConfig
from pipeline.training import checkpoint, features
from pipeline.training.inputs import Job
from pipeline.training.phases import train
from pipeline.training.state_folder import state_folder
from tests.pipeline.training.conftest import BASE, LABELS, read, untrained

SETTINGS = TrainerConfig(
    base=BASE,
    base_weights="random",
    epochs=6,
    fine_tune_epochs=5,
    fine_tune_learning_rate=1e-3,
    schedule="plateau",
    warmup_epochs=1,
    patience=4,
    batch_size=16,
    augment_views=3,
)


def die_at(name: str, times: int, when: str) -> None:
    """Makes the process kill itself when a state file is written."""
    seen = 0

    def replace_and_die(path: Path, content: bytes) -> None:
        nonlocal seen
        seen += path.name == name
        if (seen, when) == (times, "before") and path.name == name:
            path.with_name(f"{path.name}.part").write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, content)
        if (seen, when) == (times, "after") and path.name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (checkpoint, features):
        module.write_whole = replace_and_die  # type: ignore[attr-defined]


def train_once(folder: Path) -> None:
    """Trains with every epoch and every batch of features noted, caches on disk."""
    files = [str(folder / "train.gz"), str(folder / "eval.gz")]
    train_split, evaluation = (read([file], folder / "graph") for file in files)
    with (
        pytest.MonkeyPatch.context() as patch,
        state_folder(folder / "checkpoints", SETTINGS.model_dump(), files) as state_dir,
    ):
        patch.setattr(features, "MEMORY_LIMIT", 0)
        patch.setattr(features, "SAVE_SECONDS", 0.0)
        patch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        job = Job(SETTINGS, LABELS, train_split, evaluation, folder / "log", state_dir)
        _, curves = train(untrained(SETTINGS.seed), job)
    (folder / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    die_at(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    train_once(Path(sys.argv[1]))
