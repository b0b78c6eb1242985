"""TFX's steps on Beam's other runners make what they make in one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList
from tfx.components import Transform
from tfx.components.evaluator.executor import Executor as EvaluatorExecutor
from tfx.components.transform.executor import Executor as TransformExecutor
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.types import Artifact, channel_utils, standard_artifacts
from tfx.types.artifact_utils import encode_split_names

from components.artifacts import TFLiteModels
from components.predictions import load_predictions
from components.statistics_gen.executor import Executor as StatisticsGenExecutor
from components.tflite_predictor.executor import Executor as TFLitePredictorExecutor
from components.tflite_predictor.models import BATCH
from pipeline.config import load_config
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.orchestration.dag import PREPROCESSING_FN, create_pipeline
from tests.conftest import IMAGES, Workspace

pytestmark = pytest.mark.cluster

# Lest TFX packs itself up for the workers, which have it.
INSTALLED = "--sdk_container_image=none"
Artifacts = Mapping[str, list[Artifact]]


POOL = (sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port")
SERVER = (sys.executable, "-m", "tests.kubeflow.two_workers")


@pytest.fixture(scope="module")
def two_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    """The options of an engine as Flink's is: a job server, and two pools of a worker each."""
    logs = tmp_path_factory.mktemp("two-pools")
    job, address, first, second = (str(free_port()) for _ in range(4))
    with (
        program(logs / "first", first, *POOL, first),
        program(logs / "second", second, *POOL, second),
        program(logs / "jobs", job, *SERVER, job, address, first, second),
    ):
        yield portable_options(job, address)
    for name in ("first", "second"):
        assert "Starting worker" in (logs / name).read_text(), "both pools did work"


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    """The options of Beam's runner in Go, and a pool of workers."""
    if "PRISM" not in os.environ:
        pytest.skip("PRISM= is the path of Beam's prism")
    logs = tmp_path_factory.mktemp("prism")
    job, pool = str(free_port()), str(free_port())
    runner = (os.environ["PRISM"], "--serve_http=false", "--job_port", job)
    with program(logs / "jobs", job, *runner), program(logs / "pool", pool, *POOL, pool):
        yield portable_options(job, pool)
    assert "Starting worker" in (logs / "pool").read_text()


@contextmanager
def program(log: Path, port: str, *command: str) -> Iterator[None]:
    """A server in a process of its own, from when its port answers."""
    # The pool starts `python`.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": path}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_for(int(port), log)
            yield
        finally:
            process.terminate()
            process.wait()


def portable_options(job: str, pool: str) -> Sequence[str]:
    return (
        "--runner=PortableRunner",
        f"--job_endpoint=127.0.0.1:{job}",
        "--environment_type=EXTERNAL",
        f"--environment_config=127.0.0.1:{pool}",
        "--job_server_timeout=600",
    )


@pytest.fixture
def two_processes() -> Sequence[str]:
    return (
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    )


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, log: Path) -> None:
    for _ in range(600):
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def steps(workspace: Workspace) -> Mapping[str, BaseComponent]:
    """The pipeline's steps, and a Transform that has work for Beam.

    The pipeline's own computes nothing over the data and writes none: it needs no runner.
    """
    config = load_config(
        workspace.folder / "cells.toml", [f"registry.root={workspace.folder / 'keys/root.json'}"]
    )
    dataset = Dataset.load(workspace.folder / "dataset")
    defined = {step.id: step for step in create_pipeline(config, dataset, "").components}
    transform = defined["Transform"]
    materializing = Transform(
        examples=channel_utils.as_channel([standard_artifacts.Examples()]),
        schema=channel_utils.as_channel([standard_artifacts.Schema()]),
        preprocessing_fn=PREPROCESSING_FN,
        materialize=True,
        disable_statistics=True,
    )
    settings = transform.exec_properties["custom_config"]
    materializing.exec_properties["custom_config"] = settings
    return {**defined, "Transform": materializing}


def do(
    step: BaseComponent,
    executor: type[BaseBeamExecutor],
    inputs: Artifacts,
    folder: Path,
    beam_args: Sequence[str],
) -> Path:
    """Has TFX run a step; returns the folder of its outputs."""
    outputs: dict[str, list[Artifact]] = {}
    for name, channel in step.outputs.items():
        made = channel.type()
        made.uri = str(folder / name)
        Path(made.uri).mkdir(parents=True)
        outputs[name] = [made]
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=[*beam_args, INSTALLED], tmp_dir=str(folder / "tmp"), unique_id="1"
    )
    executor(context).Do(dict(inputs), outputs, dict(step.exec_properties))
    return folder


