"""The ingest on a cluster's workers makes what it makes on this machine, byte for byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from PIL import Image

from pipeline.config import IngestConfig
from pipeline.data import reading
from pipeline.data.ingest import ingest
from pipeline.data.work import Engine
from pipeline.errors import UserError
from tests.pipeline.data.test_ingest import contents


@pytest.fixture(scope="module")
def dask() -> Iterator[LocalCluster]:
    """A scheduler, and two workers in processes of their own, on loopback."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(60):
            pixels = random.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    (folder / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def here(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that this process alone makes."""
    out = tmp_path_factory.mktemp("here") / "dataset"
    assert ingest(photos, out).images == 120
    return out


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PHOTOS_A_UNIT", 10)


@pytest.mark.usefixtures("small_units")
def test_processes_of_this_machine(photos: Path, here: Path, tmp_path: Path) -> None:
    ingest(photos, tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == contents(here)


@pytest.mark.usefixtures("small_units")
def test_beam(photos: Path, here: Path, tmp_path: Path) -> None:
    engine = Engine(beam_args=("--direct_running_mode=in_memory",))
    ingest(photos, tmp_path / "dataset", IngestConfig(), engine)
    assert contents(tmp_path / "dataset") == contents(here)


@pytest.mark.usefixtures("small_units")
def test_a_dask_cluster_that_loses_a_worker(
    photos: Path, here: Path, dask: LocalCluster, tmp_path: Path
) -> None:
    address = dask.scheduler_address
    with Client(address, set_as_default=False) as client:
        before = set(client.run(lambda: __import__("os").getpid()).values())
    killer = threading.Thread(target=kill_when_read, args=(min(before), tmp_path))
    killer.start()
    try:
        ingest(photos, tmp_path / "dataset", IngestConfig(), Engine(dask=address))
    finally:
        killer.join()
    assert not psutil.pid_exists(min(before)), "no worker was killed"
    assert contents(tmp_path / "dataset") == contents(here)


def kill_when_read(worker: int, folder: Path) -> None:
    """Kills a process as soon as something of an ingest is read."""
    for _ in range(6000):
        if list(folder.glob(".dataset.partial/read/*.jsonl")):
            break
        time.sleep(0.01)
    psutil.Process(worker).kill()


def test_a_scheduler_that_is_not_there_is_told(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with pytest.raises(UserError, match=r"--dask tcp://127.0.0.1:9: there is no scheduler"):
        ingest(photos, tmp_path / "dataset", IngestConfig(), Engine(dask="tcp://127.0.0.1:9"))


def test_two_engines_are_one_too_many() -> None:
    with pytest.raises(UserError, match="expected --beam-arg or --dask, not both"):
        Engine(beam_args=("--runner=FlinkRunner",), dask="tcp://scheduler:8786")
