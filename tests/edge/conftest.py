"""Real models and real registries for the tests of the device package."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeline.contract import PreprocessingContract
from edgeline.publish import remote
from tests.edge.servers import RegistryServer
from tests.edge.stores import Authority, Store, make_authority
from tests.peers.docker_registry import DockerRegistry

__all__ = ["Authority", "Store"]  # for the tests' annotations

SIDE = 8
LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="session")
def contract() -> PreprocessingContract:
    return PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=LABELS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of TFLite models: a float one, a quantized one, and some that do not fit."""
    folder = tmp_path_factory.mktemp("models")
    converters = {
        "float32": _converter(classes=3),
        "int8_io": _quantized(_converter(classes=3)),
        "five_classes": _converter(classes=5),
        "nan": _converter(classes=3, weight=np.nan),
        "other_names": _converter(classes=3, output="scores"),
    }
    for name, converter in converters.items():
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    (folder / "garbage.tflite").write_bytes(b"this is no model")
    return folder


def _converter(classes: int, weight: float = 1.0, output: str = "probabilities") -> Any:
    import tensorflow as tf

    module = tf.Module()
    drawn = np.random.default_rng(0).normal(size=[SIDE * SIDE * 3, classes])
    module.weights = tf.Variable((drawn * weight).astype(np.float32))

    def classify(pixels: Any) -> dict[str, Any]:
        logits = tf.reshape(pixels, [1, -1]) @ module.weights / 8.0
        return {output: tf.nn.softmax(logits)}

    pixels = tf.TensorSpec([1, SIDE, SIDE, 3], tf.float32, name="pixels")
    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module)


def _quantized(converter: Any) -> Any:
    import tensorflow as tf

    rng = np.random.default_rng(1)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.random([1, SIDE, SIDE, 3], np.float32)] for _ in range(50)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter


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
