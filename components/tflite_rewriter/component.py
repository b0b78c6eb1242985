"""The TFLiteRewriter component: its inputs, output and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import TFLiteModels
from components.tflite_rewriter import executor


class TFLiteRewriterSpec(component_spec.ComponentSpec):
    """Interface of TFLiteRewriter."""

    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    PARAMETERS = {
        "variants": component_spec.ExecutionParameter(type=str),
        "timeout": component_spec.ExecutionParameter(type=int),
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
        self, *, model: BaseChannel, variants: Sequence[str], timeout: int, code_digest: str
    ) -> None:
        """Declares the step.

        Args:
            model: a SavedModel with a `pixels` signature and a preprocessing contract beside it.
            variants: names, see `components.tflite_rewriter.convert.VARIANTS`.
            timeout: seconds one conversion may take.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteRewriterSpec(
                model=model,
                variants=json.dumps(list(variants)),
                timeout=timeout,
                code_digest=code_digest,
                tflite_models=channel_utils.as_channel([TFLiteModels()]),
            )
        )
