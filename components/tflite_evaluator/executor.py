"""Runs the TFLite evaluator inside TFX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.predictions import load_predictions
from components.tflite_evaluator.evaluate import Inputs, Settings, evaluate
from components.tflite_evaluator.gate import Gate
from components.tflite_models import TFLiteModelsFolder
from components.verdict import RUN_PROPERTY, Policy


class Executor(base_executor.BaseExecutor):
    """Hands the artifacts' folders and the settings to `evaluate`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        inputs = {key: artifact_utils.get_single_instance(input_dict[key]) for key in input_dict}
        verdict = artifact_utils.get_single_instance(output_dict["verdict"])
        settings = Settings(
            split=exec_properties["split"],
            gate=Gate(
                min_accuracy=exec_properties["min_accuracy"],
                max_drop=exec_properties["max_drop"],
                **json.loads(exec_properties["gate"]),
            ),
            policy=Policy(
                tuple(json.loads(exec_properties["require"])), exec_properties["publish"]
            ),
            model_name=exec_properties["model_name"],
            inputs_digest=exec_properties["inputs_digest"],
        )
        evaluate(
            Inputs(
                predictions=load_predictions(Path(inputs["predictions"].uri)),
                models=TFLiteModelsFolder.load(Path(inputs["tflite_models"].uri)),
                model_run=Path(inputs["model_run"].uri),
            ),
            settings,
            Path(verdict.uri),
        )
        # Where TFX is not told of runs, the id of this execution is known by its scratch folder.
        run = self._context.pipeline_run_id or Path(self._context.get_tmp_path()).name
        verdict.set_string_custom_property(RUN_PROPERTY, str(run))
