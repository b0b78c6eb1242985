"""Runs the TFLite predictor inside TFX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.folders import split_files
from components.predictions import load_predictions
from components.settings_text import from_text
from components.tflite_models import TFLiteModelsFolder
from components.tflite_predictor.baseline import load_baseline
from components.tflite_predictor.float_examples import write_float_examples
from components.tflite_predictor.predict import PredictorInputs, predict
from components.tflite_predictor.settings import Settings
from components.trained_model import FEATURES_FILE, serving_model


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
        settings = from_text(Settings, exec_properties["settings"])
        deployed, split = settings.deployed, settings.split
        splits = artifact_utils.decode_split_names(inputs["examples"].split_names)
        examples = Path(inputs["examples"].uri)
        output = Path(artifact_utils.get_single_uri(output_dict["predictions"]))
        predict(
            PredictorInputs(
                files={name: split_files(examples, name) for name in splits},
                split=split,
                saved_model=str(serving_model(Path(inputs["model"].uri))),
                kept_features=Path(inputs["model_run"].uri) / FEATURES_FILE,
                models=models,
                baseline=load_baseline(deployed, models.contract.labels) if deployed else None,
            ),
            settings.slice_keys,
            self._make_beam_pipeline,
            output,
        )
        said = artifact_utils.get_single_instance(output_dict["float_examples"])
        said.split_names = artifact_utils.encode_split_names([split])
        write_float_examples(
            load_predictions(output), Path(artifact_utils.get_split_uri([said], split))
        )
