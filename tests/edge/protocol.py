"""What a store on a registry server does, as cases that run against any server.

Each case gets the location of a repository to which nothing was pushed yet.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from edgeline.errors import ConflictError, IntegrityError, NotFoundError, RegistryError
from edgeline.publish.garbage import Collected
from edgeline.publish.remote import RemoteWriter
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE_ANNOTATION,
    WEIGHTS,
    Descriptor,
)
from edgeline.registry.remote import RemoteStore
from edgeline.registry.store import Connection

Case = Callable[[str, Connection], None]

CASES: list[Case] = []
LIMIT = 1 << 20
ABSENT = Descriptor(WEIGHTS, f"sha256:{'0' * 64}", 3)


def case(function: Case) -> Case:
    """Put a function among the cases."""
    CASES.append(function)
    return function


def manifest(config: Descriptor, *layers: Descriptor) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": MODEL_MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
    ).encode()


def index(*children: Descriptor) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [child.to_json() for child in children],
        }
    ).encode()


def put(writer: RemoteWriter, content: bytes) -> Descriptor:
    """Store a manifest of one layer with this content, untagged."""
    config = writer.put_blob(b"{}", EMPTY_CONFIG, limit=LIMIT)
    layer = writer.put_blob(content, WEIGHTS, limit=LIMIT)
    return writer.put_manifest(manifest(config, layer), OCI_MANIFEST)


def put_release(writer: RemoteWriter, *variants: bytes) -> tuple[Descriptor, list[Descriptor]]:
    """Store an index and its manifests, untagged."""
    children = [put(writer, content) for content in variants]
    return writer.put_manifest(index(*children), OCI_INDEX), children


@case
def a_repository_to_which_nothing_was_pushed_has_no_tags(at: str, how: Connection) -> None:
    assert RemoteStore(at, how).tags() == []


@case
def a_blob_comes_back_as_it_was_put(at: str, how: Connection) -> None:
    blob = RemoteWriter(at, how).put_blob(b"weights", WEIGHTS, limit=LIMIT, name="model.tflite")
    assert (blob.media_type, blob.size) == (WEIGHTS, 7)
    assert blob.annotations == {TITLE_ANNOTATION: "model.tflite"}
    assert RemoteStore(at, how).read_blob(blob, limit=LIMIT) == b"weights"


@case
def a_large_file_comes_back_as_it_was_put(at: str, how: Connection) -> None:
    content = bytes(range(256)) * 8192
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model")
        file.write_bytes(content)
        blob = RemoteWriter(at, how).put_blob(file, WEIGHTS, limit=len(content))
    assert RemoteStore(at, how).read_blob(blob, limit=len(content)) == content


@case
def a_blob_is_streamed_from_any_offset(at: str, how: Connection) -> None:
    content = bytes(range(256)) * 4096
    blob = RemoteWriter(at, how).put_blob(content, WEIGHTS, limit=len(content))
    store = RemoteStore(at, how)
    for offset in (0, 1, 300_000, len(content) - 1, len(content)):
        assert b"".join(store.stream_blob(blob, offset=offset)) == content[offset:]


@case
def a_writer_knows_which_blobs_are_there(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    blob = writer.put_blob(b"weights", WEIGHTS, limit=LIMIT)
    assert writer.has_blob(blob)
    assert not writer.has_blob(ABSENT)


@case
def what_is_missing_is_not_found(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    for _ in range(2):  # in a repository that does not exist, and in one that does
        with pytest.raises(NotFoundError, match="reading tag 'v1' failed: it is not there"):
            writer.read_tag("v1", limit=LIMIT)
        with pytest.raises(NotFoundError):
            writer.read_manifest(ABSENT, limit=LIMIT)
        with pytest.raises(NotFoundError):
            writer.read_blob(ABSENT, limit=LIMIT)
        with pytest.raises(NotFoundError):
            next(writer.stream_blob(ABSENT, offset=1))
        put(writer, b"something else")


@case
def a_manifest_is_read_by_tag_and_by_digest(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    release, (child,) = put_release(writer, b"weights")
    writer.commit([("v1", release), ("v1-float32", child)], expected={"v1": None})
    reader = RemoteStore(at, how)
    for tag, descriptor in (("v1", release), ("v1-float32", child)):
        found, content = reader.read_tag(tag, limit=MAX_MANIFEST)
        assert found == descriptor
        assert reader.read_manifest(descriptor, limit=MAX_MANIFEST) == content


@case
def a_manifest_without_its_blobs_is_refused(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    config = writer.put_blob(b"{}", EMPTY_CONFIG, limit=LIMIT)
    with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
        writer.put_manifest(manifest(config, ABSENT), OCI_MANIFEST)
    with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
        writer.put_manifest(index(ABSENT), OCI_INDEX)


@case
def what_has_more_than_the_limit_is_not_read(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    child = put(writer, b"weights")
    writer.commit([("v1", child)], expected={})
    with pytest.raises(IntegrityError):
        writer.read_tag("v1", limit=child.size - 1)
    with pytest.raises(IntegrityError):
        writer.read_manifest(child, limit=child.size - 1)


@case
def tags_are_listed_sorted(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    child = put(writer, b"weights")
    tags = ["v10", "tuf", "v1-int8", "v2", "v1"]
    writer.commit([(tag, child) for tag in tags], expected={})
    assert RemoteStore(at, how).tags() == sorted(tags)


@case
def a_tag_is_set_when_it_is_as_expected(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    first, second = put(writer, b"first"), put(writer, b"second")
    writer.commit([("tuf", first)], expected={"tuf": None})
    writer.commit([("tuf", second)], expected={"tuf": first.digest, "other": None})
    assert writer.read_tag("tuf", limit=LIMIT)[0] == second


@case
def nothing_is_set_when_a_tag_is_not_as_expected(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    first, second = put(writer, b"first"), put(writer, b"second")
    writer.commit([("tuf", first)], expected={})
    for expected in (None, second.digest):
        with pytest.raises(ConflictError, match=f"'tuf'.*found {first.digest}"):
            writer.commit([("v1", second), ("tuf", second)], expected={"tuf": expected})
    with pytest.raises(ConflictError, match=r"'v7'.*found none"):
        writer.commit([("v1", second)], expected={"v7": first.digest})
    assert writer.tags() == ["tuf"]
    assert writer.read_tag("tuf", limit=LIMIT)[0] == first


@case
def removing_tags_removes_their_manifests(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    old, (old_child,) = put_release(writer, b"old")
    new, (new_child,) = put_release(writer, b"new")
    writer.commit([("v1", old), ("v1-a", old_child), ("v2", new), ("v2-a", new_child)], expected={})
    writer.remove(["v1-a", "v1", "v9"])
    assert writer.tags() == ["v2", "v2-a"]
    for gone in (old, old_child):
        with pytest.raises(NotFoundError):
            writer.read_manifest(gone, limit=LIMIT)
    writer.remove(["v2", "v2-a"])
    assert writer.tags() == []


@case
def a_manifest_with_a_tag_that_stays_is_left_alone(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    shared, other = put(writer, b"shared"), put(writer, b"other")
    writer.commit([("v1", shared), ("v2", shared), ("v3", other)], expected={})
    with pytest.raises(RegistryError, match=r"v1 \(also v2\)"):
        writer.remove(["v1", "v3"])
    assert writer.tags() == ["v1", "v2"]


@case
def collecting_is_left_to_the_server(at: str, how: Connection) -> None:
    writer = RemoteWriter(at, how)
    blob = writer.put_blob(b"orphan", WEIGHTS, limit=LIMIT)
    with writer.exclusive(), writer.exclusive():
        assert writer.collect(grace=timedelta(0)) == Collected(0, 0, 0)
    assert writer.read_blob(blob, limit=LIMIT) == b"orphan"
