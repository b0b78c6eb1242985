"""Several devices, in one process and in two, train as one device does with the same batches."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.examples import write_examples
from tests.pipeline.training.conftest import images

Outcome = dict[str, Any]
# Sums are made in another order; fine-tuning blows that up from step to step.
TOLERANCE = {"head": 1e-4, "fine_tune": 2e-3}


def start(
    folder: Path, outcome: str, strategy: str, devices: int, *more: str, tf_config: str = ""
) -> subprocess.Popen[str]:
    module = "tests.pipeline.training.train_together"
    arguments = [str(folder), outcome, strategy, str(devices), *more]
    return python("-m", module, *arguments, tf_config=tf_config)


def tf_configs(count: int) -> list[str]:
    """As a user writes them, with ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{taken.getsockname()[1]}" for taken in sockets]
    for taken in sockets:
        taken.close()
    task = [{"type": "worker", "index": index} for index in range(count)]
    return [json.dumps({"cluster": {"worker": addresses}, "task": own}) for own in task]


def start_two(folder: Path, *more: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Two processes that train together; `more` are the arguments of each."""
    return [
        start(folder, f"two-{index}.json", "multi_worker", 1, *arguments, tf_config=tf_config)
        for index, (arguments, tf_config) in enumerate(
            zip(more, tf_configs(len(more)), strict=True)
        )
    ]


SHORT = {"base_weights": "random", "epochs": 1, "strategy": "multi_worker"}


def start_run_fn(folder: Path, tf_config: str) -> subprocess.Popen[str]:
    module = "tests.pipeline.training.run_fn_once"
    return python("-m", module, str(folder), json.dumps(SHORT), tf_config=tf_config)


def start_train_worker(log: Path, tf_config: str) -> subprocess.Popen[str]:
    return python("-m", "pipeline", "train-worker", "--log", str(log), tf_config=tf_config)


def python(*arguments: str, tf_config: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **({"TF_CONFIG": tf_config} if tf_config else {})},
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-4000:]
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_examples(folder / "train.gz", images(0, 40, 35))
    write_examples(folder / "eval.gz", images(1, 10, 10))
    (folder / "graph").symlink_to(graph)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    """Of one device, of two in a process, and of two processes of which the chief is killed once.

    After the kill, both are started again.
    """
    end(start(folder, "one.json", "none", 1))
    end(start(folder, "mirrored.json", "mirrored", 2))
    killed, lost = start_two(folder, ["1"], [])
    end(killed, -signal.SIGKILL)
    output, _ = lost.communicate(timeout=600)
    assert "UnavailableError" in output or "AbortedError" in output or "CancelledError" in output
    again = [end(process) for process in start_two(folder, [], [])]
    names = ("one", "mirrored", "two-0", "two-1")
    found: dict[str, Outcome] = {n: json.loads((folder / f"{n}.json").read_text()) for n in names}
    for index, output in enumerate(again):
        found[f"two-{index}"]["output"] = output
    return found


@pytest.mark.parametrize("together", ["mirrored", "two-0", "two-1"])
@pytest.mark.parametrize("case", ["cached", "not cached"])
def test_losses_and_metrics_are_those_of_one_device(
    outcomes: dict[str, Outcome], together: str, case: str
) -> None:
    alone, shared = outcomes["one"][case]["curves"], outcomes[together][case]["curves"]
    assert shared.keys() == alone.keys()
    for name, values in alone.items():
        tolerance = TOLERANCE[name.partition("/")[0]]
        np.testing.assert_allclose(shared[name], values, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("together", ["mirrored", "two-0"])
def test_a_batch_norm_learns_from_the_whole_of_a_shared_batch(
    outcomes: dict[str, Outcome], together: str
) -> None:
    alone, shared = outcomes["one"]["small"]["loss"], outcomes[together]["small"]["loss"]
    np.testing.assert_allclose(shared, alone, 1e-4)


def test_every_process_ends_with_the_same_ordinary_model(outcomes: dict[str, Outcome]) -> None:
    for case in ("cached", "not cached"):
        chief, other = outcomes["two-0"][case], outcomes["two-1"][case]
        assert chief["weights"] == other["weights"]
        assert chief["curves"] == other["curves"]
        assert chief["plain"]
        assert other["plain"]
        assert outcomes["mirrored"][case]["plain"]


def test_all_processes_go_on_from_the_chiefs_checkpoint(outcomes: dict[str, Outcome]) -> None:
    for process in ("two-0", "two-1"):
        output = outcomes[process]["output"]
        assert "LOG head: done by an earlier run" in output
        assert "LOG fine_tune: going on after epoch 1 of an earlier run" in output


def test_devices_draw_different_random_numbers(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["mirrored"]["draws"] == outcomes["two-0"]["draws"] == 2


def test_the_chief_sends_bytes_as_they_are(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["two-1"]["sent"]
    assert outcomes["two-0"]["sent"]


def test_a_finished_training_leaves_nothing_behind(
    outcomes: dict[str, Outcome], folder: Path
) -> None:
    assert outcomes
    assert not list((folder / "checkpoints").iterdir())


def test_the_trainer_and_a_train_worker_make_one_model(folder: Path, tmp_path: Path) -> None:
    """As users start them: the worker is given nothing but TF_CONFIG, and keeps nothing."""
    for name in ("train.gz", "eval.gz", "graph"):
        (tmp_path / name).symlink_to(folder / name)
    first, second = tf_configs(2)
    worker = start_train_worker(tmp_path / "worker.log", second)
    end(start_run_fn(tmp_path, first))
    output = end(worker)
    assert "trained; the first process goes on with the model" in output
    assert (tmp_path / "model" / "saved_model.pb").is_file()
    assert len(list(tmp_path.glob("run/head/train/*"))) == 1, "only the first process keeps logs"
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_train_worker_whose_chief_ends_without_it_says_so(tmp_path: Path) -> None:
    first, second = tf_configs(2)
    worker = start_train_worker(tmp_path / "worker.log", second)
    code = "from pipeline.training.devices import connect; connect('multi_worker')"
    end(python("-c", code, tf_config=first))
    assert "another process of the training is gone" in end(worker, 1)


def test_a_train_worker_is_not_the_first_process(tmp_path: Path) -> None:
    first, _ = tf_configs(2)
    output = end(start_train_worker(tmp_path / "worker.log", first), 2)
    assert "this is the first of the processes, which runs the pipeline" in output
