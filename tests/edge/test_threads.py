"""How many cores there are to work with."""

import os
from pathlib import Path

import pytest

from edgeline.runtime.threads import cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", CORES), ("100000 100000", 1), ("150000 100000", min(2, CORES)), ("", CORES)],
)
def test_a_containers_limit_counts(content: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert cores(tmp_path / "cpu.max") == expected
    assert cores(tmp_path / "none") == CORES


def test_cores_that_the_process_is_kept_from_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert cores(tmp_path / "none") == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores(tmp_path / "none") == 6
