"""Reading: a registry that was tampered with is refused, whatever was done to it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.errors import EdgelineError, IntegrityError, NotFoundError, RegistryError
from edgeline.registry.format import Descriptor
from edgeline.registry.reader import LayoutReader

if TYPE_CHECKING:
    from tests.edge.conftest import Store


def _read_everything(path: Path) -> None:
    reader = LayoutReader(path)
    release = reader.open_release("pets", "candidate")
    reader.read_verdict(release)
    reader.read_model(release.variant("float32"))


def _digests(store: "Store") -> dict[str, str]:
    release = LayoutReader(store.path).open_tag("v1")
    variant = release.variant("float32")
    return {
        "index": release.digest,
        "manifest": variant.manifest.digest,
        "model": variant.model.digest,
        "verdict": release.verdict.digest,
    }


def test_a_release_is_found_by_channel_and_by_tag(store: "Store") -> None:
    published = store.publish({"float32": b"large weights", "int8": b"weights"})
    reader = LayoutReader(str(store.path))
    release = reader.open_release("pets", "candidate")
    assert release == reader.open_tag("v1") == reader.releases()[0]
    assert (release.model, release.version, release.tag) == ("pets", 1, "v1")
    assert release.digest == published.digest == reader.resolve("v1").digest
    assert release.contract == store.contract
    assert release.channels == ("candidate",)
    assert reader.read_verdict(release) == b"{}"
    assert [variant.name for variant in release.variants] == ["float32", "int8"]
    assert reader.read_model(release.variant("float32")) == b"large weights"


def test_the_default_variant_has_the_smallest_file(store: "Store") -> None:
    store.publish({"float32": b"large weights", "int8": b"weights", "float16": b"some weights"})
    assert LayoutReader(store.path).open_tag("v1").variant().name == "int8"


def test_a_channel_is_resolved_to_a_digest(store: "Store") -> None:
    published = store.publish(channel="candidate")
    reader = LayoutReader(store.path)
    candidate = reader.channel("pets", "candidate")
    assert candidate is not None
    assert candidate.digest == published.digest
    assert reader.channel("pets", "production") is None
    assert reader.channel("birds", "candidate") is None


def test_what_is_not_there_is_named_with_what_is(store: "Store") -> None:
    store.publish()
    reader = LayoutReader(store.path)
    with pytest.raises(NotFoundError, match=r"it has pets\.candidate"):
        reader.open_release("pets", "production")
    with pytest.raises(NotFoundError, match="it has v1"):
        reader.open_tag("v2")
    with pytest.raises(NotFoundError, match="it has float32"):
        reader.open_tag("v1").variant("int8")
    with pytest.raises(NotFoundError, match="no tag 'v9'"):
        reader.resolve("v9")


def test_a_path_that_is_no_registry_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFoundError, match="is not a model registry"):
            LayoutReader(path)
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError):
        LayoutReader(tmp_path / "file")


@pytest.mark.parametrize("blob", ["index", "manifest", "model", "verdict"])
class TestRefusesA:
    """Every blob is refused alike, whichever it is and whatever was done to it."""

    def test_tampered(self, blob: str, store: "Store") -> None:
        store.publish()
        path = store.blob(_digests(store)[blob])
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match="changed or damaged"):
            _read_everything(store.path)

    def test_truncated(self, blob: str, store: "Store") -> None:
        store.publish()
        path = store.blob(_digests(store)[blob])
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(IntegrityError, match="changed or damaged"):
            _read_everything(store.path)

    def test_grown(self, blob: str, store: "Store") -> None:
        store.publish()
        with store.blob(_digests(store)[blob]).open("ab") as file:
            file.truncate(1 << 40)  # sparse: it would not fit into memory
        with pytest.raises(IntegrityError, match="expected there"):
            _read_everything(store.path)

    def test_missing(self, blob: str, store: "Store") -> None:
        store.publish()
        store.blob(_digests(store)[blob]).unlink()
        with pytest.raises(NotFoundError, match="does not exist"):
            _read_everything(store.path)

    def test_symlinked(self, blob: str, store: "Store", tmp_path: Path) -> None:
        store.publish()
        path = store.blob(_digests(store)[blob])
        path.symlink_to(path.rename(tmp_path / "moved"))
        with pytest.raises(IntegrityError, match="cannot be opened"):
            _read_everything(store.path)

    def test_pipe(self, blob: str, store: "Store") -> None:
        store.publish()
        path = store.blob(_digests(store)[blob])
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(IntegrityError, match="not a regular file"):
            _read_everything(store.path)


def test_a_symlinked_folder_of_blobs_is_refused(store: "Store", tmp_path: Path) -> None:
    store.publish()
    blobs = store.path / "blobs" / "sha256"
    blobs.symlink_to(blobs.rename(tmp_path / "moved"))
    with pytest.raises(IntegrityError, match="cannot be opened"):
        _read_everything(store.path)


def test_a_descriptor_larger_than_its_kind_allows_is_not_read(store: "Store") -> None:
    store.publish()
    descriptor = LayoutReader(store.path).open_tag("v1").verdict
    with pytest.raises(IntegrityError, match="at most 1 are allowed"):
        LayoutReader(store.path).read_blob(descriptor, limit=1)


Index = dict[str, Any]


def _drop_annotations(index: Index) -> None:
    del index["annotations"]


def _set_first(key: str, value: object) -> Callable[[Index], None]:
    def change(index: Index) -> None:
        index["manifests"][0][key] = value

    return change


def _set(key: str, value: object) -> Callable[[Index], None]:
    def change(index: Index) -> None:
        index[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_set_first("digest", "sha256:../../../../etc/passwd"), id="a path in it"),
        pytest.param(_set_first("digest", f"sha256:{'A' * 64}"), id="capitals in it"),
        pytest.param(_set_first("digest", f"sha256:{'a' * 64}\n"), id="a line break in it"),
        pytest.param(_set_first("digest", f"sha512:{'a' * 128}"), id="another algorithm"),
        pytest.param(_set_first("digest", None), id="no digest"),
        pytest.param(_set_first("size", -1), id="a negative size"),
        pytest.param(_set_first("size", True), id="a size that is a boolean"),
        pytest.param(_set_first("size", 1 << 30), id="a manifest of a gigabyte"),
        pytest.param(_set_first("size", 10), id="a size that is too small"),
        pytest.param(_set_first("mediaType", 1), id="a media type that is a number"),
        pytest.param(_set_first("annotations", None), id="annotations that are null"),
        pytest.param(_set_first("annotations", {"dev.edgeline.variant": 1}), id="a numeric name"),
        pytest.param(_set_first("annotations", {"dev.edgeline.variant": "\x1b"}), id="an escape"),
        pytest.param(_set_first("annotations", {}), id="a variant without a name"),
        pytest.param(_set("manifests", []), id="no variants"),
        pytest.param(_set("manifests", {}), id="variants that are no list"),
        pytest.param(_set("manifests", ["x"]), id="a variant that is a string"),
        pytest.param(_set("mediaType", "text/plain"), id="another media type"),
        pytest.param(_set("schemaVersion", 1), id="another schema"),
        pytest.param(_set("annotations", {"dev.edgeline.model": "birds"}), id="another model"),
        pytest.param(_set("annotations", {"dev.edgeline.model": "../x"}), id="a hostile model"),
        pytest.param(_drop_annotations, id="no model"),
        pytest.param(lambda index: index["manifests"].append(index["manifests"][0]), id="a twin"),
    ],
)
def test_refuses_a_release_with(change: Callable[[Index], None], store: "Store") -> None:
    """The publisher is hostile: digest and size are right, and the content is not."""
    published = store.publish()
    index = json.loads(store.blob(published.digest).read_bytes())
    change(index)
    _replace_release(store, json.dumps(index).encode())
    with pytest.raises(RegistryError):
        _read_everything(store.path)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half of JSON"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff", id="bytes that are not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"schemaVersion": 2, "schemaVersion": 2}', id="a key twice"),
    ],
)
def test_refuses_a_release_that_is(data: bytes, store: "Store") -> None:
    store.publish()
    _replace_release(store, data)
    with pytest.raises(IntegrityError):
        _read_everything(store.path)


def _replace_release(store: "Store", data: bytes) -> None:
    """Make v1 and the channel point at other bytes, with their right digest and size."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    store.blob(digest).write_bytes(data)
    path = store.path / "index.json"
    document = json.loads(path.read_bytes())
    for entry in document["manifests"]:
        if entry["mediaType"] == "application/vnd.oci.image.index.v1+json":
            entry |= {"digest": digest, "size": len(data)}
    path.write_text(json.dumps(document))


