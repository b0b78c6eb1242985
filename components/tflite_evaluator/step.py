"""Hands the artifacts' folders and the settings to `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from components.folders import Folders
from components.predictions import load_predictions
from components.tflite_evaluator.evaluate import Inputs, Settings, evaluate
from components.tflite_evaluator.gate import Gate
from components.tflite_models import TFLiteModelsFolder
from components.verdict import RUN_PROPERTY, Policy
from edgeline._text import in_utc


def judge(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:
    """Judges; see `components.folders.Step`, and the component for inputs, outputs and settings."""
    gate = Gate(
        min_accuracy=settings["min_accuracy"],
        max_drop=settings["max_drop"],
        **json.loads(settings["gate"]),
    )
    made_from = json.loads(settings["made_from"])
    verdict = outputs["verdict"]
    evaluate(
        Inputs(
            predictions=load_predictions(inputs["predictions"].path),
            models=TFLiteModelsFolder.load(inputs["tflite_models"].path),
            model_run=inputs["model_run"].path,
        ),
        Settings(
            split=settings["split"],
            gate=gate,
            policy=Policy(tuple(json.loads(settings["require"])), settings["publish"]),
            model_name=settings["model_name"],
            inputs_digest=settings["inputs_digest"],
            facts={"run": run, "judged": in_utc(datetime.now(timezone.utc))} | made_from["facts"],
            made_with=made_from["settings"],
        ),
        verdict.path,
    )
    verdict.properties[RUN_PROPERTY] = run
