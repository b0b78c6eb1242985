"""Runs the TFLite evaluator inside TFX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.examples import TransformedExamples
from components.tflite_evaluator.judge import Gate, judge
from components.tflite_evaluator.predict import predict
from components.tflite_models import TFLiteModelsFolder
from components.verdict import VERDICT_FILE


class Executor(base_executor.BaseExecutor):
    """Predicts the gate's split with every model and writes the verdict."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        model = artifact_utils.get_single_instance(input_dict["model"])
        transform_graph = artifact_utils.get_single_instance(input_dict["transform_graph"])
        tflite_models = artifact_utils.get_single_instance(input_dict["tflite_models"])
        verdict_folder = artifact_utils.get_single_instance(output_dict["verdict"]).uri
        split = exec_properties["split"]

        models = TFLiteModelsFolder.load(Path(tflite_models.uri))
        split_uris = artifact_utils.get_split_uris(input_dict["examples"], split)
        predictions = predict(
            TransformedExamples(
                [io_utils.all_files_pattern(uri) for uri in split_uris], transform_graph.uri
            ),
            Path(path_utils.serving_model_path(model.uri)),
            {m.variant: models.path(m) for m in models.models if m.error is None},
            json.loads(exec_properties["slice_keys"]),
        )
        gate = Gate(
            min_accuracy=exec_properties["min_accuracy"],
            min_auc=exec_properties.get("min_auc"),
            min_slice_accuracy=json.loads(exec_properties["min_slice_accuracy"]),
            max_drop=exec_properties["max_drop"],
        )
        verdict = judge(predictions, models.models, gate, split, models.contract.labels)
        (Path(verdict_folder) / VERDICT_FILE).write_bytes(verdict.to_json())