def test_manifests_that_are_not_modelpacks_are_refused(store: "Store") -> None:
    published = store.publish()
    index = json.loads(store.blob(published.digest).read_bytes())
    manifest = json.loads(store.blob(index["manifests"][0]["digest"]).read_bytes())
    weights, contract, verdict = manifest["layers"]
    changes: tuple[dict[str, Any], ...] = (
        {"artifactType": "application/vnd.example"},
        {"layers": [weights, contract]},
        {"layers": [weights, verdict]},
        {"layers": [contract, verdict]},
        {"layers": [weights, weights, contract, verdict]},
        {"layers": {}},
    )
    for change in changes:
        data = json.dumps({**manifest, **change}).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        store.blob(digest).write_bytes(data)
        index["manifests"][0] |= {"digest": digest, "size": len(data)}
        _replace_release(store, json.dumps(index).encode())
        with pytest.raises(IntegrityError):
            _read_everything(store.path)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="no manifests"),
        pytest.param(b'{"manifests": [1]}', id="a number in place of a descriptor"),
        pytest.param(b'{"manifests": [{"annotations": []}]}', id="annotations in a list"),
        pytest.param(
            b'{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "v1"}}]}',
            id="a tag and nothing else",
        ),
    ],
)
def test_refuses_a_store_index_with(data: bytes, store: "Store") -> None:
    store.publish()
    (store.path / "index.json").write_bytes(data)
    with pytest.raises(IntegrityError):
        LayoutReader(store.path).releases()
    with pytest.raises(IntegrityError):
        store.publish()


