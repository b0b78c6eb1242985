"""Hands a run's record to MLflow, where MLFLOW_TRACKING_URI names a place for it.

MLflow is not needed otherwise. What sends is a process of its own with a time limit
(`pipeline.history.mlflow_run`): a server that can't be reached costs a run a line and no more.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TRACKING_URI = "MLFLOW_TRACKING_URI"
RUN_ID = "MLFLOW_RUN_ID"
# MLflow's own defaults wait for an unreachable server for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
SECONDS = 300.0  # in which the models are sent, too


def track(record: Path, models: Path | None) -> str | None:
    """Sends a run to MLflow, if one is asked for by the environment.

    Args:
        record: the run's record, in its place below the run root.
        models: folder of the TFLiteModels artifact, None where there is none.

    Returns:
        What became of it, a line for a person; None where MLflow is not asked for.
    """
    command = [sys.executable, "-m", "pipeline.history.mlflow_run", str(record)]
    return _told([*command, *([str(models)] if models else [])])


def track_report(page: Path) -> str | None:
    """Sends a report to the MLflow run that the environment names.

    Kubeflow's MLflow plugin names one for each step (its `injectUserEnvVars`), and has sent the
    step's metrics there by itself.

    Args:
        page: the report.

    Returns:
        As `track`.
    """
    run = os.environ.get(RUN_ID)
    if not run:
        return None
    command = [sys.executable, "-m", "mlflow", "artifacts", "log-artifact", "--run-id", run]
    return _told([*command, "--local-file", str(page), "--artifact-path", "verdict"], run)


def _told(command: Sequence[str], run: str | None = None) -> str | None:
    """Runs what sends a run; `run` is its id in MLflow, which the command prints by default."""
    if not os.environ.get(TRACKING_URI):
        return None
    if importlib.util.find_spec("mlflow") is None:
        return (
            f"warning: {TRACKING_URI} is set, but there is no MLflow: pip install mlflow-skinny; "
            "the run is not tracked"
        )
    try:
        done = subprocess.run(
            command,
            env={**PATIENCE, **os.environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"warning: the run is not tracked: MLflow took more than {SECONDS:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        return f"warning: the run is not tracked by MLflow: {last[:500]}"
    return f"tracked by MLflow as run {run or done.stdout.strip()}"
