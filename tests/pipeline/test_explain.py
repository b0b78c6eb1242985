"""How a run ends when a step failed: what is said, and the exit code."""

from __future__ import annotations

import pytest

from components.edge_pusher.push import GateNotPassed
from edgeline.errors import RegistryError, UnreachableError
from pipeline.errors import UserError
from pipeline.orchestration.run import explain

ENDINGS: dict[str, tuple[Exception, int, str]] = {
    "the gate was not passed": (GateNotPassed("accuracy is 0.6"), 3, "accuracy is 0.6"),
    "a user's mistake": (UserError("no such split"), 2, "no such split"),
    "a registry that cannot be written": (RegistryError("disk full"), 1, "disk full"),
    "a server that went away": (UnreachableError("no answer"), 1, "no answer"),
    "a fault of our own": (
        ValueError("not 7"),
        1,
        "Trainer failed: ValueError: not 7\n"
        "The log has the details. A rerun picks up at this step.",
    ),
}


@pytest.mark.parametrize(("cause", "code", "said"), ENDINGS.values(), ids=ENDINGS)
def test_a_run_ends_with(cause: Exception, code: int, said: str) -> None:
    failure = RuntimeError("Trainer failed")
    failure.__cause__ = cause
    assert explain(failure) == (code, said)
