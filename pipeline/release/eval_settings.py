"""What TFX's Evaluator is asked: the JSON of TFMA's EvalConfig, as TFMA imports TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from components.feature_names import PROBABILITIES, TRUE_LABEL_ID
from pipeline.config import GateConfig

METRICS_MODULE = "pipeline.release.evaluation"


def eval_settings(gate: GateConfig, slice_keys: Sequence[str], code_digest: str) -> dict[str, Any]:
    """Accuracy overall and by slice, of the float model's predictions; AUC if it is gated.

    Args:
        gate: the thresholds.
        slice_keys: features by which accuracy is also measured.
        code_digest: of `METRICS_MODULE`; makes a result stale when that changed.
    """
    return {
        "model_specs": [
            {
                # What it said is among the examples: see TFLitePredictor.
                "model_type": "materialized_prediction",
                "prediction_key": PROBABILITIES,
                "label_key": TRUE_LABEL_ID,
            }
        ],
        "slicing_specs": [{}, *({"feature_keys": [key]} for key in slice_keys)],
        "metrics_specs": [_accuracy(gate, code_digest), *_auc(gate, code_digest)],
    }


def _accuracy(gate: GateConfig, code_digest: str) -> dict[str, Any]:
    thresholds = [
        _at_least(gate.min_accuracy),
        *(_at_least(least, [key]) for key, least in gate.min_slice_accuracy.items()),
    ]
    accuracy = _metric("Accuracy", "accuracy", thresholds, code_digest)
    return {"metrics": [accuracy, {"class_name": "ExampleCount"}]}


def _auc(gate: GateConfig, code_digest: str) -> Iterator[dict[str, Any]]:
    """AUC of each class against the rest, averaged; it takes all probabilities in one place."""
    if gate.min_auc is not None:
        yield {"metrics": [_metric("MacroAuc", "auc", [_at_least(gate.min_auc)], code_digest)]}


def _metric(
    class_name: str, name: str, thresholds: list[dict[str, Any]], code_digest: str
) -> dict[str, Any]:
    return {
        "class_name": class_name,
        "module": METRICS_MODULE,
        "config": json.dumps({"name": name, "code_digest": code_digest}),
        "per_slice_thresholds": thresholds,
    }


def _at_least(minimum: float, slice_keys: Sequence[str] = ()) -> dict[str, Any]:
    """Overall, or on each value of a key; a plain `threshold` would be of every slice there is."""
    return {
        "slicing_specs": [{"feature_keys": list(slice_keys)}],
        "threshold": {"value_threshold": {"lower_bound": minimum}},
    }
