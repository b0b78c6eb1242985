"""Runs the TFLite predictor inside TFX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.examples import example_files
from components.registry import connection_from_text
from components.tflite_models import TFLiteModelsFolder
from components.tflite_predictor.baseline import load_baseline
from components.tflite_predictor.predict import Inputs, predict


class Executor(base_beam_executor.BaseBeamExecutor):
    """Hands the artifacts' folders and the deployed release to `predict`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        inputs = {key: artifact_utils.get_single_instance(input_dict[key]) for key in input_dict}
        models = TFLiteModelsFolder.load(Path(inputs["tflite_models"].uri))
        baseline = load_baseline(
            exec_properties["registry"],
            connection_from_text(exec_properties["connection"]),
            exec_properties["baseline_digest"],
            models.contract.labels,
        )
        split_uri = artifact_utils.get_split_uri(input_dict["examples"], exec_properties["split"])
        predict(
            Inputs(
                files=example_files([io_utils.all_files_pattern(split_uri)]),
                transform_graph=inputs["transform_graph"].uri,
                saved_model=path_utils.serving_model_path(inputs["model"].uri),
                models=models,
                baseline=baseline,
            ),
            json.loads(exec_properties["slice_keys"]),
            self._make_beam_pipeline,
            Path(artifact_utils.get_single_uri(output_dict["predictions"])),
        )
