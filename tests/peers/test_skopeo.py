"""skopeo, an OCI client that knows nothing of us, reads and copies what was published.

It copies one tag at a time, so a registry is carried by its `v<n>` and `tuf` tags. `--all` takes a
release's variants along, but not their own tags; an index holds on to them all the same.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeline.contract import PreprocessingContract
from edgeline.publish.copying import copy
from edgeline.publish.release import Published
from edgeline.publish.store import open_for_writing
from edgeline.registry.format import MAX_MANIFEST
from edgeline.registry.store import OCI_SCHEME
from tests.edge.stores import Store, make_authority
from tests.peers.docker_registry import DockerRegistry

pytestmark = pytest.mark.peers

VARIANTS = {"float16": b"float16" * 1000, "float32": b"float32" * 1000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    authority = make_authority(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    contract = PreprocessingContract(height=32, width=32, max_side=512, labels=("cat", "dog"))
    return Store(str(authority.empty), files, contract, authority)


@pytest.fixture
def published(store: Store) -> Published:
    return store.publish(VARIANTS, report=b"<html>", provenance=b"{}", golden=b"{}")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "docker-registry") as registry:
        yield registry


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True).stdout


def name(store: Store, tag: str) -> str:
    """What skopeo calls it."""
    if store.location.startswith(OCI_SCHEME):
        return f"docker://{store.location.removeprefix(OCI_SCHEME)}:{tag}"
    return f"oci:{store.location}:{tag}"


def carry(source: Store, target: Store, *tags: str) -> None:
    """Copy tags with skopeo."""
    for tag in tags:
        skopeo(
            "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
            "--dest-tls-verify=false", name(source, tag), name(target, tag),
        )  # fmt: skip


def digests(store: Store, *tags: str) -> list[str]:
    opened = store.open()
    return [opened.read_tag(tag, limit=MAX_MANIFEST)[0].digest for tag in tags]


def elsewhere(store: Store, location: str | Path) -> Store:
    """A place for a copy, and a device of its own that trusts what the first one does."""
    files = store.files / hashlib.sha256(str(location).encode()).hexdigest()
    files.mkdir()
    return replace(store, location=str(location), files=files)


def test_it_reads_the_index_by_version(store: Store, published: Published) -> None:
    raw = skopeo("inspect", "--raw", name(store, published.tag))
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == published.digest
    assert len(json.loads(raw)["manifests"]) == 2


def test_it_reads_each_variant(store: Store, published: Published) -> None:
    for variant in VARIANTS:
        raw = skopeo("inspect", "--raw", name(store, f"{published.tag}-{variant}"))
        manifest = json.loads(raw)
        assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"


def test_it_reads_the_signed_metadata(store: Store, published: Published) -> None:
    manifest = json.loads(skopeo("inspect", "--raw", name(store, "tuf")))
    titles = [
        layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]
    ]
    assert {"1.root.json", "timestamp.json", "1.pets-ci.json"} <= set(titles)


def test_a_copy_to_a_directory_keeps_every_digest_and_verifies(
    store: Store, published: Published, tmp_path: Path
) -> None:
    copied = elsewhere(store, tmp_path / "copy")
    carry(store, copied, "v1", "tuf")
    assert copied.open().tags() == ["tuf", "v1"], "what is a variant's alone has no tag there"
    assert digests(copied, "v1", "tuf") == digests(store, "v1", "tuf")
    assert copied.serving() == store.serving()
    assert copied.read_everything() == store.read_everything()


def test_a_release_goes_to_a_registry_server_and_back(
    store: Store, published: Published, registry: DockerRegistry, tmp_path: Path
) -> None:
    remote = elsewhere(store, registry.location("pets"))
    back = elsewhere(store, tmp_path / "back")
    tags = ("v1", "v1-float16", "v1-float32", "tuf")
    carry(store, remote, *tags)
    carry(remote, back, *tags)
    for copied in (remote, back):
        assert digests(copied, *tags) == digests(store, *tags)
        assert copied.serving() == store.serving()
        assert copied.read_everything() == store.read_everything()


def test_what_it_copied_can_be_published_to(
    store: Store, published: Published, tmp_path: Path
) -> None:
    copied = elsewhere(store, tmp_path / "copy")
    carry(store, copied, "v1", "tuf")
    again = copied.publish({"float32": b"another"})
    assert again.version == 2
    assert [release.version for release in copied.read_everything()] == [1, 2]


def test_what_edgeline_copied_it_copies_back(
    store: Store, published: Published, registry: DockerRegistry, tmp_path: Path
) -> None:
    remote = elsewhere(store, registry.location("pets"))
    copy(store.open(), open_for_writing(remote.location), root=store.root)
    back = elsewhere(store, tmp_path / "back")
    carry(remote, back, "v1", "v1-float16", "v1-float32", "tuf")
    assert back.serving() == store.serving()
    assert back.read_everything() == store.read_everything()


def test_what_it_copied_survives_the_servers_garbage_collection(
    store: Store, published: Published, registry: DockerRegistry
) -> None:
    """With the tags of the variants, that is: without them the server would remove these."""
    remote = elsewhere(store, registry.location("pets"))
    carry(store, remote, "v1", "v1-float16", "v1-float32", "tuf")
    registry.collect_garbage()
    assert remote.read_everything() == store.read_everything()
