"""The TFLiteRewriter component: its inputs, output and settings."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import TFLiteModels
from components.settings_text import to_text
from components.tflite_rewriter import executor
from components.tflite_rewriter.settings import Settings


class TFLiteRewriterSpec(component_spec.ComponentSpec):
    """Interface of TFLiteRewriter."""

    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLiteRewriter(base_component.BaseComponent):
    """Converts the model's `pixels` signature to every variant asked for.

    A conversion that fails is recorded in the output, and the other variants go on; the component
    itself fails only if none could be made.
    """

    SPEC_CLASS = TFLiteRewriterSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: BaseChannel,
        examples: BaseChannel,
        settings: Settings,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            model: a SavedModel with signatures `pixels` and `transform_features`, which makes
                pixels of examples, and a preprocessing contract beside it.
            examples: raw examples with splits `train`, for calibration, and `eval`, by which
                `mixed` is searched.
            settings: which variants are made, and how.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteRewriterSpec(
                model=model,
                examples=examples,
                settings=to_text(settings),
                code_digest=code_digest,
                tflite_models=channel_utils.as_channel([TFLiteModels()]),
            )
        )
