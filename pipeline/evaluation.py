"""What TFX's Evaluator measures on the float model, and the thresholds it must reach."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.examples import LABEL_ID
from pipeline.config import GateConfig

# TFMA compares with "greater than"; the gate promises "at least".
_EPSILON = 1e-9


def eval_config(gate: GateConfig, classes: int, slice_keys: Sequence[str]) -> config_pb2.EvalConfig:
    """Accuracy overall and by slice, from the `serving_default` signature; AUC if it is gated.

    Args:
        gate: the thresholds.
        classes: how many.
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
        metrics_specs=[_accuracy(gate), *_auc(gate, classes)],
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


def _auc(gate: GateConfig, classes: int) -> Iterator[config_pb2.MetricsSpec]:
    """AUC of each class against the rest, averaged; a histogram for each class is dear."""
    if gate.min_auc is None:
        return
    metric = config_pb2.MetricConfig(
        class_name=MacroAuc.__name__,
        module=MacroAuc.__module__,
        config=json.dumps({"name": "auc", "classes": classes}),
        threshold=_at_least(gate.min_auc),
    )
    yield config_pb2.MetricsSpec(metrics=[metric])


class MacroAuc(tfma.metrics.Metric):
    """TFMA's own AUC of each class against the rest, averaged.

    TFMA averages, too, but wants to be told a weight for each class: at thousands of classes that
    is more than a step's settings may take.
    """

    def __init__(self, classes: int, name: str) -> None:
        """Makes the metric; TFMA calls this with what `eval_config` wrote.

        Args:
            classes: how many.
            name: of the average.
        """
        super().__init__(_macro_auc, classes=classes, name=name)


def _macro_auc(
    classes: int,
    name: str,
    model_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> list[Any]:
    """The computations: private ones of each class, and one that is derived from them."""
    # A name with an underscore is not reported.
    of_class = tfma.metrics.AUC(name=f"_{name}").computations(
        model_names=model_names,
        output_names=output_names,
        sub_keys=[tfma.metrics.SubKey(class_id=index) for index in range(classes)],
    )
    keys = [key for computation in of_class for key in computation.keys if key.name == f"_{name}"]
    average = tfma.metrics.MetricKey(
        name=name, model_name=keys[0].model_name, output_name=keys[0].output_name
    )

    def result(metrics: Mapping[Any, Any]) -> dict[Any, float]:
        return {average: float(np.mean([metrics[key] for key in keys]))}

    return [*of_class, tfma.metrics.DerivedMetricComputation(keys=[average], result=result)]


def _at_least(minimum: float) -> config_pb2.MetricThreshold:
    return config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": minimum - _EPSILON})
    )
