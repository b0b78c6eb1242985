"""The record that a run leaves: what is written is read again, and nothing else is."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.history import record
from pipeline.history.record import DoneStep, RunRecord

RUN = RunRecord(
    id="20260102-030405",
    started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    seconds=1.5,
    outcome="failed",
    reason="no space",
    config={"name": "cells", "trainer": {"epochs": 3}, "gate": {"min_recall": {}}},
    inputs={"dataset": {"sha256": "ab"}},
    libraries={"python": "3.10"},
    images={"train": {"ok": 3}},
    steps=(DoneStep(name="Trainer", state="failed", seconds=1.0),),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = record.write(RUN, tmp_path)
    assert record.read(file) == RUN
    assert RUN.settings == {"name": "cells", "trainer.epochs": 3}
    assert RUN.made == ("Trainer",)


def test_a_second_run_of_a_second_has_an_id_of_its_own(tmp_path: Path) -> None:
    record.write(RUN, tmp_path)
    assert record.new_id(tmp_path, RUN.started) == "20260102-030405-2"


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"version": 2}', b" " * (record.MOST_BYTES + 1)],
    ids=["empty", "deep", "of a later version", "large"],
)
def test_another_file_is_no_record(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "20260102-030405.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match="no record of a run"):
        record.read(file)