def test_a_tag_that_is_there_twice_is_refused(store: "Store") -> None:
    store.publish()
    path = store.path / "index.json"
    document = json.loads(path.read_bytes())
    document["manifests"] *= 2
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="is there twice"):
        LayoutReader(store.path).releases()


def test_an_oversized_store_index_is_not_read(store: "Store") -> None:
    store.publish()
    with (store.path / "index.json").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="at most 16777216"):
        LayoutReader(store.path).releases()


def test_a_channel_that_points_at_a_variant_is_refused(store: "Store") -> None:
    store.publish()
    path = store.path / "index.json"
    document = json.loads(path.read_bytes())
    tag = "org.opencontainers.image.ref.name"
    entries = {entry["annotations"][tag]: entry for entry in document["manifests"]}
    child = {**entries["v1-float32"], "annotations": {tag: "pets.candidate"}}
    entries["pets.candidate"] = child
    path.write_text(json.dumps({**document, "manifests": [*entries.values()]}))
    with pytest.raises(EdgelineError, match=r"Expected application/vnd\.oci\.image\.index"):
        _read_everything(store.path)


def test_a_descriptor_survives_the_way_to_json_and_back() -> None:
    for annotations in ({}, {"a": "b"}):
        descriptor = Descriptor("text/plain", f"sha256:{'0' * 64}", 3, annotations)
        assert Descriptor.from_json(descriptor.to_json()) == descriptor
