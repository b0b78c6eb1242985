"""What the Evaluator is asked, whose settings stay small, and its own metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import tensorflow_model_analysis as tfma
from sklearn.metrics import roc_auc_score

from pipeline.config import GateConfig
from pipeline.evaluation import eval_config


def test_the_settings_are_as_large_for_many_classes() -> None:
    few, many = (
        eval_config(GateConfig(min_accuracy=0.5, min_auc=0.9), n, ("camera",))
        for n in (10_001, 99_999)
    )
    assert few.ByteSize() == many.ByteSize() < 1000


def test_auc_is_asked_for_only_where_it_is_gated() -> None:
    names = {
        (spec.metrics[0].class_name, gated)
        for gated in (None, 0.9)
        for spec in eval_config(GateConfig(min_accuracy=0.5, min_auc=gated), 3, ()).metrics_specs
    }
    assert names == {
        ("SparseCategoricalAccuracy", None),
        ("SparseCategoricalAccuracy", 0.9),
        ("MacroAuc", 0.9),
    }


@pytest.mark.parametrize(("minimum", "passes"), [(0.5, True), (0.999, False)])
def test_auc_is_the_average_over_the_classes_and_is_gated(
    minimum: float, passes: bool, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    label_ids = generator.integers(0, 3, 300)
    logits = generator.normal(size=(300, 3)) + 1.5 * np.eye(3)[label_ids]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    config = eval_config(GateConfig(min_accuracy=0.1, min_auc=minimum), 3, ())
    del config.model_specs[:]
    config.model_specs.add(label_key="label", prediction_key="prediction")
    rows = pd.DataFrame({"label": label_ids, "prediction": list(probabilities)})
    result = tfma.analyze_raw_data(rows, config, output_path=str(tmp_path))
    found = result.get_metrics_for_slice()["auc"]["doubleValue"]
    expected = roc_auc_score(label_ids, probabilities, multi_class="ovr", average="macro")
    assert found == pytest.approx(expected, abs=1e-3)
    validated = tfma.load_validation_result(str(tmp_path))
    assert validated.validation_ok is passes