def made_by(workspace: Workspace, step: str, output: str, kind: type[Artifact]) -> list[Artifact]:
    artifact = kind()
    artifact.uri = str(workspace.artifact(step, output))
    if kind is standard_artifacts.Examples:
        artifact.split_names = encode_split_names(list(SPLITS))
    return [artifact]


@pytest.mark.parametrize("engine", ["two_pools", "two_processes", "prism"])
def test_statistics_and_transformed_examples_are_the_same_on_another_engine(
    engine: str,
    workspace: Workspace,
    steps: Mapping[str, BaseComponent],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    there: Sequence[str] = request.getfixturevalue(engine)
    here = ("--runner=FnApiRunner",)
    examples = made_by(workspace, "ImportExampleGen", "examples", standard_artifacts.Examples)
    schema = made_by(workspace, "ImportSchemaGen", "schema", standard_artifacts.Schema)

    inputs = {"examples": examples, "schema": schema}
    described = [
        do(steps["StatisticsGen"], StatisticsGenExecutor, inputs, folder, args)
        for folder, args in ((tmp_path / "s1", here), (tmp_path / "s2", there))
    ]
    first, second = map(statistics, described)
    assert set(first) == set(SPLITS)
    assert first == second

    transformed = [
        do(steps["Transform"], TransformExecutor, inputs, folder, args)
        for folder, args in ((tmp_path / "t1", here), (tmp_path / "t2", there))
    ]
    images, same = map(transformed_examples, transformed)
    assert len(images) == IMAGES
    assert images == same


@pytest.mark.parametrize("engine", ["two_pools", "two_processes", "prism"])
def test_the_metrics_are_the_same_on_another_engine(
    engine: str,
    workspace: Workspace,
    steps: Mapping[str, BaseComponent],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    said = made_by(workspace, "TFLitePredictor", "float_examples", standard_artifacts.Examples)
    inputs = {
        "examples": said,
        "model": made_by(workspace, "Trainer", "model", standard_artifacts.Model),
    }
    there = do(
        steps["Evaluator"], EvaluatorExecutor, inputs, tmp_path, request.getfixturevalue(engine)
    )
    here = workspace.artifact("Evaluator", "evaluation")
    assert metrics(there / "evaluation") == metrics(here)


@pytest.mark.parametrize("engine", ["two_pools", "two_processes", "prism"])
def test_the_predictions_are_the_same_on_another_engine(
    engine: str,
    workspace: Workspace,
    steps: Mapping[str, BaseComponent],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit; units of a batch, so that there is work for several workers."""
    monkeypatch.setattr("components.tflite_predictor.predict.UNIT_EXAMPLES", BATCH)
    inputs = {
        "examples": made_by(workspace, "ImportExampleGen", "examples", standard_artifacts.Examples),
        "model": made_by(workspace, "Trainer", "model", standard_artifacts.Model),
        "model_run": made_by(workspace, "Trainer", "model_run", standard_artifacts.ModelRun),
        "tflite_models": made_by(workspace, "TFLiteRewriter", "tflite_models", TFLiteModels),
    }
    args = request.getfixturevalue(engine)
    folder = do(steps["TFLitePredictor"], TFLitePredictorExecutor, inputs, tmp_path, args)
    there = load_predictions(folder / "predictions")
    here = load_predictions(workspace.artifact("TFLitePredictor", "predictions"))
    assert there.image_ids == here.image_ids
    assert set(there.variants) == set(here.variants) != set()
    np.testing.assert_array_equal(there.float_model, here.float_model)
    for name, said in here.variants.items():
        np.testing.assert_array_equal(there.variants[name], said)


def statistics(folder: Path) -> dict[str, Any]:
    """By split: how many examples, and all that is known of each feature."""
    found = {}
    for split in SPLITS:
        file = folder / "statistics" / f"Split-{split}" / "FeatureStats.pb"
        (dataset,) = DatasetFeatureStatisticsList.FromString(file.read_bytes()).datasets
        found[split] = (dataset.num_examples, sorted(map(str, dataset.features)))
    return found


def transformed_examples(folder: Path) -> list[Any]:
    """All of them with their split, in an order that no runner decides."""
    found = []
    for file in (folder / "transformed_examples").rglob("*.gz"):
        for record in tf.data.TFRecordDataset(str(file), compression_type="GZIP"):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            values = {name: each.SerializeToString() for name, each in feature.items()}
            found.append((file.parent.name, sorted(values.items())))
    return sorted(found)


def metrics(evaluation: Path) -> list[str]:
    import tensorflow_model_analysis as tfma

    result = tfma.load_eval_result(str(evaluation))
    return sorted(str(each) for each in result.slicing_metrics)
