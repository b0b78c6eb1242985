"""Which steps a change makes anew: those that it concerns, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeline.publish.provenance import Resource
from pipeline.config import Config, parse_config
from pipeline.orchestration import settings
from pipeline.orchestration.settings import step_settings
from pipeline.release import deployed, lineage
from pipeline.release.deployed import inputs_digest
from tests.pipeline.orchestration.test_preflight import DATASET

JUDGES = {"Evaluator", "TFLiteEvaluator"}
THRESHOLDS: dict[str, tuple[Any, set[str]]] = {
    "min_accuracy": (0.95, JUDGES),
    "min_auc": (0.9, JUDGES),
    "min_slice_accuracy": ({"camera": 0.8}, JUDGES),
    "min_precision": ({"cat": 0.8}, {"TFLiteEvaluator"}),
    "min_recall": ({"cat": 0.8}, {"TFLiteEvaluator"}),
    "max_calibration_error": (0.1, {"TFLiteEvaluator"}),
    "max_drop": (0.02, {"TFLiteEvaluator"}),
    "max_drop_deployed": (0.02, {"TFLiteEvaluator"}),
    "min_agreement": (0.9, {"TFLiteEvaluator"}),
    "max_size_mb": (9.0, {"TFLiteEvaluator"}),
    "max_latency_p50_ms": (9.0, {"TFLiteEvaluator"}),
    "max_latency_p95_ms": (9.0, {"TFLiteEvaluator"}),
    "max_latency_ratio": (0.9, {"TFLiteEvaluator"}),
    "evidence": ("point", {"TFLiteEvaluator"}),
    "unproven": ("refuse", {"TFLiteEvaluator"}),
}


@pytest.fixture(autouse=True)
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the time to digest it again and again."""
    monkeypatch.setattr(settings, "code_digest", lambda *modules: "code")
    monkeypatch.setattr(deployed, "source_digest", lambda *packages: "code")
    monkeypatch.setattr(lineage, "_code", lambda: Resource("code", {}))


def configured(gate: dict[str, Any] | None = None, **trainer: Any) -> Config:
    document = {
        "name": "pets",
        "data": {"path": "dataset"},
        "gate": {"min_accuracy": 0.9, **(gate or {})},
        "trainer": {"base_weights": "random", **trainer},
    }
    return parse_config(document, "test")


def stale(before: Config, change: Callable[[], Config], baseline: str = "") -> set[str]:
    """The steps that are given something else after a change."""
    first = step_settings(before, DATASET, "", "builder")
    second = step_settings(change(), DATASET, baseline, "builder")
    return {step for step in first if first[step] != second[step]}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_another_threshold_concerns_the_judges_alone(name: str) -> None:
    """And so it trains, converts and predicts nothing."""
    value, judges = THRESHOLDS[name]
    assert stale(configured(), lambda: configured({name: value})) == judges


def test_every_threshold_is_tried_here() -> None:
    others = {"split", "require", "publish"}
    assert set(type(configured().gate).model_fields) - others == set(THRESHOLDS)


@pytest.mark.parametrize(
    ("baseline", "concerned"), [("", set()), ("sha256:aa", {"TFLitePredictor"})]
)
def test_a_registry_concerns_who_reads_a_release_of_it(
    baseline: str, concerned: set[str], tmp_path: Path
) -> None:
    """And so the first run that publishes makes nothing anew."""
    (tmp_path / "root.json").write_bytes(b"{}")
    registry = {"location": str(tmp_path), "root": str(tmp_path / "root.json")}

    def with_registry() -> Config:
        document = configured().model_dump(mode="json", exclude_unset=True)
        return parse_config({**document, "registry": registry}, "test")

    assert stale(configured(), with_registry, baseline) == concerned


@pytest.mark.parametrize(
    ("section", "changes", "concerned"),
    [
        ("rewriter", {"variants": ["int8"]}, {"TFLiteRewriter"}),
        ("rewriter", {"calibration_images": 9}, {"TFLiteRewriter"}),
        ("rewriter", {"timeout": 9}, {"TFLiteRewriter"}),
        ("rewriter", {"mixed_trials": 9}, set()),
        ("gate", {"split": "eval"}, {"TFLitePredictor"}),
    ],
)
def test_a_setting_concerns_its_step(
    section: str, changes: dict[str, Any], concerned: set[str]
) -> None:
    before = configured()
    document = before.model_dump(mode="json", exclude_unset=True)
    document[section] = {**document.get(section, {}), **changes}
    found = stale(before, lambda: parse_config(document, "test"))
    # Which lists in its report all settings that the models were made with.
    assert found - {"TFLiteEvaluator"} == concerned


@pytest.mark.parametrize("setting", ["base_weights", "warm_start"])
def test_weights_count_by_their_content_and_not_by_their_time(setting: str, tmp_path: Path) -> None:
    weights = tmp_path / "model.weights.h5"
    weights.write_bytes(b"1")
    trainer: dict[str, Any] = {setting: str(weights)}
    config = configured(**trainer)
    digest = inputs_digest(config, DATASET)

    def touched() -> Config:
        os.utime(weights, ns=(1, 1))
        return config

    def written() -> Config:
        weights.write_bytes(b"2")
        return config

    assert stale(config, touched) == set()
    assert inputs_digest(config, DATASET) == digest
    # The judges' report names what the model was made from.
    assert stale(config, written) == {"Tuner", "Trainer", "TFLiteEvaluator"}
    assert inputs_digest(config, DATASET) != digest
