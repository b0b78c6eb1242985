"""What TFX's Evaluator measures on the float model, and the thresholds it must reach."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from pipeline.config import GateConfig
from pipeline.preprocessing import LABEL_ID

# TFMA compares with "greater than"; the gate promises "at least".
_EPSILON = 1e-9


def eval_config(
    gate: GateConfig, labels: Sequence[str], slice_keys: Sequence[str]
) -> config_pb2.EvalConfig:
    """Accuracy overall and by slice, and AUC, from the `serving_default` signature.

    Args:
        gate: the thresholds.
        labels: class names in order.
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
        metrics_specs=[_accuracy(gate), _auc(gate, len(labels))],
    )


def _accuracy(gate: GateConfig) -> config_pb2.MetricsSpec:
    return config_pb2.MetricsSpec(
        metrics=[
            config_pb2.MetricConfig(
                class_name="SparseCategoricalAccuracy",
                config='{"name": "accuracy"}',
                threshold=_at_least(gate.min_accuracy),
                per_slice_thresholds=[
                    config_pb2.PerSliceMetricThreshold(
                        slicing_specs=[config_pb2.SlicingSpec(feature_keys=[key])],
                        threshold=_at_least(minimum),
                    )
                    for key, minimum in gate.min_slice_accuracy.items()
                ],
            ),
            config_pb2.MetricConfig(class_name="ExampleCount"),
        ]
    )


def _auc(gate: GateConfig, classes: int) -> config_pb2.MetricsSpec:
    """AUC of each class against the rest, averaged."""
    config = config_pb2.MetricConfig(class_name="AUC", config='{"name": "auc"}')
    if gate.min_auc is not None:
        config.threshold.CopyFrom(_at_least(gate.min_auc))
    return config_pb2.MetricsSpec(
        metrics=[config],
        aggregate=config_pb2.AggregationOptions(
            macro_average=True, class_weights=dict.fromkeys(range(classes), 1.0)
        ),
    )


def _at_least(minimum: float) -> config_pb2.MetricThreshold:
    return config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": minimum - _EPSILON})
    )
