"""Debian's docker-registry, a registry server of others, as a store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeline.contract import PreprocessingContract
from edgeline.errors import ConflictError, NotFoundError, RegistryError, UnreachableError
from edgeline.key_files import generate_key
from edgeline.publish import remote
from edgeline.publish.keys import Signers
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.remote import RemoteWriter
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    OCI_MANIFEST,
    WEIGHTS,
    Descriptor,
)
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.remote import RemoteStore
from edgeline.registry.store import Connection
from edgeline.registry.trust import TrustedChannels
from tests.edge.certificates import Authority
from tests.edge.protocol import CASES, LIMIT, Case, manifest, put, put_release
from tests.peers.docker_registry import BASIC, PASSWORD, DockerRegistry, htpasswd, token_service

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `docker login` writes to; nobody has logged in."""
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def log_in(file: Path, registry: DockerRegistry) -> None:
    file.write_text(json.dumps({"auths": {registry.host: {"auth": BASIC}}}))


def push_and_pull(location: str, connection: Connection) -> None:
    writer = RemoteWriter(location, connection)
    release, _ = put_release(writer, b"weights")
    writer.commit([("v1", release)], expected={"v1": None})
    assert RemoteStore(location, connection).read_tag("v1", limit=MAX_MANIFEST)[0] == release
    writer.remove(["v1"])
    assert writer.tags() == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_protocol(
    registry: DockerRegistry, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.01)
    case(registry.location(f"cases/{case.__name__.strip('_')}"), Connection())


def test_a_model_of_common_size_is_stored_and_streamed(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    content = bytes(range(256)) * (28 << 12)
    file = tmp_path / "model.tflite"
    file.write_bytes(content)
    location = registry.location("large")
    model = RemoteWriter(location, Connection()).put_blob(file, WEIGHTS, limit=len(content))
    store = RemoteStore(location, Connection())
    assert store.read_blob(model, limit=len(content)) == content
    half = len(content) // 2
    assert b"".join(store.stream_blob(model, offset=half)) == content[half:]


def test_a_registry_that_was_stopped_is_unreachable(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path) as registry:
        store = RemoteStore(registry.location(), Connection())
        assert store.tags() == []
    with pytest.raises(UnreachableError, match="cannot be reached: Connection refused"):
        store.tags()


# Who may.


def test_a_user_logs_in_with_basic(tmp_path: Path, login: Path) -> None:
    with DockerRegistry(tmp_path / "registry", auth=htpasswd(tmp_path)) as registry:
        with pytest.raises(RegistryError, match=f"{login} has none: docker login {registry.host}"):
            RemoteStore(registry.location(), Connection()).tags()
        log_in(login, registry)
        push_and_pull(registry.location(), Connection())
        login.write_text(login.read_text().replace(BASIC, "YWRhOndyb25n"))
        with pytest.raises(RegistryError, match=f"the login in {login} was refused") as caught:
            RemoteStore(registry.location(), Connection()).tags()
        assert PASSWORD not in str(caught.value)


def test_a_user_logs_in_with_a_token(tmp_path: Path, login: Path) -> None:
    with (
        token_service(Authority(tmp_path)) as (auth, asked),
        DockerRegistry(tmp_path / "registry", auth=auth) as registry,
    ):
        with pytest.raises(RegistryError, match="the login failed: it wants a login"):
            RemoteStore(registry.location(), Connection()).tags()
        log_in(login, registry)
        push_and_pull(registry.location(), Connection())
        RemoteStore(registry.location(), Connection()).tags()
    # It names the actions of a scope in any order.
    scopes = {
        (name, *sorted(what.split(","))) for name, _, what in (s.rpartition(":") for s in asked)
    }
    cells = "repository:cells"
    assert scopes >= {(cells, "pull"), (cells, "pull", "push"), (cells, "delete")}


def test_a_certificate_of_a_ca_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with DockerRegistry(tmp_path / "registry", tls=authority.issue("127.0.0.1")) as registry:
        push_and_pull(registry.location(), Connection(ca_file=authority.file))
        other = Connection(ca_file=Authority(tmp_path, "other").file)
        with pytest.raises(RegistryError, match="is not trusted"):
            RemoteStore(registry.location(), other).tags()
        with pytest.raises(RegistryError, match=r"HTTP 400\. If it speaks TLS, give its CA"):
            RemoteStore(registry.location(), Connection()).tags()


def test_a_client_certificate(tmp_path: Path) -> None:
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    device = clients.issue("device")
    tls = authority.issue("127.0.0.1")
    with DockerRegistry(tmp_path / "registry", tls=tls, clients=clients) as registry:
        push_and_pull(
            registry.location(), Connection(authority.file, device.certificate, device.key)
        )
        with pytest.raises(RegistryError, match="it wants a client certificate"):
            RemoteStore(registry.location(), Connection(authority.file)).tags()


def test_a_registry_that_does_not_delete_says_so(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path, deleting=False) as registry:
        writer = RemoteWriter(registry.location(), Connection())
        writer.commit([("v1", put(writer, b"weights"))], expected={})
        with pytest.raises(RegistryError, match=r"storage\.delete\.enabled"):
            writer.remove(["v1"])
        assert writer.tags() == ["v1"]


# What its operator does.


def test_garbage_collection_leaves_every_tagged_release_whole(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "registry") as registry:
        writer = RemoteWriter(registry.location(), Connection())
        signers, root = make_registry(writer, tmp_path)
        repository = Repository(writer, root=root, signers=signers)
        for version in (1, 2, 3):
            variants = []
            for name in ("float32", "int8"):
                file = tmp_path / name
                file.write_bytes(f"{name} {version}".encode() * 1000)
                variants.append(VariantFiles(name, file, golden=b"[]"))
            publish(
                repository,
                model="cells",
                channel="candidate",
                variants=variants,
                preprocessing=PreprocessingContract(8, 8, 512, ("intact", "defective")),
                verdict=b"{}",
                report=b"<html>",
            )
        orphan, _ = put_release(writer, b"left by a publisher that was stopped")
        blobs = len(list((tmp_path / "registry").rglob("blobs/**/data")))

        registry.collect_garbage()

        store = RemoteStore(registry.location(), Connection())
        reader = RegistryReader(store)
        assert reader.versions() == [1, 2, 3]
        for version in reader.versions():
            check_whole(reader, reader.open_version(version))
        channels = TrustedChannels(store, root=root, state=tmp_path / "state")
        assert reader.open_channel(channels, "cells", "candidate").version == 3
        with pytest.raises(NotFoundError):
            store.read_manifest(orphan, limit=MAX_MANIFEST)
        # The orphan's index, its manifest, and its weights; the empty config is in use elsewhere.
        assert len(list((tmp_path / "registry").rglob("blobs/**/data"))) == blobs - 3


def make_registry(writer: RemoteWriter, folder: Path) -> tuple[Signers, bytes]:
    """Make a registry with throwaway keys; return them, and what devices trust it by."""
    names = ("root", "targets", "online", "ci", "release")
    key = {name: generate_key(folder / "keys" / f"{name}.pem", None) for name in names}
    model = ModelKeys(ci=key["ci"], release=key["release"])
    keys = Keys(
        (key["root"],), targets=key["targets"], online=key["online"], models={"cells": model},
        root_threshold=1,
    )  # fmt: skip
    signers = Signers.load([str(folder / "keys")])
    return signers, initialize(writer, keys, signers)


def check_whole(reader: RegistryReader, release: Release) -> None:
    """Everything that a release consists of is there."""
    assert [variant.name for variant in release.variants] == ["float32", "int8"]
    reader.read_verdict(release)
    assert reader.read_report(release) is not None
    for variant in release.variants:
        reader.read_model(variant)
        assert reader.read_golden(variant) is not None


def test_two_publishers_at_once_lose_no_update(registry: DockerRegistry) -> None:
    """Each adds entries to what a tag names, built upon what it finds there."""
    location = registry.location("updates")
    updates = 3

    def update(name: str) -> int:
        writer, conflicts = RemoteWriter(location, Connection()), 0
        for number in range(updates):
            while not add(writer, f"{name}{number}"):
                conflicts += 1
                assert conflicts < 100
        return conflicts

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(update, "ab"))
    entries = read_entries(RemoteWriter(location, Connection()))[1]
    assert sorted(entries) == [f"{name}{n}" for name in "ab" for n in range(updates)]


