"""Writes a run's record into MLflow. Started by `pipeline.history.tracking`.

    python -m pipeline.history.mlflow_run RECORD [MODELS]

An experiment has the model's name, and a run in it the id of the record. Settings become its
parameters, the figures of each model its metrics, outcome, release and digests its tags. The
report, and the variants that passed, are its artifacts, unless every step was reused: then an
earlier run has them. Prints the run's id in MLflow.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus

from components.tflite_models import MODEL_FILE
from components.verdict import CHECKS_FILE, CONFUSION_FILE, REPORT_FILE
from pipeline.history.record import RunRecord, read

# What MLflow's REST API takes at once, and of a parameter.
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
MOST_CHARACTERS = 6000
_ODD = re.compile(r"[^\w\-./: ]")  # in a key
_STATUS = {
    "released": RunStatus.FINISHED,
    "passed": RunStatus.FINISHED,
    "refused": RunStatus.FINISHED,  # the run did what it is for
    "failed": RunStatus.FAILED,
    "interrupted": RunStatus.KILLED,
}


def main(arguments: Sequence[str]) -> None:
    """Writes the run, and prints its id."""
    file = Path(arguments[0])
    models = Path(arguments[1]) if arguments[1:] else None
    run = read(file)
    print(write(MlflowClient(), run, root=file.parent.parent, models=models))


def write(client: Any, run: RunRecord, *, root: Path, models: Path | None) -> str:
    """Writes a run.

    Args:
        client: of MLflow.
        run: the record.
        root: of the runs.
        models: folder of the TFLiteModels artifact, if there is one.

    Returns:
        The id that MLflow gave it.
    """
    name = str(run.config["name"])
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    created = client.create_run(
        experiment_id, start_time=_milliseconds(run.started), tags=_tags(run), run_name=run.id
    )
    run_id = str(created.info.run_id)
    ended = _milliseconds(run.started + timedelta(seconds=run.seconds))
    metrics = (Metric(key, value, ended, 0) for key, value in _metrics(run))
    while batch := list(islice(metrics, METRICS_AT_ONCE)):
        client.log_batch(run_id, metrics=batch)
    params = (Param(key, value) for key, value in _params(run).items())
    while few := list(islice(params, PARAMS_AT_ONCE)):
        client.log_batch(run_id, params=few)
    if run.made:
        for path, folder in _artifacts(run, root, models):
            client.log_artifact(run_id, str(path), folder)
    client.set_terminated(run_id, RunStatus.to_string(_STATUS[run.outcome]), ended)
    return run_id


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _params(run: RunRecord) -> dict[str, str]:
    return {
        _ODD.sub("_", name): json.dumps(value, ensure_ascii=False)[:MOST_CHARACTERS]
        for name, value in run.settings.items()
    }


def _metrics(run: RunRecord) -> Iterator[tuple[str, float]]:
    for model in run.judgement.models if run.judgement else ():
        for metric, figure in model.figures.items():
            if figure.value is not None:
                key = _ODD.sub("_", f"{model.name}/{metric}")
                yield key, figure.value
                for end, value in zip(("low", "high"), figure.interval or (), strict=False):
                    yield f"{key}/{end}", value


def _tags(run: RunRecord) -> dict[str, str]:
    tags = {
        "outcome": run.outcome,
        "reason": run.reason,
        "steps made": ", ".join(run.made) or "none",
        "published": ", ".join(run.judgement.published) if run.judgement else None,
        "fastest": run.judgement.fastest if run.judgement else None,
        "release": run.release.tag if run.release else None,
        "release digest": run.release.digest if run.release else None,
        "channel": run.release.channel if run.release else None,
    }
    digests = {
        f"{name} {algorithm}": digest
        for name, by_algorithm in run.inputs.items()
        for algorithm, digest in by_algorithm.items()
    }
    given = {key: value for key, value in tags.items() if value}
    return {f"edgeline.{key}": value for key, value in {**given, **digests}.items()}


def _artifacts(run: RunRecord, root: Path, models: Path | None) -> Iterator[tuple[Path, str]]:
    """Yields files, each with the folder that it belongs in."""
    if not run.judgement:
        return
    verdict = root / run.judgement.folder
    for name in (REPORT_FILE, CHECKS_FILE, CONFUSION_FILE):
        yield verdict / name, "verdict"
    if models:
        for variant in run.judgement.published:
            yield models / variant / MODEL_FILE, f"models/{variant}"


if __name__ == "__main__":
    main(sys.argv[1:])
