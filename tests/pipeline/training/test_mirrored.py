"""Several devices train as one device does with the same batches."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.examples import write_examples
from tests.pipeline.training.conftest import images

Outcome = dict[str, Any]
# Sums are made in another order; fine-tuning blows that up from step to step.
TOLERANCE = {"head": 1e-4, "fine_tune": 2e-3}


def train(folder: Path, strategy: str, devices: int, *more: str, code: int = 0) -> Outcome:
    """Trains in a process of its own; returns what came of it, with its output."""
    module = "tests.pipeline.training.train_mirrored"
    outcome = folder / f"{strategy}.json"
    ended = subprocess.run(
        [sys.executable, "-m", module, str(folder), outcome.name, strategy, str(devices), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == code, ended.stdout[-4000:]
    found = json.loads(outcome.read_text()) if outcome.exists() else {}
    return {**found, "output": ended.stdout}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Path:
    folder = tmp_path_factory.mktemp("mirrored")
    write_examples(folder / "train.gz", images(0, 40, 35))
    write_examples(folder / "eval.gz", images(1, 10, 10))
    (folder / "graph").symlink_to(graph)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    """Of one device, and of two in a process that is killed once and started again."""
    alone = train(folder, "none", 1)
    train(folder, "mirrored", 2, "1", code=-signal.SIGKILL)
    return {"none": alone, "mirrored": train(folder, "mirrored", 2)}


@pytest.mark.parametrize("case", ["cached", "not cached"])
def test_losses_and_metrics_are_those_of_one_device(
    outcomes: dict[str, Outcome], case: str
) -> None:
    alone, shared = outcomes["none"][case]["curves"], outcomes["mirrored"][case]["curves"]
    assert shared.keys() == alone.keys()
    for name, values in alone.items():
        tolerance = TOLERANCE[name.partition("/")[0]]
        np.testing.assert_allclose(shared[name], values, tolerance, tolerance, err_msg=name)


def test_a_batch_norm_learns_from_the_whole_of_a_shared_batch(
    outcomes: dict[str, Outcome],
) -> None:
    alone, shared = outcomes["none"]["small"]["loss"], outcomes["mirrored"]["small"]["loss"]
    np.testing.assert_allclose(shared, alone, 1e-4)


def test_training_ends_with_an_ordinary_model(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["mirrored"]["cached"]["plain"]
    assert outcomes["mirrored"]["not cached"]["plain"]


def test_a_killed_training_goes_on_from_its_checkpoint(outcomes: dict[str, Outcome]) -> None:
    output = outcomes["mirrored"]["output"]
    assert "LOG head: done by an earlier run" in output
    assert "LOG fine_tune: going on after epoch 1 of an earlier run" in output


def test_devices_draw_different_random_numbers(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["mirrored"]["draws"] == 2


def test_a_finished_training_leaves_nothing_behind(
    outcomes: dict[str, Outcome], folder: Path
) -> None:
    assert outcomes
    assert not list((folder / "checkpoints").iterdir())