def test_a_tag_can_be_read_whenever_it_is_moved(registry: DockerRegistry) -> None:
    # The server truncates the tag's file before it writes it, and says 500 to who looks then.
    writer = RemoteWriter(registry.location("moved"), Connection())
    states = [put(writer, b"one"), put(writer, b"two")]
    writer.commit([("tuf", states[0])], expected={})
    over = threading.Event()

    def read() -> None:
        store = RemoteStore(registry.location("moved"), Connection())
        while not over.is_set():
            assert store.read_tag("tuf", limit=MAX_MANIFEST)[0] in states

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for turn in range(200):
                writer.commit([("tuf", states[turn % 2])], expected={})
        finally:
            over.set()
        for reader in readers:
            reader.result()


def add(writer: RemoteWriter, entry: str) -> bool:
    """Add an entry to the newest state, unless another writer is faster."""
    digest, entries = read_entries(writer)
    if entry in entries:
        return True  # it was told of a conflict, and yet has won this tag
    entries = [*entries, entry]
    content = writer.put_blob(json.dumps(entries).encode(), WEIGHTS, limit=LIMIT)
    config = writer.put_blob(b"{}", EMPTY_CONFIG, limit=LIMIT)
    new = writer.put_manifest(manifest(config, content), OCI_MANIFEST)
    version = f"tuf-{len(entries)}"
    try:
        writer.commit([(version, new), ("tuf", new)], expected={version: None, "tuf": digest})
    except ConflictError:
        return False
    return True


def read_entries(writer: RemoteWriter) -> tuple[str | None, list[str]]:
    try:
        descriptor, content = writer.read_tag("tuf", limit=MAX_MANIFEST)
    except NotFoundError:
        return None, []
    (layer,) = json.loads(content)["layers"]
    return descriptor.digest, json.loads(writer.read_blob(Descriptor.from_json(layer), limit=LIMIT))
