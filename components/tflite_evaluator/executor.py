"""Runs the TFLite evaluator inside TFX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.examples import TransformedExamples
from components.registry import connection_from_text
from components.tflite_evaluator.evaluate import Inputs, Settings, evaluate
from components.tflite_evaluator.gate import Gate
from components.tflite_models import TFLiteModelsFolder
from components.verdict import RUN_PROPERTY, Policy


class Executor(base_beam_executor.BaseBeamExecutor):
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
            slice_keys=tuple(json.loads(exec_properties["slice_keys"])),
            gate=Gate(
                min_accuracy=exec_properties["min_accuracy"],
                max_drop=exec_properties["max_drop"],
                **json.loads(exec_properties["gate"]),
            ),
            policy=Policy(
                tuple(json.loads(exec_properties["require"])), exec_properties["publish"]
            ),
            registry=exec_properties["registry"],
            connection=connection_from_text(exec_properties["connection"]),
            model_name=exec_properties["model_name"],
            baseline_digest=exec_properties["baseline_digest"],
            inputs_digest=exec_properties["inputs_digest"],
            beam_args=tuple(self._beam_pipeline_args or ()),
        )
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], settings.split)
        evaluate(
            Inputs(
                examples=TransformedExamples(
                    [io_utils.all_files_pattern(split_uri)], inputs["transform_graph"].uri
                ),
                saved_model=Path(path_utils.serving_model_path(inputs["model"].uri)),
                models=TFLiteModelsFolder.load(Path(inputs["tflite_models"].uri)),
                model_run=Path(inputs["model_run"].uri),
            ),
            settings,
            Path(verdict.uri),
        )
        # Orchestrators without runs of their own still number each step's execution.
        run = self._context.pipeline_run_id or self._context.unique_id
        verdict.set_string_custom_property(RUN_PROPERTY, str(run))
