"""The TFLiteEvaluator component: its inputs, output and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel_utils, component_spec, standard_artifacts

from components.artifacts import TFLiteModels, TFLiteVerdict
from components.tflite_evaluator import executor


class TFLiteEvaluatorSpec(component_spec.ComponentSpec):
    """Interface of TFLiteEvaluator."""

    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "tflite_models": component_spec.ChannelParameter(type=TFLiteModels),
    }
    OUTPUTS = {
        "verdict": component_spec.ChannelParameter(type=TFLiteVerdict),
    }
    PARAMETERS = {
        "split": component_spec.ExecutionParameter(type=str),
        "slice_keys": component_spec.ExecutionParameter(type=str),
        "min_accuracy": component_spec.ExecutionParameter(type=float),
        "min_auc": component_spec.ExecutionParameter(type=float, optional=True),
        "min_slice_accuracy": component_spec.ExecutionParameter(type=str),
        "max_drop": component_spec.ExecutionParameter(type=float),
        "code_digest": component_spec.ExecutionParameter(type=str),
    }


class TFLiteEvaluator(base_component.BaseComponent):
    """Measures every variant on one split: absolute thresholds, and the drop against float."""

    SPEC_CLASS = TFLiteEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: BaseChannel,
        transform_graph: BaseChannel,
        model: BaseChannel,
        tflite_models: BaseChannel,
        split: str,
        slice_keys: Sequence[str],
        min_accuracy: float,
        min_auc: float | None,
        min_slice_accuracy: Mapping[str, float],
        max_drop: float,
        code_digest: str,
    ) -> None:
        """Declares the step.

        Args:
            examples: raw examples.
            transform_graph: that makes pixels of them.
            model: the float SavedModel the variants were made from.
            tflite_models: the variants.
            split: of the examples, to measure on.
            slice_keys: raw features by which accuracy is also measured.
            min_accuracy: fraction, overall.
            min_auc: fraction, overall; None asks for none.
            min_slice_accuracy: fraction by slice key, for each of its values.
            max_drop: fraction of accuracy a variant may lose against the float model.
            code_digest: changes when this component's code does, so that no stale result is reused.
        """
        super().__init__(
            TFLiteEvaluatorSpec(
                examples=examples,
                transform_graph=transform_graph,
                model=model,
                tflite_models=tflite_models,
                split=split,
                slice_keys=json.dumps(list(slice_keys)),
                min_accuracy=min_accuracy,
                min_auc=min_auc,
                min_slice_accuracy=json.dumps(dict(min_slice_accuracy), sort_keys=True),
                max_drop=max_drop,
                code_digest=code_digest,
                verdict=channel_utils.as_channel([TFLiteVerdict()]),
            )
        )
