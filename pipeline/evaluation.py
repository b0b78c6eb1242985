"""What TFX's Evaluator measures on the float model, and the thresholds it must reach."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.examples import LABEL_ID
from components.metrics import TOLERANCE, macro_auc
from pipeline.config import GateConfig

# Of what a `MacroAuc` has gathered: the label ids, and the probabilities row by row.
_Gathered = tuple[bytearray, bytearray]


def eval_config(gate: GateConfig, slice_keys: Sequence[str]) -> config_pb2.EvalConfig:
    """Accuracy overall and by slice, from the `serving_default` signature; AUC if it is gated.

    Args:
        gate: the thresholds.
        slice_keys: raw features by which accuracy is also measured.
    """
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                # A Keras 3 SavedModel: used by its signatures, not through tf_keras.
                model_type=tfma.TF_GENERIC,
                signature_name="serving_default",
                preprocessing_function_names=["transform_features"],
                label_key=LABEL_ID,
            )
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=[key]) for key in slice_keys),
        ],
        metrics_specs=[_accuracy(gate), *_auc(gate)],
    )


def _accuracy(gate: GateConfig) -> config_pb2.MetricsSpec:
    return config_pb2.MetricsSpec(
        metrics=[
            config_pb2.MetricConfig(
                class_name="SparseCategoricalAccuracy",
                config='{"name": "accuracy"}',
                per_slice_thresholds=[
                    _at_least(gate.min_accuracy),
                    *(_at_least(least, [key]) for key, least in gate.min_slice_accuracy.items()),
                ],
            ),
            config_pb2.MetricConfig(class_name="ExampleCount"),
        ]
    )


def _auc(gate: GateConfig) -> Iterator[config_pb2.MetricsSpec]:
    """AUC of each class against the rest, averaged; it takes all probabilities in one place."""
    if gate.min_auc is None:
        return
    metric = config_pb2.MetricConfig(
        class_name=MacroAuc.__name__,
        module=MacroAuc.__module__,
        config=json.dumps({"name": "auc"}),
        per_slice_thresholds=[_at_least(gate.min_auc)],
    )
    yield config_pb2.MetricsSpec(metrics=[metric])


class MacroAuc(tfma.metrics.Metric):
    """`components.metrics.macro_auc`, by which variants are judged, too.

    TFMA's own AUC is an approximation in bins, far from it where probabilities crowd, and takes a
    histogram for each class and slice. This takes 4 bytes for each example and class, and as much
    again for each slice key.
    """

    def __init__(self, name: str) -> None:
        """Makes the metric; TFMA calls this with what `eval_config` wrote."""
        super().__init__(_macro_auc, name=name)


def _macro_auc(
    name: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_names: Sequence[str] = ("",),
    output_names: Sequence[str] = ("",),
) -> list[Any]:
    """A computation for each model; TFMA calls this with what it knows of them."""
    keys = [
        tfma.metrics.MetricKey(name=name, model_name=model, output_name=output)
        for model in model_names
        for output in output_names
    ]
    return [
        tfma.metrics.MetricComputation([key], None, _MacroAucCombiner(key, eval_config))
        for key in keys
    ]


class _MacroAucCombiner(beam.CombineFn):
    """Gathers what a model says of each example, and computes from all of it at the end."""

    def __init__(self, key: Any, eval_config: config_pb2.EvalConfig | None) -> None:
        self._key = key
        self._eval_config = eval_config

    def create_accumulator(self) -> _Gathered:
        return bytearray(), bytearray()

    def add_input(self, gathered: _Gathered, element: Any) -> _Gathered:
        label_ids, probabilities = gathered
        told = tfma.metrics.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            flatten=False,
        )
        for label_id, row, _ in told:
            label_ids += np.asarray(label_id, np.int64).tobytes()
            probabilities += np.asarray(row, np.float32).tobytes()
        return gathered

    def merge_accumulators(self, parts: Iterable[_Gathered]) -> _Gathered:
        merged = self.create_accumulator()
        for label_ids, probabilities in parts:
            merged[0].extend(label_ids)
            merged[1].extend(probabilities)
        return merged

    def extract_output(self, gathered: _Gathered) -> dict[Any, float]:
        label_ids = np.frombuffer(gathered[0], np.int64)
        probabilities = np.frombuffer(gathered[1], np.float32).reshape(len(label_ids), -1)
        return {self._key: macro_auc(label_ids, probabilities)}


def _at_least(minimum: float, slice_keys: Sequence[str] = ()) -> config_pb2.PerSliceMetricThreshold:
    """Overall, or on each value of a key; a plain `threshold` would be of every slice there is."""
    least = config_pb2.GenericValueThreshold(lower_bound={"value": minimum - TOLERANCE})
    return config_pb2.PerSliceMetricThreshold(
        slicing_specs=[config_pb2.SlicingSpec(feature_keys=slice_keys)],
        threshold=config_pb2.MetricThreshold(value_threshold=least),
    )
