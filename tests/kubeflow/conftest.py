"""A cluster with the workspace's data, and one run in it that many tests look at."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Workspace, make_registry
from tests.kubeflow.sandbox import PROJECT, Pod, run
from tests.kubeflow.simulator import Cluster, Run

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


@dataclass(frozen=True)
class Prepared:
    """Volumes and secrets of a cluster, and the pipeline compiled for it."""

    folder: Path
    pipeline: Path

    def elsewhere(self, folder: Path, runner: Callable[[Pod, Path], int] = run) -> Cluster:
        """Another cluster with the same volumes and secrets, which remembers nothing."""
        claims = {
            "edgeline-data": self.folder / "data",
            "edgeline-registry": self.folder / "volume",
        }
        secrets = {"edgeline-signing-keys": self.folder / "secret"}
        return Cluster(folder, claims, secrets, runner)

    @property
    def registry(self) -> Path:
        return self.folder / "volume" / "registry"

    @property
    def root(self) -> Path:
        return self.folder / "keys" / "root.json"


def compiled(
    config: Path, output: Path, *arguments: str, image: str = IMAGE
) -> subprocess.CompletedProcess[str]:
    """Runs `python kubeflow/compile.py` as a user does."""
    command: Sequence[str] = [sys.executable, str(PROJECT / "kubeflow" / "compile.py")]
    options = ["--config", str(config), "--image", image, "--output", str(output), *arguments]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=300, check=False
    )


@dataclass(frozen=True)
class Simulated(Prepared):
    """A cluster and the first run in it."""

    cluster: Cluster
    first: Run


def prepare(folder: Path, dataset: Path, config: str) -> Prepared:
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
    return Prepared(folder, pipeline)


@pytest.fixture(scope="session")
def prepared(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    config = (workspace.folder / "cells.toml").read_text()
    return prepare(tmp_path_factory.mktemp("cluster"), workspace.folder / "dataset", config)


@pytest.fixture(scope="session")
def simulated(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    cluster = prepared.elsewhere(tmp_path_factory.mktemp("objects"))
    first = cluster.run(prepared.pipeline, ROOT)
    assert not first.failed, first.tasks[first.failed[0]].log[-5000:]
    return Simulated(prepared.folder, prepared.pipeline, cluster, first)
