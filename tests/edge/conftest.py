"""Real models and real registries for the tests of the device package."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeline.contract import PreprocessingContract
from edgeline.publish import remote
from edgeline.publish.keys import Signers, generate_key
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import Published, VariantFiles, publish
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.publish.store import WriteStore, open_for_writing
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import ReadStore, open_store
from edgeline.registry.trust import TrustedChannels
from tests.edge.servers import RegistryServer
from tests.peers.docker_registry import DockerRegistry

MODELS = ("pets", "cats", "dogs", "others")
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


@dataclass(frozen=True)
class Authority:
    """Throwaway keys, and a registry in which nothing was published yet."""

    keys: Keys
    signers: Signers  # every one of the keys
    files: Path  # <name>.pem of each: root-1, root-2, targets, online, ci, release
    root: bytes
    empty: Path

    def signers_of(self, *names: str) -> Signers:
        """What a person or a machine can sign with who holds only these keys."""
        return Signers.load([str(self.files / f"{name}.pem") for name in names])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    files = folder / "keys"
    names = ("root-1", "root-2", "targets", "online", "ci", "release")
    key = {name: generate_key(files / f"{name}.pem", None) for name in names}
    keys = Keys(
        root=(key["root-1"], key["root-2"]),
        targets=key["targets"],
        online=key["online"],
        models={model: ModelKeys(ci=key["ci"], release=key["release"]) for model in MODELS},
    )
    signers = Signers.load([str(files)])
    empty = folder / "registry"
    return Authority(keys, signers, files, initialize(LayoutWriter(empty), keys, signers), empty)


@dataclass(frozen=True)
class Store:
    """A registry under test, and easy ways to publish to it and to read from it."""

    location: str
    files: Path
    contract: PreprocessingContract
    authority: Authority

    @property
    def path(self) -> Path:
        """The directory of a registry that is one."""
        return Path(self.location)

    @property
    def root(self) -> bytes:
        """What a device trusts the registry by."""
        return self.authority.root

    def open(self) -> ReadStore:
        """Open the store as a device does."""
        return open_store(self.location)

    @property
    def reader(self) -> RegistryReader:
        """Reads its releases."""
        return RegistryReader(self.open())

    @property
    def channels(self) -> TrustedChannels:
        """What a device that comes back now and then trusts."""
        return TrustedChannels(self.open(), root=self.root, state=self.files / "state")

    def serving(self, model: str = "pets", channel: str = "candidate") -> Release:
        """What a device finds in a channel."""
        return self.reader.open_channel(self.channels, model, channel)

    def repository(self, writer: WriteStore | None = None) -> Repository:
        """The signed metadata, with every key at hand."""
        store = writer or open_for_writing(self.location)
        return Repository(store, root=self.root, signers=self.authority.signers)

    def publish(
        self,
        variants: Mapping[str, bytes] | None = None,
        *,
        model: str = "pets",
        channel: str = "candidate",
        verdict: bytes = b"{}",
        golden: bytes | None = None,
        writer: WriteStore | None = None,
        **others: bytes,
    ) -> Published:
        """Publish a release; without `variants`, of one that is no real model."""
        files = []
        for name, content in (variants or {"float32": b"weights"}).items():
            path = self.files / f"{name}.tflite"
            path.write_bytes(content)
            files.append(VariantFiles(name, path, golden))
        writer = writer or open_for_writing(self.location)
        return publish(
            writer,
            self.repository(writer),
            model=model,
            channel=channel,
            variants=files,
            preprocessing=self.contract,
            verdict=verdict,
            **others,
        )

    def initialized(self) -> "Store":
        """Make the location a registry with the same keys."""
        authority = self.authority
        root = initialize(open_for_writing(self.location), authority.keys, authority.signers)
        return replace(self, authority=replace(authority, root=root))

    def elsewhere(self) -> "Store":
        """Make another registry with the same keys, in the same kind of place."""
        files = self.files / secrets.token_hex(8)
        files.mkdir()
        return replace(self, location=f"{self.location}-{files.name}", files=files).initialized()

    def blob(self, digest: str) -> Path:
        """Return where a directory keeps a blob."""
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_everything(self) -> list[Release]:
        """Read every byte of every release and channel, so that what is broken raises."""
        reader = self.reader
        releases = [reader.open_version(version) for version in reader.versions()]
        served = [reader.open(channel.release) for channel in self.channels.channels()]
        for release in (*releases, *served):
            reader.read_verdict(release)
            reader.read_report(release)
            reader.read_provenance(release)
            for variant in release.variants:
                reader.read_model(variant)
                reader.read_golden(variant)
        return releases


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
