"""The TFLiteEvaluator component: its inputs, output and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import Predictions, TFLiteModels, TFLiteVerdict
from components.tflite_evaluator import executor


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
        "split": component_spec.ExecutionParameter(type=str),
        "min_accuracy": component_spec.ExecutionParameter(type=float),
        "max_drop": component_spec.ExecutionParameter(type=float),
        "gate": component_spec.ExecutionParameter(type=str),
        "require": component_spec.ExecutionParameter(type=str),
        "publish": component_spec.ExecutionParameter(type=str),
        "model_name": component_spec.ExecutionParameter(type=str),
        "inputs_digest": component_spec.ExecutionParameter(type=str),
        "made_from": component_spec.ExecutionParameter(type=str),
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
        split: str,
        min_accuracy: float,
        max_drop: float,
        gate: Mapping[str, Any],
        require: Sequence[str],
        publish: str,
        model_name: str,
        inputs_digest: str,
        made_from: Mapping[str, Mapping[str, str]],
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            predictions: of the float model, the variants and the deployed release.
            model_run: the Trainer's, with its training curves.
            tflite_models: the variants.
            split: of the examples, that was predicted.
            min_accuracy: fraction, overall.
            max_drop: fraction of accuracy a variant may lose against the float model.
            gate: the other thresholds, by the names of `components.tflite_evaluator.gate.Gate`.
            require: variants without which nothing is published.
            publish: "passed" or "required", which of the variants that passed.
            model_name: the model's name.
            inputs_digest: of everything the model is made from; goes into the verdict.
            made_from: `facts` and `settings`, by name; go into the report.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteEvaluatorSpec(
                predictions=predictions,
                model_run=model_run,
                tflite_models=tflite_models,
                split=split,
                min_accuracy=min_accuracy,
                max_drop=max_drop,
                gate=json.dumps(dict(gate), sort_keys=True),
                require=json.dumps(list(require)),
                publish=publish,
                model_name=model_name,
                inputs_digest=inputs_digest,
                made_from=json.dumps(made_from, sort_keys=True),
                code_digest=code_digest,
                verdict=channel_utils.as_channel([TFLiteVerdict()]),
            )
        )
