"""A fleet through the device package itself, which ends as the arithmetic of the benchmark says.

Made up are the time, the outcome of a trial, and what predictions say: see the benchmark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet import Kind, draw, roll_out
from benchmarks.whole_fleet import prepare, roll_out_whole
from edgeline.device import update
from edgeline.device.child import ChildError

DEVICES, SEED = 12, 3
STEPS = (5000, 10_000)


def try_model(*_: Any, seconds: float, **__: Any) -> None:
    """Fail where there is no time for a trial."""
    if seconds < 1:
        raise ChildError("it hangs here")


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        pytest.param(Kind("good", rejects=0.0), "complete", id="good"),
        pytest.param(Kind("bad", rejects=0.9), "halted", id="it is rejected"),
        pytest.param(Kind("bad", rejects=0.0, crashes=1.0), "halted", id="it crashes"),
        pytest.param(Kind("bad", rejects=0.0, seconds=0.08), "halted", id="it is slow"),
        pytest.param(Kind("bad", rejects=0.0, agreement=0.5), "halted", id="it disagrees"),
    ],
)
def test_a_rollout_ends_as_simulated(
    kind: Kind, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "try_model", try_model)
    fates = draw(kind, SEED, DEVICES)
    ready = prepare(tmp_path, (b"first", b"second"), [fate.id for fate in fates])
    outcome = roll_out_whole(ready, kind, fates, STEPS)
    assert outcome.end == roll_out(kind, SEED, DEVICES, STEPS, ready.releases)
    assert outcome.end.state == state
    assert outcome.end.got < DEVICES
    assert outcome.serving == (outcome.able if state == "complete" else 0)
