"""Hands a run's record to MLflow, where MLFLOW_TRACKING_URI names a place for it.

MLflow is not needed otherwise. What sends is a process of its own with a time limit
(`pipeline.history.mlflow_run`): a server that can't be reached costs a run a line and no more.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

TRACKING_URI = "MLFLOW_TRACKING_URI"
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
    if not os.environ.get(TRACKING_URI):
        return None
    if importlib.util.find_spec("mlflow") is None:
        return (
            f"warning: {TRACKING_URI} is set, but there is no MLflow: pip install mlflow-skinny; "
            "the run is not tracked"
        )
    command = [sys.executable, "-m", "pipeline.history.mlflow_run", str(record)]
    try:
        done = subprocess.run(
            [*command, *([str(models)] if models else [])],
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
    return f"tracked by MLflow as run {done.stdout.strip()}"
