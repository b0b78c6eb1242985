"""Real models and real registries for the tests of the device package."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeline.contract import PreprocessingContract
from edgeline.publish import remote
from tests.edge.models import SIDE, make_models
from tests.edge.servers import RegistryServer
from tests.edge.stores import Authority, Store, make_authority
from tests.peers.docker_registry import DockerRegistry

__all__ = ["Authority", "Store"]  # for the tests' annotations

LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def contract() -> PreprocessingContract:
    return PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=LABELS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the models of `tests.edge.models`, which take TensorFlow to make."""
    if made := os.environ.get("EDGELINE_TEST_MODELS"):
        return Path(made)
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Throwaway keys, and a registry in which nothing was published yet."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def store(tmp_path: Path, contract: PreprocessingContract, authority: Authority) -> Store:
    """A registry in a directory, with keys and without a release."""
    files = tmp_path / "files"
    files.mkdir()
    shutil.copytree(authority.empty, tmp_path / "registry")
    return Store(str(tmp_path / "registry"), files, contract, authority)


@pytest.fixture(scope="session")
def server() -> Iterator[RegistryServer]:
    """A registry server of our own, which has no repository yet."""
    with RegistryServer() as server:
        yield server


@pytest.fixture
def server_store(store: Store, server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A registry on a server, with keys and without a release."""
    # One writer at a time has nobody to wait for.
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)
    return replace(store, location=f"oci://{server.host}/{secrets.token_hex(8)}").initialized()


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry server of others, which has no repository yet."""
    with DockerRegistry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture
def docker_store(
    store: Store, docker_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A registry on a server of others, with keys and without a release."""
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)
    location = docker_registry.location(secrets.token_hex(8))
    return replace(store, location=location).initialized()


@pytest.fixture(
    params=[
        pytest.param("store", id="directory"),
        pytest.param("server_store", id="server"),
        pytest.param("docker_store", id="docker-registry", marks=pytest.mark.peers),
    ]
)
def any_store(request: pytest.FixtureRequest) -> Store:
    """A registry in a directory, and then one on each kind of server."""
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def pets(store: Store, models: Path) -> Store:
    """A registry with one release of real models, in two channels."""
    variants = {name: (models / f"{name}.tflite").read_bytes() for name in ("float32", "int8_io")}
    store.publish(variants, channel="candidate")
    store.publish(variants, channel="production")
    return store


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run this Python with the tests' import path in a process of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    return run
