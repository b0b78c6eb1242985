"""What the Evaluator is asked, whose settings stay small, and its own metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow_model_analysis as tfma
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tensorflow_model_analysis.proto import config_pb2

from components.metrics import macro_auc
from pipeline.config import GateConfig
from pipeline.release.eval_settings import eval_settings
from pipeline.release.evaluation import eval_config


def asked(gate: GateConfig, slice_keys: Sequence[str]) -> config_pb2.EvalConfig:
    return eval_config(eval_settings(gate, slice_keys, code_digest="1"))


def test_auc_is_asked_for_only_where_it_is_gated() -> None:
    names = {
        (spec.metrics[0].class_name, gated)
        for gated in (None, 0.9)
        for spec in asked(GateConfig(min_accuracy=0.5, min_auc=gated), ()).metrics_specs
    }
    assert names == {
        ("Accuracy", None),
        ("Accuracy", 0.9),
        ("MacroAuc", 0.9),
    }


def judged(
    gate: GateConfig, label_ids: NDArray[np.int64], probabilities: NDArray[np.float32], folder: Path
) -> tuple[dict[str, float], bool]:
    """TFMA's metrics of some predictions, from two cameras, and whether they pass the gate."""
    config = asked(gate, ("camera",))
    del config.model_specs[:]
    config.model_specs.add(label_key="label", prediction_key="prediction")
    rows = pd.DataFrame({"label": label_ids, "prediction": list(probabilities)})
    rows["camera"] = np.where(np.arange(len(rows)) % 2, "left", "right")
    result = tfma.analyze_raw_data(rows, config, output_path=str(folder))
    found = result.get_metrics_for_slice()
    values = {name: found[name]["doubleValue"] for name in ("accuracy", "auc")}
    return values, tfma.load_validation_result(str(folder)).validation_ok


def crowded(examples: int, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Predictions of a model that is sure of itself: most are nearly 0 or 1."""
    generator = np.random.default_rng(0)
    label_ids = generator.integers(0, classes, examples)
    logits = 12 * (generator.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[label_ids])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return label_ids, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_auc_is_exact(classes: int, tmp_path: Path) -> None:
    label_ids, probabilities = crowded(600, classes)
    exact = roc_auc_score(np.eye(classes)[label_ids], probabilities, average="macro")
    ours = macro_auc(label_ids, probabilities)  # by which variants are judged
    gate = GateConfig(min_accuracy=0.0, min_auc=ours)
    values, passed = judged(gate, label_ids, probabilities, tmp_path)
    assert values["auc"] == pytest.approx(exact, abs=1e-12)
    assert passed


def test_auc_below_its_minimum_is_not_passed(tmp_path: Path) -> None:
    label_ids, probabilities = crowded(600, 3)
    exact = roc_auc_score(label_ids, probabilities, multi_class="ovr", average="macro")
    gate = GateConfig(min_accuracy=0.0, min_auc=exact + 1e-9)
    assert not judged(gate, label_ids, probabilities, tmp_path)[1]


# Of 20 examples 18 are right: 9 of the right camera's 10, and 9 of the left one's.
GATES = {
    "just what is asked for": ({"min_accuracy": 0.9, "min_auc": 0.9}, True),
    "accuracy below": ({"min_accuracy": 0.900000001}, False),
    "AUC below": ({"min_auc": 0.900000001}, False),
    "just what is asked for of a slice": ({"min_slice_accuracy": {"camera": 0.9}}, True),
    "below what is asked for of a slice": ({"min_slice_accuracy": {"camera": 0.900000001}}, False),
}


@pytest.mark.parametrize(("gate", "passes"), GATES.values(), ids=GATES)
def test_a_minimum_may_be_reached_and_not_missed(
    gate: dict[str, Any], passes: bool, tmp_path: Path
) -> None:
    label_ids = np.arange(20) // 2 % 2
    wrong = np.isin(np.arange(20), (2, 5))
    probabilities = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - label_ids, label_ids)]
    config = GateConfig(**{"min_accuracy": 0.0, "min_auc": 0.0, **gate})
    values, passed = judged(config, label_ids, probabilities, tmp_path)
    assert values == {"accuracy": 0.9, "auc": 0.9}
    assert passed is passes


def test_an_overall_minimum_is_not_asked_of_a_slice(tmp_path: Path) -> None:
    label_ids = np.arange(20) // 2 % 2
    wrong = np.isin(np.arange(20), (2, 4))  # both of the right camera
    probabilities = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - label_ids, label_ids)]
    gate = GateConfig(min_accuracy=0.9, min_auc=0.9, min_slice_accuracy={"camera": 0.8})
    assert judged(gate, label_ids, probabilities, tmp_path)[1]
