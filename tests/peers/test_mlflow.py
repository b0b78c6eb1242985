"""MLflow takes a run's record, by its own client and store."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.verdict import CHECKS_FILE, CONFUSION_FILE, REPORT_FILE
from pipeline.history import record
from tests.peers.mlflow_environment import make_mlflow_environment
from tests.pipeline.test_history import ALIKE, BETTER, FIRST

pytestmark = pytest.mark.peers

CHECKOUT = Path(__file__).parents[2]

# Sends a run as the pipeline does, and prints what it says of it.
TRACK = """\
import sys
from pathlib import Path
from pipeline.history.tracking import track

print(track(Path(sys.argv[1]), Path(sys.argv[2])))
"""

# Prints the runs that MLflow has.
LIST = """\
import json
from mlflow import MlflowClient

client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("cells").experiment_id])
print(json.dumps([
    {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "tags": run.data.tags,
        "files": [
            file.path
            for folder in client.list_artifacts(run.info.run_id)
            for below in client.list_artifacts(run.info.run_id, folder.path)
            for file in (client.list_artifacts(run.info.run_id, below.path) or [below])
        ],
    }
    for run in runs
]))
"""

# Makes a run as Kubeflow's plugin does, sends a report to it, and prints what the run then has.
REPORT = """\
import os, sys
from pathlib import Path
from mlflow import MlflowClient
from pipeline.history.tracking import track_report

client = MlflowClient()
run = client.create_run(client.create_experiment("kubeflow")).info.run_id
os.environ["MLFLOW_RUN_ID"] = run
assert track_report(Path(sys.argv[1])) == f"tracked by MLflow as run {run}"
print(*(file.path for file in client.list_artifacts(run, "verdict")))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mlflow_environment(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run root with the artifacts of a run."""
    root = tmp_path / "runs" / "cells"
    verdict = root / "TFLiteEvaluator/verdict/1"
    model = root / "models/float32/model.tflite"
    for file in (*(verdict / name for name in (REPORT_FILE, CHECKS_FILE, CONFUSION_FILE)), model):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    return root


def run(python: Path, store: str, folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "edge/src")))
    environment = {**os.environ, "PYTHONPATH": paths, "MLFLOW_TRACKING_URI": store}
    command = [str(python), "-c", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runs_are_tracked(python: Path, root: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    failed = ALIKE.model_copy(update={"outcome": "failed", "judgement": None})
    cached = BETTER.model_copy(update={"steps": ()})
    for each in (FIRST, cached, failed):
        file = record.write(each, root)
        said = run(python, store, tmp_path, TRACK, str(file), str(root / "models"))
        assert said.startswith("tracked by MLflow as run "), said
    runs: dict[str, dict[str, Any]] = {
        each["name"]: each for each in json.loads(run(python, store, tmp_path, LIST))
    }
    first = runs[FIRST.id]
    assert first["status"] == "FINISHED"
    assert first["params"] == {"name": '"cells"', "trainer.epochs": "3"}
    assert first["metrics"]["float32/accuracy"] == 0.70
    assert first["metrics"]["float32/accuracy/low"] == 0.60
    assert first["tags"]["edgeline.dataset sha256"] == "ab"
    verdict = {f"verdict/{name}" for name in (REPORT_FILE, CHECKS_FILE, CONFUSION_FILE)}
    assert set(first["files"]) == {*verdict, "models/float32/model.tflite"}
    assert runs[BETTER.id]["files"] == []  # every step was reused: an earlier run has them
    assert runs[ALIKE.id]["status"] == "FAILED"


def test_a_server_that_is_not_there_costs_a_line(python: Path, root: Path, tmp_path: Path) -> None:
    file = record.write(FIRST, root)
    said = run(python, "http://127.0.0.1:9", tmp_path, TRACK, str(file), str(root / "models"))
    assert said.startswith("warning: the run is not tracked by MLflow: ")
    assert len(said.splitlines()) == 1


def test_a_report_goes_to_the_run_that_the_environment_names(
    python: Path, root: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    report = root / "TFLiteEvaluator/verdict/1" / REPORT_FILE
    assert run(python, store, tmp_path, REPORT, str(report)) == f"verdict/{REPORT_FILE}\n"
