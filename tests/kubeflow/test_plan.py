"""Whatever can differ from run to run is settled by the first step, and nothing is forgotten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, parse_config
from pipeline.data.dataset import Dataset
from pipeline.orchestration import dag as definition
from pipeline.orchestration import settings as step_settings
from pipeline.orchestration.kubeflow.compiler import run_parameters
from pipeline.orchestration.kubeflow.invocation import ExecutorInput
from pipeline.orchestration.kubeflow.names import BASELINE, BUCKET, DATASET_DIGEST, SETTINGS
from pipeline.orchestration.kubeflow.plan import _baseline, bucket_of, planned_settings
from tests.conftest import make_registry

COUNTS = {split: {"cat": 10, "dog": 10} for split in ("train", "eval", "test")}
DATASET = Dataset(
    path=Path("/data/dataset"),
    labels=("cat", "dog"),
    slice_keys=("camera",),
    schema_path=Path("/data/dataset/schema.pbtxt"),
    max_side=512,
    counts=COUNTS,
    options={},
    digest="bb",
)
DOCUMENT: dict[str, dict[str, Any]] = {
    "data": {"path": "/data/dataset"},
    "gate": {
        "min_accuracy": 0.9,
        "min_auc": 0.9,
        "max_calibration_error": 0.1,
        "min_agreement": 0.9,
        "max_size_mb": 30.0,
        "max_latency_p50_ms": 5.0,
        "max_latency_p95_ms": 9.0,
        "max_latency_ratio": 0.9,
        "min_slice_accuracy": {"camera": 0.8},
        "min_precision": {"cat": 0.8},
        "min_recall": {"dog": 0.8},
    },
    "registry": {"location": "registry"},
    "trainer": {"epochs": 5},
    "tuner": {"trials": 3},
}


def _half(threshold: Any) -> Any:
    if isinstance(threshold, dict):
        return {key: value / 2 for key, value in threshold.items()}
    return threshold / 2


OTHER_DATA = {
    "path": replace(DATASET, path=Path("/data/b"), schema_path=Path("/data/b/schema.pbtxt")),
    "labels": replace(DATASET, labels=("cat", "dog", "owl"), digest="ee"),
    "slices": replace(DATASET, slice_keys=()),
    "size": replace(DATASET, max_side=256),
    "counts": replace(DATASET, counts={**COUNTS, "train": {"cat": 9, "dog": 9}}),
    "content": replace(DATASET, digest="dd"),
}
OTHER_SETTINGS: dict[str, Any] = {
    "registry": "oci://registry.example/models",
    "channel": "canary",
    "epochs": 6,
    **{name: _half(threshold) for name, threshold in DOCUMENT["gate"].items()},
    "max_drop": 0.5,
    "max_drop_deployed": 0.5,
}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plan")
    make_registry(made, "cells")
    return made


def configured(folder: Path, **parameters: Any) -> Config:
    document = {section: dict(values) for section, values in DOCUMENT.items()}
    document["registry"]["root"] = str(folder / "keys" / "root.json")
    for name, value in parameters.items():
        section, _, key = SETTINGS.get(name, f"gate.{name}").partition(".")
        document[section][key] = value
    return parse_config({"name": "cells", **document}, "test")


def settings(
    folder: Path, dataset: Dataset = DATASET, baseline: str = "", **parameters: Any
) -> dict[tuple[str, str], Any]:
    """What each step is given, by step and setting."""
    config = configured(folder, **parameters)
    pipeline = definition.create_pipeline(config, dataset, "", baseline_digest=baseline)
    return {
        (step.id, name): str(value)
        for step in pipeline.components
        for name, value in step.exec_properties.items()
    }


def changed(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> set[tuple[str, str]]:
    return {key for key in before if before[key] != after[key]}


@pytest.fixture(scope="module")
def planned(folder: Path) -> set[tuple[str, str]]:
    made = planned_settings(configured(folder), DATASET, "", "")
    return {(step, name) for step, names in made.items() for name in names}


@pytest.mark.parametrize("dataset", OTHER_DATA.values(), ids=OTHER_DATA)
def test_other_data_changes_only_what_is_planned(
    dataset: Dataset, folder: Path, planned: set[tuple[str, str]]
) -> None:
    difference = changed(settings(folder), settings(folder, dataset))
    assert difference
    assert difference <= planned


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_each_parameter_changes_only_what_is_planned(
    name: str, folder: Path, planned: set[tuple[str, str]]
) -> None:
    difference = changed(settings(folder), settings(folder, **{name: OTHER_SETTINGS[name]}))
    assert difference
    assert difference <= planned


def test_another_baseline_changes_the_predictor_alone(folder: Path) -> None:
    difference = changed(settings(folder), settings(folder, baseline="sha256:" + "a" * 64))
    assert difference == {("TFLitePredictor", "settings")}


def test_a_given_baseline_needs_no_registry_and_none_means_none(folder: Path) -> None:
    document = {**DOCUMENT, "name": "cells", "registry": {"location": str(folder / "nowhere")}}
    config = parse_config(document, "test")
    assert _baseline("sha256:" + "a" * 64, config, DATASET) == "sha256:" + "a" * 64
    assert _baseline("none", config, DATASET) == ""


def test_other_code_changes_only_what_is_planned(
    folder: Path, planned: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settings(folder)
    monkeypatch.setattr(step_settings, "code_digest", lambda *modules: "other")
    difference = changed(before, settings(folder))
    assert {step for step, _ in difference} == {
        "StatisticsGen",
        "ExampleValidator",
        "Transform",
        "Tuner",
        "Trainer",
        "TFLiteRewriter",
        "TFLitePredictor",
        "Evaluator",
        "TFLiteEvaluator",
    }
    assert difference <= planned


def test_beside_what_the_steps_have_only_the_cache_s_part_is_planned(
    folder: Path, planned: set[tuple[str, str]]
) -> None:
    assert planned - set(settings(folder)) == {
        (step, name)
        for step in ("ImportExampleGen", "ImportSchemaGen")
        for name in (DATASET_DIGEST, BUCKET)
    }


RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "2.15 and later": ({"outputFile": "/s3/models/v2/Plan/1/output_metadata.json"}, "s3://models"),
    "2.5 and later, with logs": (
        {
            "artifacts": {"executor-logs": {"artifacts": [{"uri": "minio://mlpipeline/v2/log"}]}},
            "outputFile": "/tmp/kfp_outputs/output_metadata.json",
        },
        "minio://mlpipeline",
    ),
    "2.3": ({"outputFile": "/tmp/kfp_outputs/output_metadata.json"}, ""),
    "Vertex AI": ({"outputFile": "gs://models/root/output.json"}, "gs://models"),
}


@pytest.mark.parametrize(("outputs", "bucket"), RUNS.values(), ids=RUNS)
def test_the_bucket_is_that_of_the_run(outputs: dict[str, Any], bucket: str) -> None:
    assert bucket_of(ExecutorInput(json.dumps({"inputs": {}, "outputs": outputs}))) == bucket


def test_every_parameter_is_tried_here(folder: Path) -> None:
    document = {**DOCUMENT, "name": "cells"}
    parameters = run_parameters(parse_config(document, "test"))
    assert set(parameters) == {*OTHER_SETTINGS, "data_path", BASELINE}
