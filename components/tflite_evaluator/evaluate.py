"""Judges every variant of a model by what it predicted, and writes the verdict and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from components.predictions import FLOAT, Predictions
from components.report.report import ReportData, render
from components.tflite_evaluator.judge import check_classes, judge_float, judge_variant
from components.tflite_evaluator.measure import measure
from components.tflite_evaluator.record import (
    images_by_slice,
    recorded,
    write_checks,
    write_confusion,
    write_predictions,
)
from components.tflite_evaluator.settings import Settings
from components.tflite_models import TFLiteModelsFolder
from components.trained_model import HISTORY_FILE, TRAINED_FILE
from components.verdict import (
    CHECKS_FILE,
    CONFUSION_FILE,
    PREDICTIONS_CSV,
    REPORT_FILE,
    SKETCHES_FOLDER,
    VERDICT_FILE,
    Deployed,
    Verdict,
)
from edgeline._text import in_utc
from edgeline.drift import Sketch


@dataclass(frozen=True)
class EvaluatorInputs:
    """What is judged, and on what."""

    predictions: Predictions
    models: TFLiteModelsFolder
    model_run: Path  # with the Trainer's curves, and when it ended


def evaluate(inputs: EvaluatorInputs, settings: Settings, output: Path) -> Verdict:
    """Judges every variant and writes the content of a TFLiteVerdict artifact.

    Returns:
        The verdict with every check, also those that `verdict.json` leaves out.

    Raises:
        SplitError: the split has no example of some class, or one of an unknown class.
    """
    predictions, labels = inputs.predictions, inputs.models.contract.labels
    check_classes(predictions.label_ids, settings.split, labels)
    measured = measure(predictions, labels)
    gate = settings.gate.together(len(predictions.variants))
    verdict = Verdict(
        split=settings.split,
        examples=len(predictions.label_ids),
        float_model=judge_float(measured, gate),
        variants=tuple(
            judge_variant(model, predictions, measured, gate) for model in inputs.models.models
        ),
        policy=settings.policy,
        deployed=_deployed(predictions),
        inputs_digest=settings.inputs_digest,
        confidence=gate.confidence,
    )
    images = images_by_slice(predictions.slices)
    (output / VERDICT_FILE).write_bytes(recorded(verdict, images).to_json())
    write_checks(verdict, images, output / CHECKS_FILE)
    data = _report_data(inputs, settings, verdict)
    write_predictions(predictions, labels, output / PREDICTIONS_CSV)
    write_confusion(data.probabilities, data.label_ids, data.labels, output / CONFUSION_FILE)
    (output / REPORT_FILE).write_text(render(data), encoding="utf-8")
    _write_sketches(predictions, len(labels), output / SKETCHES_FOLDER)
    return verdict


def _write_sketches(predictions: Predictions, classes: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for variant, said in predictions.variants.items():
        confidences = np.asarray(said.max(axis=1), np.float32)
        sketch = Sketch.of(
            said.argmax(axis=1), confidences, predictions.statistics, classes=classes
        )
        (folder / f"{variant}.json").write_bytes(sketch.to_json())


def _deployed(predictions: Predictions) -> Deployed | None:
    release = predictions.deployed_release
    return Deployed(release.tag, release.digest) if release else None


def _report_data(inputs: EvaluatorInputs, settings: Settings, verdict: Verdict) -> ReportData:
    predictions, labels = inputs.predictions, inputs.models.contract.labels
    release = verdict.deployed
    deployed = f"{release.tag} {release.digest}" if release else "none yet: nothing to compare"
    return ReportData(
        name=settings.model_name,
        labels=labels,
        verdict=verdict,
        models=inputs.models.models,
        label_ids=predictions.label_ids,
        image_ids=predictions.image_ids,
        sources=predictions.sources,
        slices=predictions.slices,
        probabilities={FLOAT: predictions.float_model, **predictions.variants},
        thumbnails=predictions.thumbnails,
        curves=_curves(inputs.model_run),
        data_summary={
            split: dict(zip(labels, counts, strict=True))
            for split, counts in predictions.images.items()
        },
        settings=settings.made_with,
        nearest=predictions.nearest,
        lineage={
            **settings.facts,
            "trained": in_utc(_trained(inputs.model_run)),
            "deployed release": deployed,
            "inputs": settings.inputs_digest,
            "tensorflow": version("tensorflow"),
            "tfx": version("tfx"),
        },
    )


def _trained(model_run: Path) -> datetime:
    return datetime.fromisoformat((model_run / TRAINED_FILE).read_text())


def _curves(model_run: Path) -> Mapping[str, Sequence[float]]:
    curves: Mapping[str, Sequence[float]] = json.loads((model_run / HISTORY_FILE).read_text())
    return curves
