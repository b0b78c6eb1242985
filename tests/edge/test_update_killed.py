"""Power fails at any moment of an update: afterwards there is a whole, verified model, always.

A process that updates is forked and killed (SIGKILL) at a moment that is counted in executed lines
of edgeline's code, so that every write, sync, rename and removal has its turn.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

import edgeline
from edgeline.runtime.classifier import Classifier
from tests.edge.devices import MODEL, device, golden_pair, release, serving

if TYPE_CHECKING:
    from tests.edge.conftest import Store

KILLS = 200
_CODE = str(Path(edgeline.__file__).parent)


def _in_child(work: Callable[[], object], kill_at: int | None) -> int:
    """Do the work in a forked child; return how many lines it executed, or -1 if it was killed.

    Args:
        work: What to do.
        kill_at: The line to be killed at.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.startswith(_CODE):
                return None
            if event == "line":
                lines += 1
                if lines == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            work()
            sys.settrace(None)
            os.write(writer, str(lines).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if kill_at is not None and os.WIFSIGNALED(status):
        return -1
    assert os.WIFEXITED(status)
    return int(said)


@pytest.fixture
def ready(store: Store, models: Path, tmp_path: Path) -> Path:
    """The state folder of a device that has two releases, and a third one to pull."""
    state = tmp_path / "ready"
    golden = golden_pair(models, store)
    for number in (1, 2):
        release(store, models, number, golden=golden)
        device(store, state).update(["float32"])
    release(store, models, 3, golden=golden)
    return state


def _moments(lines: int, kills: int) -> list[int]:
    """Choose moments evenly, with some randomness in between; the end, where files move, twice."""
    generator = random.Random(0)
    evenly = [1 + round(n * (lines - 1) / (kills // 2)) for n in range(kills // 2)]
    late = [generator.randint(lines // 2, lines) for _ in range(kills - len(evenly))]
    return sorted(evenly + late)


def test_killed_while_it_pulls_a_device_starts_with_a_whole_model(
    ready: Path, store: Store, tmp_path: Path
) -> None:
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(ready, rehearsal)
    lines = _in_child(lambda: device(store, rehearsal).update(), None)
    assert serving(device(store, rehearsal)) == 3
    found: list[int] = []
    for number, moment in enumerate(_moments(lines, KILLS)):
        state = tmp_path / "killed"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(ready, state)
        assert _in_child(lambda: device(store, state).update(), moment) == -1, moment  # noqa: B023
        pets = device(store, state)
        found.append(serving(pets))
        if number % 20 == 0:
            with Classifier.from_installed(pets.folder.load_active()) as classifier:
                assert classifier.predict(_image()).label in store.contract.labels
            assert pets.update().installed.version == 3
            assert len([*(state / f"{MODEL}.production" / "models").iterdir()]) == 2
            assert [*pets.folder.downloads.iterdir()] == []
    assert found == sorted(found), "the switch happens at one moment"
    assert {*found} == {2, 3}


def test_killed_again_and_again_a_device_gets_there(
    ready: Path, store: Store, tmp_path: Path
) -> None:
    for moment in range(1000, 20000, 1500):
        killed = _in_child(lambda: device(store, ready).update(), moment)
        assert serving(device(store, ready)) in (2, 3)
        if killed != -1:
            break
    device(store, ready).update()
    assert serving(device(store, ready)) == 3


def test_killed_while_it_rolls_back(ready: Path, store: Store, tmp_path: Path) -> None:
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(ready, rehearsal)
    lines = _in_child(lambda: device(store, rehearsal).rollback(), None)
    found = []
    for moment in range(1, lines, 5):
        state = tmp_path / "killed"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(ready, state)
        assert _in_child(lambda: device(store, state).rollback(), moment) == -1  # noqa: B023
        found.append(serving(device(store, state)))
    assert found == sorted(found, reverse=True)
    assert {*found} == {1, 2}


def _image() -> Any:
    import numpy as np

    return np.zeros((20, 30, 3), np.uint8)
