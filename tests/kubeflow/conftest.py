"""A cluster with the workspace's data, and one run in it that many tests look at.

Kubeflow's own programs do its work where DRIVER and LAUNCHER name them; otherwise they are
simulated.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Workspace, make_registry
from tests.kubeflow.argo import Cluster, Run, Runner
from tests.kubeflow.programs import InstalledCluster, Programs, Services
from tests.kubeflow.sandbox import PROJECT, run
from tests.kubeflow.simulator import SimulatedCluster

IMAGE = "registry.example/edgeline@sha256:" + "a" * 64
CLUSTER = """
[kubeflow]
dataset = "/data/dataset"
registry = "/registry/registry"
registry_volume = { claim = "edgeline-registry", mount = "/registry" }
signing_keys = "edgeline-signing-keys"

[kubeflow.steps.Trainer]
cpu = 4
memory_gb = 8
gpu_count = 1
node_selector = { pool = "gpu" }
tolerations = [{ key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }]
"""
ROOT = "minio://mlpipeline/v2/artifacts"
PROGRAMS = Programs.given()


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services | None]:
    """What Kubeflow's programs talk to, where they are given."""
    if PROGRAMS is None:
        yield None
        return
    with Services.start(tmp_path_factory.mktemp("services")) as started:
        yield started


@dataclass(frozen=True)
class Prepared:
    """Volumes and secrets of a cluster, and the pipeline compiled for it."""

    folder: Path
    pipeline: Path
    services: Services | None

    def elsewhere(self, folder: Path, runner: Runner = run, publish_logs: bool = True) -> Cluster:
        """A cluster with these volumes and secrets."""
        claims = {
            "edgeline-data": self.folder / "data",
            "edgeline-registry": self.folder / "volume",
        }
        secrets = {"edgeline-signing-keys": self.folder / "secret"}
        if PROGRAMS and self.services:
            programs = (PROGRAMS, self.services)
            return InstalledCluster(folder, claims, secrets, *programs, runner, publish_logs)
        return SimulatedCluster(folder, claims, secrets, runner, publish_logs)

    @property
    def registry(self) -> Path:
        return self.folder / "volume" / "registry"

    @property
    def root(self) -> Path:
        return self.folder / "keys" / "root.json"


def compiled(
    config: Path,
    output: Path,
    *arguments: str,
    image: str = IMAGE,
    checkout: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python kubeflow/compile.py` as a user does."""
    command: Sequence[str] = [sys.executable, str(checkout / "kubeflow" / "compile.py")]
    options = ["--config", str(config), "--image", image, "--output", str(output), *arguments]
    return subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )


@dataclass(frozen=True)
class Ran(Prepared):
    """A cluster and the first run in it."""

    cluster: Cluster
    first: Run


def prepare(folder: Path, dataset: Path, config: str, services: Services | None = None) -> Prepared:
    """Fills a cluster's volumes and secrets, and compiles the pipeline for it.

    The registry's volume has another registry too, of the same keys: `other`.
    """
    make_registry(folder, "cells")
    for name in ("volume", "data", "secret"):
        (folder / name).mkdir()
    shutil.copytree(folder / "registry", folder / "volume" / "other")
    (folder / "registry").rename(folder / "volume" / "registry")
    shutil.copytree(dataset, folder / "data" / "dataset")
    for name in ("online.pem", "cells-ci.pem"):
        (folder / "secret" / name).write_bytes((folder / "keys" / name).read_bytes())
    (folder / "cells.toml").write_text(config + CLUSTER)
    pipeline = folder / "pipeline.yaml"
    root = f"registry.root={folder / 'keys' / 'root.json'}"
    done = compiled(folder / "cells.toml", pipeline, "--set", root)
    assert done.returncode == 0, done.stderr
    return Prepared(folder, pipeline, services)


@pytest.fixture(scope="session")
def prepared(
    workspace: Workspace, services: Services | None, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    config = (workspace.folder / "cells.toml").read_text()
    folder = tmp_path_factory.mktemp("cluster")
    return prepare(folder, workspace.folder / "dataset", config, services)


@pytest.fixture(scope="session")
def ran(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    cluster = prepared.elsewhere(tmp_path_factory.mktemp("objects"))
    first = cluster.run(prepared.pipeline, ROOT)
    first.check()
    return Ran(prepared.folder, prepared.pipeline, prepared.services, cluster, first)
