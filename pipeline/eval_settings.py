"""What TFX's Evaluator is asked: the JSON of TFMA's EvalConfig, as TFMA imports TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from components.feature_names import LABEL_ID
from components.metrics import TOLERANCE
from pipeline.config import GateConfig

AUC_MODULE, AUC_CLASS = "pipeline.evaluation", "MacroAuc"


def eval_settings(gate: GateConfig, slice_keys: Sequence[str]) -> dict[str, Any]:
    """Accuracy overall and by slice, from the `serving_default` signature; AUC if it is gated.

    Args:
        gate: the thresholds.
        slice_keys: raw features by which accuracy is also measured.
    """
    return {
        "model_specs": [
            {
                # A Keras 3 SavedModel: used by its signatures, not through tf_keras.
                "model_type": "tf_generic",
                "signature_name": "serving_default",
                "preprocessing_function_names": ["transform_features"],
                "label_key": LABEL_ID,
            }
        ],
        "slicing_specs": [{}, *({"feature_keys": [key]} for key in slice_keys)],
        "metrics_specs": [_accuracy(gate), *_auc(gate)],
    }


def _accuracy(gate: GateConfig) -> dict[str, Any]:
    accuracy = {
        "class_name": "SparseCategoricalAccuracy",
        "config": '{"name": "accuracy"}',
        "per_slice_thresholds": [
            _at_least(gate.min_accuracy),
            *(_at_least(least, [key]) for key, least in gate.min_slice_accuracy.items()),
        ],
    }
    return {"metrics": [accuracy, {"class_name": "ExampleCount"}]}


def _auc(gate: GateConfig) -> Iterator[dict[str, Any]]:
    """AUC of each class against the rest, averaged; it takes all probabilities in one place."""
    if gate.min_auc is None:
        return
    metric = {
        "class_name": AUC_CLASS,
        "module": AUC_MODULE,
        "config": json.dumps({"name": "auc"}),
        "per_slice_thresholds": [_at_least(gate.min_auc)],
    }
    yield {"metrics": [metric]}


def _at_least(minimum: float, slice_keys: Sequence[str] = ()) -> dict[str, Any]:
    """Overall, or on each value of a key; a plain `threshold` would be of every slice there is."""
    return {
        "slicing_specs": [{"feature_keys": list(slice_keys)}],
        "threshold": {"value_threshold": {"lower_bound": minimum - TOLERANCE}},
    }
