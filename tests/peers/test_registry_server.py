"""Debian's docker-registry, a registry server of others, as a store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeline.errors import ConflictError, NotFoundError, RegistryError, UnreachableError
from edgeline.publish import remote
from edgeline.publish.remote import RemoteWriter
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    WEIGHTS,
    Descriptor,
)
from edgeline.registry.remote import RemoteStore
from edgeline.registry.store import Connection
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
    assert set(asked) >= {f"repository:cells:{what}" for what in ("pull", "pull,push", "delete")}


def test_a_certificate_of_a_ca_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with DockerRegistry(tmp_path / "registry", tls=authority.issue("127.0.0.1")) as registry:
        push_and_pull(registry.location(), Connection(ca_file=authority.file))
        other = Connection(ca_file=Authority(tmp_path, "other").file)
        with pytest.raises(RegistryError, match="is not trusted"):
            RemoteStore(registry.location(), other).tags()
        with pytest.raises(RegistryError, match="refuses with HTTP 400"):
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
    with DockerRegistry(tmp_path) as registry:
        writer = RemoteWriter(registry.location(), Connection())
        for version in (1, 2):
            variants = [b"shared", f"float32 {version}".encode()]
            release, children = put_release(writer, *variants)
            tags = [(f"v{version}-{n}", child) for n, child in enumerate(children)]
            writer.commit([(f"v{version}", release), *tags], expected={})
        orphan = put(writer, b"orphan")
        writer.remove(["v1"])
        registry.collect_garbage()
        store = RemoteStore(registry.location(), Connection())
        for tag in store.tags():
            check_whole(store, tag)
        with pytest.raises(NotFoundError):
            store.read_manifest(orphan, limit=MAX_MANIFEST)
        assert store.tags() == ["v1-0", "v1-1", "v2", "v2-0", "v2-1"]


def check_whole(store: RemoteStore, tag: str) -> None:
    """Everything that a tag leads to is there."""
    descriptor, content = store.read_tag(tag, limit=MAX_MANIFEST)
    document = json.loads(content)
    children = [Descriptor.from_json(child) for child in document.get("manifests", [])]
    manifests = [store.read_manifest(child, limit=MAX_MANIFEST) for child in children]
    for data in manifests or [content]:
        parts = json.loads(data)
        for part in (parts["config"], *parts["layers"]):
            store.read_blob(Descriptor.from_json(part), limit=LIMIT)
    assert descriptor.media_type == (OCI_INDEX if children else OCI_MANIFEST)


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
