"""The ingest on two worker processes makes what it makes on this one, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from PIL import Image

from pipeline.config import IngestConfig, parse_config
from pipeline.data.dataset import Dataset
from pipeline.data.ingest import ingest
from pipeline.pipeline import create_pipeline
from pipeline.run import BEAM_ARGS
from tests.conftest import make_registry


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """The address of a cluster of two processes on loopback."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(30):
            pixels = random.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    (folder / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_the_dataset_is_the_same_on_a_cluster(photos: Path, dask: str, tmp_path: Path) -> None:
    said: list[str] = []
    here = ingest(photos, tmp_path / "here", IngestConfig(), (), said.append)
    there = ingest(
        photos,
        tmp_path / "there",
        IngestConfig(),
        (
            "--runner=pipeline.dask_runner.DaskRunner",
            f"--dask_client_address={dask}",
            "--dask_npartitions=4",
        ),
        said.append,
    )
    assert there.digest == here.digest
    assert there.quarantined == here.quarantined
    assert len(there.quarantined) == 1
    assert there.images == 60


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
    dataset = Dataset(Path("dataset"), (), (), Path("schema.pbtxt"), 1, counts, "", "")
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
        "TFLiteEvaluator",
    }
    assert arguments.pop("Transform") == [*BEAM_ARGS, "--a", "--runner=FlinkRunner"]
    assert all(each == [*BEAM_ARGS, "--a"] for each in arguments.values())
