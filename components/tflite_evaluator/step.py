"""Hands the artifacts' folders and the settings to `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from components.folders import Folders
from components.predictions import load_predictions
from components.settings_text import from_text
from components.tflite_evaluator.evaluate import EvaluatorInputs, evaluate
from components.tflite_evaluator.settings import Settings
from components.tflite_models import TFLiteModelsFolder
from components.verdict import RUN_PROPERTY
from edgeline._text import in_utc


def judge(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:
    """Judges; see `components.folders.Step`, and the component for inputs, outputs and settings."""
    verdict = outputs["verdict"]
    judged_by = from_text(Settings, settings["settings"])
    facts = {"run": run, "judged": in_utc(datetime.now(timezone.utc))} | dict(judged_by.facts)
    evaluate(
        EvaluatorInputs(
            predictions=load_predictions(inputs["predictions"].path),
            models=TFLiteModelsFolder.load(inputs["tflite_models"].path),
            model_run=inputs["model_run"].path,
        ),
        replace(judged_by, facts=facts),
        verdict.path,
    )
    verdict.properties[RUN_PROPERTY] = run
