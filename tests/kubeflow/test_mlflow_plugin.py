"""Kubeflow's MLflow plugin, in its own driver and launcher, and an MLflow server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from components.verdict import Verdict
from pipeline.history.tracking import TRACKING_URI
from pipeline.orchestration.kubeflow.report import metrics_of
from tests.kubeflow.argo import Run
from tests.kubeflow.conftest import PROGRAMS, ROOT, Ran
from tests.kubeflow.programs import InstalledCluster
from tests.kubeflow.services import http_server
from tests.peers.mlflow_environment import make_mlflow_environment

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(PROGRAMS is None, reason="needs paths of Kubeflow's two programs"),
]

OTHER = {"min_accuracy": 0.011}  # so that not even the report is cached


@dataclass(frozen=True)
class Server:
    """MLflow's REST API."""

    url: str

    def call(self, method: str, **message: Any) -> dict[str, Any]:
        """Calls it; returns what it answers."""
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{method}",
            json.dumps(message).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answered: dict[str, Any] = json.load(answer)
        return answered


@dataclass(frozen=True)
class Tracked:
    """A run, and the MLflow runs of its steps by name."""

    run: Run
    cluster: InstalledCluster
    steps: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow in an environment of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    python = str(make_mlflow_environment(folder))
    store = f"sqlite:///{folder}/mlflow.db"
    command = [python, "-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", store]
    with http_server(command, "/health", folder / "log") as port:
        yield Server(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def tracked(ran: Ran, server: Server) -> Tracked:
    """What Kubeflow's API server does: a run in MLflow, and what tells the other two of it."""
    assert isinstance(ran.cluster, InstalledCluster)
    experiment = server.call("experiments/create", name="kubeflow")["experiment_id"]
    run = server.call("runs/create", experiment_id=experiment, start_time=1)["run"]
    config = {
        "endpoint": server.url,
        "parentRunId": run["info"]["run_id"],
        "experimentId": experiment,
        "authType": "none",
        "timeout": "30s",
        "injectUserEnvVars": True,
    }
    ran.cluster.plugins["KFP_MLFLOW_CONFIG"] = json.dumps(config)
    try:
        done = ran.cluster.run(ran.pipeline, ROOT, OTHER, until="Report")
    finally:
        ran.cluster.plugins.clear()
    done.check()
    found = server.call("runs/search", experiment_ids=[experiment], max_results=100)["runs"]
    return Tracked(done, ran.cluster, {each["info"]["run_name"]: each for each in found})


def test_each_step_is_a_run_that_ended(tracked: Tracked) -> None:
    ran = {name for name, state in tracked.run.states.items() if state != "not run"}
    assert {"Plan", "Trainer", "TFLiteEvaluator", "Report"} <= ran <= set(tracked.steps)
    assert {tracked.steps[name]["info"]["status"] for name in ran} == {"FINISHED"}


def test_the_metrics_of_the_report_are_there_by_their_names(tracked: Tracked) -> None:
    verdict = Verdict.load(tracked.cluster.artifact(tracked.run, "TFLiteEvaluator", "verdict"))
    sent = {each["key"]: each["value"] for each in tracked.steps["Report"]["data"]["metrics"]}
    assert sent
    assert sent == pytest.approx(metrics_of(verdict), abs=1e-6)  # the launcher sends six decimals


def test_the_report_s_step_is_told_of_its_run(tracked: Tracked) -> None:
    """The image of these tests has no MLflow to send the report with, and the step says so."""
    assert f"{TRACKING_URI} is set, but there is no MLflow" in tracked.run.tasks["Report"].log
