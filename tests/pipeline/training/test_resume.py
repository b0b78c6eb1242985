"""A training that was killed goes on where it was and ends as one that was not."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from benchmarks.examples import write_examples
from pipeline.errors import TrainingError
from pipeline.training.checkpoint import State
from pipeline.training.state_folder import state_folder
from tests.pipeline.training.conftest import images
from tests.pipeline.training.train_once import train_once

Curves = dict[str, list[float]]

KILLED = {
    "during feature extraction": ("conv5_block2_out-train-225.json", "3", "after"),
    "in the head phase, while a checkpoint is written": ("head.npz", "3", "before"),
    "in the fine-tuning": ("fine_tune.npz", "2", "after"),
}


def train_and_die(folder: Path, *moment: str) -> None:
    command = [sys.executable, "-m", "tests.pipeline.training.train_once", str(folder), *moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr


def prepare(folder: Path, graph: Path) -> Path:
    write_examples(folder / "train.gz", images(0, 40, 35))
    write_examples(folder / "eval.gz", images(1, 10, 10))
    (folder / "graph").symlink_to(graph)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Curves:
    folder = prepare(tmp_path_factory.mktemp("uninterrupted"), graph)
    train_once(folder)
    curves: Curves = json.loads((folder / "curves.json").read_text())
    return curves


@pytest.mark.parametrize("moment", KILLED.values(), ids=KILLED)
def test_a_rerun_after_a_kill_ends_with_equal_metrics(
    moment: tuple[str, str, str], uninterrupted: Curves, graph: Path, tmp_path: Path
) -> None:
    folder = prepare(tmp_path, graph)
    train_and_die(folder, *moment)
    (state,) = (path for path in (folder / "checkpoints").iterdir() if path.is_dir())
    assert (state / moment[0]).exists()
    with redirect_stdout(io.StringIO()) as output:
        train_once(folder)
    curves = json.loads((folder / "curves.json").read_text())
    assert curves.keys() == uninterrupted.keys()
    for name, values in uninterrupted.items():
        # Threads add up in whatever order: equal but for that.
        np.testing.assert_allclose(curves[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    epochs_run = sum(line.startswith("Epoch ") for line in output.getvalue().splitlines())
    whole = len(uninterrupted["head/loss"]) + len(uninterrupted["fine_tune/loss"])
    assert epochs_run <= whole
    if moment[0].endswith(".npz"):
        assert epochs_run < whole, "nothing was resumed"
    assert not list((folder / "checkpoints").iterdir()), "what is over leaves nothing behind"


def test_a_state_comes_back_from_its_file(tmp_path: Path) -> None:
    state = State(
        epochs=3,
        curves={"loss": [3.0, 2.0, float("inf")]},
        callbacks=[{"best": None, "wait": 2}],
        weights=[np.ones((2, 3), np.float32), np.array(7, np.uint32)],
        best=[np.zeros(2, np.float32)],
    )
    state.save(tmp_path / "head.npz")
    found = State.load(tmp_path / "head.npz")
    assert (found.epochs, found.curves, found.callbacks) == (3, state.curves, state.callbacks)
    for one, other in zip(found.weights, state.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.optimizer == []
    assert len(found.best) == 1
    assert State.load(tmp_path / "none.npz") == State()


def test_another_setting_or_other_data_begin_anew(tmp_path: Path) -> None:
    file = tmp_path / "train.gz"
    file.write_bytes(b"1")
    root, found = tmp_path / "checkpoints", set()
    for epochs, content in ((1, b"1"), (1, b"2"), (2, b"2")):
        file.write_bytes(content)
        with state_folder(root, {"epochs": epochs}, [str(file)]) as folder:
            found.add(folder)
    assert len(found) == 3


def test_what_raised_keeps_its_state_and_a_rerun_finds_it(tmp_path: Path) -> None:
    def fail() -> None:
        with state_folder(tmp_path, {}, []) as folder:
            (folder / "head.npz").write_bytes(b"1")
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fail()
    with state_folder(tmp_path, {}, []) as again:
        assert (again / "head.npz").read_bytes() == b"1"
    assert not again.exists()


def test_two_runs_of_one_training_do_not_meet(tmp_path: Path) -> None:
    with (
        state_folder(tmp_path, {}, []),
        pytest.raises(TrainingError, match="another run is at this very training"),
        state_folder(tmp_path, {}, []),
    ):
        pass
