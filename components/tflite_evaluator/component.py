"""The TFLiteEvaluator component: its inputs, output and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import TFLiteModels, TFLiteVerdict
from components.registry import connection_to_text
from components.tflite_evaluator import executor
from edgeline.registry.store import Connection


class TFLiteEvaluatorSpec(component_spec.ComponentSpec):
    """Interface of TFLiteEvaluator."""

    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    OUTPUTS = {
        "verdict": component_spec.ChannelParameter(type=TFLiteVerdict),
    }
    PARAMETERS = {
        "split": component_spec.ExecutionParameter(type=str),
        "slice_keys": component_spec.ExecutionParameter(type=str),
        "min_accuracy": component_spec.ExecutionParameter(type=float),
        "max_drop": component_spec.ExecutionParameter(type=float),
        "gate": component_spec.ExecutionParameter(type=str),
        "require": component_spec.ExecutionParameter(type=str),
        "publish": component_spec.ExecutionParameter(type=str),
        "registry": component_spec.ExecutionParameter(type=str),
        "connection": component_spec.ExecutionParameter(type=str),
        "model_name": component_spec.ExecutionParameter(type=str),
        "baseline_digest": component_spec.ExecutionParameter(type=str),
        "inputs_digest": component_spec.ExecutionParameter(type=str),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLiteEvaluator(base_beam_component.BaseBeamComponent):
    """Judges every variant: by thresholds, against float, and against the deployed release."""

    SPEC_CLASS = TFLiteEvaluatorSpec
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
        min_accuracy: float,
        max_drop: float,
        gate: Mapping[str, Any],
        require: Sequence[str],
        publish: str,
        registry: str,
        connection: Connection,
        model_name: str,
        baseline_digest: str,
        inputs_digest: str,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            examples: raw examples.
            transform_graph: that makes pixels of them.
            model: the float SavedModel the variants were made from.
            model_run: the Trainer's, with its training curves.
            tflite_models: the variants.
            split: of the examples, to measure on.
            slice_keys: raw features by which accuracy is also measured.
            min_accuracy: fraction, overall.
            max_drop: fraction of accuracy a variant may lose against the float model.
            gate: the other thresholds, by the names of `components.tflite_evaluator.gate.Gate`.
            require: variants without which nothing is published.
            publish: "passed" or "required", which of the variants that passed.
            registry: location of the registry that holds the deployed release.
            connection: how to reach it.
            model_name: the model's name there.
            baseline_digest: of the deployed release's index; empty if there is none. A digest and
                not the channel's name, so that a cached verdict can't hide that it moved.
            inputs_digest: of everything the run is made from; goes into the verdict.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteEvaluatorSpec(
                examples=examples,
                transform_graph=transform_graph,
                model=model,
                model_run=model_run,
                tflite_models=tflite_models,
                split=split,
                slice_keys=json.dumps(list(slice_keys)),
                min_accuracy=min_accuracy,
                max_drop=max_drop,
                gate=json.dumps(dict(gate), sort_keys=True),
                require=json.dumps(list(require)),
                publish=publish,
                registry=registry,
                connection=connection_to_text(connection),
                model_name=model_name,
                baseline_digest=baseline_digest,
                inputs_digest=inputs_digest,
                code_digest=code_digest,
                verdict=channel_utils.as_channel([TFLiteVerdict()]),
            )
        )
