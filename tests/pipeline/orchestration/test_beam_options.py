"""Which Beam options a step gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import parse_config
from pipeline.data.dataset import Dataset
from pipeline.orchestration.dag import create_pipeline
from pipeline.orchestration.run import BEAM_ARGS
from tests.conftest import make_registry


def test_a_step_has_options_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_registry(tmp_path, "pets")
    config = parse_config(
        {
            "name": "pets",
            "data": {"path": "dataset"},
            "gate": {"min_accuracy": 0.9},
            "beam": {"args": ["--a"], "steps": {"Transform": ["--runner=FlinkRunner"]}},
        },
        "test",
    )
    counts: dict[str, dict[str, int]] = {split: {} for split in ("train", "eval", "test")}
    dataset = Dataset(Path("dataset"), (), (), Path("schema.pbtxt"), 1, counts, {}, "")
    pipeline = create_pipeline(
        config, dataset, "root", beam_pipeline_args=[*BEAM_ARGS, *config.beam.args]
    )
    arguments = {
        step.id: step.executor_spec.beam_pipeline_args
        for step in pipeline.components
        if hasattr(step.executor_spec, "beam_pipeline_args")
    }
    assert set(arguments) == {
        "ImportExampleGen",
        "StatisticsGen",
        "Transform",
        "Evaluator",
        "TFLitePredictor",
    }
    assert arguments.pop("Transform") == [*BEAM_ARGS, "--a", "--runner=FlinkRunner"]
    assert all(each == [*BEAM_ARGS, "--a"] for each in arguments.values())
