"""The TFLiteEvaluator component: its inputs, output and settings."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import Predictions, TFLiteModels, TFLiteVerdict
from components.settings_text import to_text
from components.tflite_evaluator import executor
from components.tflite_evaluator.settings import Settings


class TFLiteEvaluatorSpec(component_spec.ComponentSpec):
    """Interface of TFLiteEvaluator."""

    INPUTS = {
        "predictions": component_spec.ChannelParameter(type=Predictions),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    OUTPUTS = {
        "verdict": component_spec.ChannelParameter(type=TFLiteVerdict),
    }
    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLiteEvaluator(base_component.BaseComponent):
    """Judges every variant: by thresholds, against float, and against the deployed release."""

    SPEC_CLASS = TFLiteEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        predictions: BaseChannel,
        model_run: BaseChannel,
        tflite_models: BaseChannel,
        settings: Settings,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            predictions: of the float model, the variants and the deployed release.
            model_run: the Trainer's, with its training curves.
            tflite_models: the variants.
            settings: how it is judged, and what goes on record.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteEvaluatorSpec(
                predictions=predictions,
                model_run=model_run,
                tflite_models=tflite_models,
                settings=to_text(settings),
                code_digest=code_digest,
                verdict=channel_utils.as_channel([TFLiteVerdict()]),
            )
        )
