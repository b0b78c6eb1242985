"""The TFLitePredictor component: its inputs, output and settings."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import Predictions, TFLiteModels
from components.settings_text import to_text
from components.tflite_predictor import executor
from components.tflite_predictor.settings import Settings


class TFLitePredictorSpec(component_spec.ComponentSpec):
    """Interface of TFLitePredictor."""

    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    OUTPUTS = {
        "predictions": component_spec.ChannelParameter(type=Predictions),
        "float_examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLitePredictor(base_beam_component.BaseBeamComponent):
    """Predicts a split with the float model, every variant and the deployed release.

    What the float model says is an output of its own, of a type that TFX's Evaluator takes.
    """

    SPEC_CLASS = TFLitePredictorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: BaseChannel,
        model: BaseChannel,
        model_run: BaseChannel,
        tflite_models: BaseChannel,
        settings: Settings,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            examples: raw examples.
            model: the float SavedModel the variants were made from; it makes pixels, too.
            model_run: the Trainer's, with the features of training images.
            tflite_models: the variants.
            settings: what is predicted, and which release is deployed.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLitePredictorSpec(
                examples=examples,
                model=model,
                model_run=model_run,
                tflite_models=tflite_models,
                settings=to_text(settings),
                code_digest=code_digest,
                predictions=channel_utils.as_channel([Predictions()]),
                float_examples=channel_utils.as_channel([standard_artifacts.Examples()]),
            )
        )
