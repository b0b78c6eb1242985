"""Judges every variant of a model, and writes the verdict and the report.

The order: predict once with every model, have TFMA measure, hold the figures against the gate.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from components.examples import TransformedExamples
from components.report.report import THUMBNAILS, ReportData, lost_examples, render
from components.tflite_evaluator.baseline import Baseline, load_baseline
from components.tflite_evaluator.gate import Gate
from components.tflite_evaluator.judge import check_classes, judge_float, judge_variant
from components.tflite_evaluator.measure import measure
from components.tflite_evaluator.predict import FLOAT, Predictions, predict
from components.tflite_evaluator.record import (
    images_by_slice,
    recorded,
    write_checks,
    write_confusion,
)
from components.tflite_models import TFLiteModelsFolder
from components.trained_model import HISTORY_FILE
from components.verdict import (
    CHECKS_FILE,
    CONFUSION_FILE,
    REPORT_FILE,
    VERDICT_FILE,
    Deployed,
    Policy,
    Verdict,
)
from edgeline.registry.store import Connection

THUMBNAIL_SIDE = 96  # pixels


@dataclass(frozen=True)
class Inputs:
    """What is judged, and on what."""

    examples: TransformedExamples
    saved_model: Path
    models: TFLiteModelsFolder
    model_run: Path  # with the Trainer's history.json


@dataclass(frozen=True)
class Settings:
    """How it is judged; see the component."""

    split: str
    slice_keys: tuple[str, ...]
    gate: Gate
    policy: Policy
    registry: str
    connection: Connection
    model_name: str
    baseline_digest: str
    inputs_digest: str
    beam_args: tuple[str, ...]


def evaluate(inputs: Inputs, settings: Settings, output: Path) -> Verdict:
    """Judges every variant and writes the content of a TFLiteVerdict artifact.

    Returns:
        The verdict with every check, also those that `verdict.json` leaves out.

    Raises:
        SplitError: the split has no example of some class, or one of an unknown class.
        BaselineError: the deployed release has other classes.
        edgeline.errors.RegistryError: the deployed release is missing or damaged.
    """
    contract = inputs.models.contract
    baseline = load_baseline(
        settings.registry, settings.connection, settings.baseline_digest, contract.labels
    )
    predictions = predict(
        inputs.examples,
        inputs.saved_model,
        {m.variant: inputs.models.path(m) for m in inputs.models.models if m.error is None},
        contract,
        settings.slice_keys,
        baseline,
    )
    check_classes(predictions.label_ids, settings.split, contract.labels)
    measured = measure(predictions, contract.labels, settings.beam_args)
    verdict = Verdict(
        split=settings.split,
        examples=len(predictions.label_ids),
        float_model=judge_float(measured, settings.gate),
        variants=tuple(
            judge_variant(model, predictions, measured, settings.gate, baseline)
            for model in inputs.models.models
        ),
        policy=settings.policy,
        deployed=Deployed(baseline.tag, baseline.digest) if baseline else None,
        inputs_digest=settings.inputs_digest,
    )
    images = images_by_slice(predictions.slices)
    (output / VERDICT_FILE).write_bytes(recorded(verdict, images).to_json())
    write_checks(verdict, images, output / CHECKS_FILE)
    data = _report_data(inputs, settings, predictions, verdict, baseline)
    write_confusion(data.probabilities, data.label_ids, data.labels, output / CONFUSION_FILE)
    (output / REPORT_FILE).write_text(render(data), encoding="utf-8")
    return verdict


def _report_data(
    inputs: Inputs,
    settings: Settings,
    predictions: Predictions,
    verdict: Verdict,
    baseline: Baseline | None,
) -> ReportData:
    labels = inputs.models.contract.labels
    counts = Counter(predictions.label_ids.tolist())
    deployed = f"{baseline.tag} {baseline.digest}" if baseline else "none yet: nothing to compare"
    return ReportData(
        name=settings.model_name,
        labels=labels,
        verdict=verdict,
        models=inputs.models.models,
        label_ids=predictions.label_ids,
        image_ids=predictions.image_ids,
        slices=predictions.slices,
        probabilities={FLOAT: predictions.float_model, **predictions.variants},
        thumbnails=_thumbnails(inputs.examples, predictions),
        history=_history(inputs.model_run),
        data_summary={settings.split: {label: counts[i] for i, label in enumerate(labels)}},
        lineage={
            "deployed release": deployed,
            "inputs": settings.inputs_digest,
            "tensorflow": version("tensorflow"),
            "tfx": version("tfx"),
        },
    )


def _thumbnails(examples: TransformedExamples, predictions: Predictions) -> dict[int, bytes]:
    """Small pictures of the images that a variant gets wrong and the float model gets right."""
    wanted: set[int] = set()
    for said in predictions.variants.values():
        wanted.update(
            lost_examples(predictions.label_ids, predictions.float_model, said, THUMBNAILS)
        )
    return {
        index: _thumbnail(image)
        for index, image in enumerate(examples.raw("image"))
        if index in wanted
    }


def _thumbnail(image: bytes) -> bytes:
    picture = Image.open(io.BytesIO(image))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def _history(model_run: Path) -> Mapping[str, Sequence[float]]:
    history: Mapping[str, Sequence[float]] = json.loads((model_run / HISTORY_FILE).read_text())
    return history
