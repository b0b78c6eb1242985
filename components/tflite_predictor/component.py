"""The TFLitePredictor component: its inputs, output and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import Predictions, TFLiteModels
from components.settings_text import to_text
from components.tflite_predictor import executor
from edgeline.registry.store import Connection


class TFLitePredictorSpec(component_spec.ComponentSpec):
    """Interface of TFLitePredictor."""

    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    OUTPUTS = {
        "predictions": component_spec.ChannelParameter(type=Predictions),
        "float_examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    PARAMETERS = {
        "split": component_spec.ExecutionParameter(type=str),
        "slice_keys": component_spec.ExecutionParameter(type=str),
        "registry": component_spec.ExecutionParameter(type=str),
        "connection": component_spec.ExecutionParameter(type=str),
        "baseline_digest": component_spec.ExecutionParameter(type=str),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLitePredictor(base_beam_component.BaseBeamComponent):
    """Predicts a split with the float model, every variant and the deployed release.

    No threshold is among its settings: a run with other ones judges the same predictions anew. What
    the float model says is an output of its own, of a type that TFX's Evaluator takes.
    """

    SPEC_CLASS = TFLitePredictorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: BaseChannel,
        transform_graph: BaseChannel,
        model: BaseChannel,
        model_run: BaseChannel,
        tflite_models: BaseChannel,
        split: str,
        slice_keys: Sequence[str],
        registry: str,
        connection: Connection,
        baseline_digest: str,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            examples: raw examples.
            transform_graph: that makes pixels of them.
            model: the float SavedModel the variants were made from.
            model_run: the Trainer's, with the features of training images.
            tflite_models: the variants.
            split: of the examples, to predict.
            slice_keys: raw features to pass on.
            registry: location of the registry that holds the deployed release.
            connection: how to reach it.
            baseline_digest: of the deployed release's index; empty if there is none. A digest and
                not the channel's name, so that cached predictions can't hide that it moved.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLitePredictorSpec(
                examples=examples,
                transform_graph=transform_graph,
                model=model,
                model_run=model_run,
                tflite_models=tflite_models,
                split=split,
                slice_keys=json.dumps(list(slice_keys)),
                registry=registry,
                connection=to_text(connection),
                baseline_digest=baseline_digest,
                code_digest=code_digest,
                predictions=channel_utils.as_channel([Predictions()]),
                float_examples=channel_utils.as_channel([standard_artifacts.Examples()]),
            )
        )
