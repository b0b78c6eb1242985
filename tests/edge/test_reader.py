"""Reading releases: one that was tampered with is refused, whatever was done to it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.errors import EdgelineError, IntegrityError, NotFoundError
from edgeline.publish.store import open_for_writing
from edgeline.registry.format import OCI_INDEX, OCI_MANIFEST, Descriptor, ReleaseRef

if TYPE_CHECKING:
    from tests.edge.conftest import Store

Document = dict[str, Any]
Change = Callable[[Document], object]


def test_a_release_is_found_by_channel_version_digest_and_reference(any_store: "Store") -> None:
    published = any_store.publish({"float32": b"large weights", "int8": b"weights"})
    reader, release = any_store.reader, any_store.serving()
    assert release == reader.open_version(1) == reader.open_digest(published.digest)
    assert release == reader.open(release.ref)
    assert release.ref == ReleaseRef(1, published.index)
    assert (release.model, release.version, release.tag) == ("pets", 1, "v1")
    assert release.digest == published.digest
    assert release.contract == any_store.contract
    assert reader.read_verdict(release) == b"{}"
    assert [variant.name for variant in release.variants] == ["float32", "int8"]
    assert reader.read_model(release.variant("float32")) == b"large weights"


def test_versions_are_in_the_order_of_their_numbers(any_store: "Store") -> None:
    assert any_store.reader.versions() == []
    published = any_store.publish()
    tags = [(tag, published.index) for tag in ("v10", "v9", "v01", "v0", "v1-x", "vx", "V2")]
    open_for_writing(any_store.location).commit(tags, expected={})
    assert any_store.reader.versions() == [1, 9, 10]


def test_what_is_not_there_is_named_with_what_is(any_store: "Store") -> None:
    any_store.publish()
    reader = any_store.reader
    with pytest.raises(NotFoundError, match=r"no release of 'pets' in channel 'production'; "):
        any_store.serving(channel="production")
    with pytest.raises(NotFoundError, match=r"it has pets/candidate"):
        any_store.serving("birds")
    with pytest.raises(NotFoundError, match=r"no release 'v2'; it has v1$"):
        reader.open_version(2)
    with pytest.raises(NotFoundError, match="it has float32"):
        reader.open_version(1).variant("int8")
    with pytest.raises(NotFoundError, match="no intact release with the digest sha256:0"):
        reader.open_digest(f"sha256:{'0' * 64}")


def test_many_versions_are_named_by_their_ends(store: "Store") -> None:
    published = store.publish()
    tags = [(f"v{number}", published.index) for number in (2, 3, 7, 9, 10)]
    open_for_writing(store.location).commit(tags, expected={})
    with pytest.raises(NotFoundError, match=r"it has v1 to v3, v7, v9 to v10$"):
        store.reader.open_version(11)


def test_a_release_is_found_by_digest_though_others_are_damaged(store: "Store") -> None:
    wanted = store.publish({"float32": b"1"})
    for content in (b"2", b"3"):
        damaged = store.publish({"float32": content})
        store.blob(damaged.digest).write_bytes(b"{}")
    assert store.reader.open_digest(wanted.digest).version == 1
    with pytest.raises(NotFoundError, match="no intact release"):
        store.reader.open_digest(damaged.digest)


def test_a_channel_that_serves_another_models_release_is_refused(any_store: "Store") -> None:
    """Whoever signs for one model made a mistake, or would like to be taken for another."""
    published = any_store.publish(model="cats")
    any_store.repository().point("pets", "candidate", ReleaseRef(1, published.index))
    with pytest.raises(IntegrityError, match="points at v1, which is a release of 'cats'"):
        any_store.serving("pets")


@pytest.mark.parametrize("part", ["index", "manifest", "contract", "model", "verdict"])
@pytest.mark.parametrize("damaged", [b"", b"x", None], ids=["empty", "changed", "missing"])
def test_a_damaged_part_is_not_read(part: str, damaged: bytes | None, store: "Store") -> None:
    store.publish()
    release = store.serving()
    variant = release.variants[0]
    manifest = json.loads(store.blob(variant.manifest.digest).read_bytes())
    blob = store.blob(
        {
            "index": release.digest,
            "manifest": variant.manifest.digest,
            "contract": manifest["layers"][1]["digest"],
            "model": variant.model.digest,
            "verdict": release.verdict.digest,
        }[part]
    )
    if damaged is None:
        blob.unlink()
    else:
        blob.write_bytes(damaged)
    with pytest.raises((IntegrityError, NotFoundError)):
        store.read_everything()


def _index_of(store: "Store") -> Document:
    published = store.publish()
    index = json.loads(store.blob(published.digest).read_bytes())
    assert isinstance(index, dict)
    return index


def _stored(store: "Store", content: bytes, media_type: str) -> Descriptor:
    """Store what no publisher would: its digest and its size are right, and it is not."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    store.blob(digest).write_bytes(content)
    return Descriptor(media_type, digest, len(content))


def _open(store: "Store", index: bytes) -> None:
    store.reader.open(ReleaseRef(1, _stored(store, index, OCI_INDEX)))


def _set_first(key: str, value: object) -> Change:
    return lambda index: index["manifests"][0].__setitem__(key, value)


def _multiply(index: Document, times: int) -> None:
    """Add variants that are fine but for their number."""
    (first,) = index["manifests"]
    names = [{"dev.edgeline.variant": f"variant_{number}"} for number in range(times)]
    index["manifests"] += [{**first, "annotations": name} for name in names]


def _set(key: str, value: object) -> Change:
    return lambda document: document.__setitem__(key, value)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_set_first("digest", "sha256:../../../../etc/passwd"), id="a path in it"),
        pytest.param(_set_first("digest", "/etc/passwd"), id="an absolute path"),
        pytest.param(_set_first("digest", f"sha256:{'A' * 64}"), id="capitals in it"),
        pytest.param(_set_first("digest", f"sha256:{'a' * 64}\n"), id="a line break in it"),
        pytest.param(_set_first("digest", f"sha256:{'a' * 1_000_000}"), id="an overlong digest"),
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
        pytest.param(
            _set_first("annotations", {"dev.edgeline.variant": "../int8"}), id="a name with a path"
        ),
        pytest.param(_set_first("annotations", {}), id="a variant without a name"),
        pytest.param(_set("manifests", []), id="no variants"),
        pytest.param(_set("manifests", {}), id="variants that are no list"),
        pytest.param(_set("manifests", ["x"]), id="a variant that is a string"),
        pytest.param(_set("mediaType", "text/plain"), id="another media type"),
        pytest.param(_set("schemaVersion", 1), id="another schema"),
        pytest.param(_set("annotations", {"dev.edgeline.model": "../x"}), id="a hostile model"),
        pytest.param(lambda index: index.pop("annotations"), id="no model"),
        pytest.param(lambda index: index["manifests"].append(index["manifests"][0]), id="a twin"),
        pytest.param(lambda index: _multiply(index, 64), id="too many variants"),
    ],
)
def test_refuses_a_release_with(change: Change, store: "Store") -> None:
    index = _index_of(store)
    change(index)
    with pytest.raises(EdgelineError):
        _open(store, json.dumps(index).encode())


def test_a_release_may_have_as_many_variants_as_publishers_make(store: "Store") -> None:
    index = _index_of(store)
    _multiply(index, 63)
    _open(store, json.dumps(index).encode())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half of JSON"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff", id="bytes that are not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b" " * (1 << 20) + b"{}", id="larger than a manifest may be"),
        pytest.param(b'{"schemaVersion": 2, "schemaVersion": 2}', id="a key twice"),
        pytest.param(b'{"schemaVersion": ' + b"9" * 100_000 + b"}", id="a number without end"),
    ],
)
def test_refuses_a_release_that_is(data: bytes, store: "Store") -> None:
    with pytest.raises(IntegrityError):
        _open(store, data)


def _without(*layers: int) -> Change:
    return lambda manifest: manifest.__setitem__(
        "layers", [layer for i, layer in enumerate(manifest["layers"]) if i not in layers]
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_set("artifactType", "application/vnd.example"), id="no ModelPack"),
        pytest.param(_without(0), id="no weights"),
        pytest.param(_without(1), id="no contract"),
        pytest.param(_without(2), id="no verdict"),
        pytest.param(lambda m: m["layers"].append(m["layers"][0]), id="weights twice"),
        pytest.param(_set("layers", {}), id="layers that are no list"),
        pytest.param(_set("layers", [[]]), id="a layer that is a list"),
        pytest.param(lambda m: m["layers"][1].__setitem__("size", 1 << 40), id="a vast contract"),
    ],
)
def test_refuses_a_manifest_with(change: Change, store: "Store") -> None:
    index = _index_of(store)
    manifest = json.loads(store.blob(index["manifests"][0]["digest"]).read_bytes())
    change(manifest)
    _replace_first(store, index, manifest)
    with pytest.raises(IntegrityError):
        _open(store, json.dumps(index).encode())


def _replace_first(store: "Store", index: Document, manifest: Mapping[str, Any]) -> None:
    child = _stored(store, json.dumps(manifest).encode(), OCI_MANIFEST)
    index["manifests"][0] |= {"digest": child.digest, "size": child.size}


def test_variants_that_passed_by_different_verdicts_are_refused(store: "Store") -> None:
    published = store.publish({"float32": b"1", "int8": b"2"})
    index = json.loads(store.blob(published.digest).read_bytes())
    manifest = json.loads(store.blob(index["manifests"][0]["digest"]).read_bytes())
    verdict = _stored(store, b"another", manifest["layers"][2]["mediaType"])
    manifest["layers"][2] |= {"digest": verdict.digest, "size": verdict.size}
    _replace_first(store, index, manifest)
    with pytest.raises(IntegrityError, match="one contract, verdict, report and provenance"):
        _open(store, json.dumps(index).encode())


def test_a_vast_layer_is_not_read(store: "Store") -> None:
    """What the manifest says of its size is believed only up to what its kind may have."""
    index = _index_of(store)
    manifest = json.loads(store.blob(index["manifests"][0]["digest"]).read_bytes())
    manifest["layers"][0]["size"] = 1 << 40
    manifest["layers"][2]["size"] = 1 << 40
    _replace_first(store, index, manifest)
    stored = _stored(store, json.dumps(index).encode(), OCI_INDEX)
    release = store.reader.open(ReleaseRef(1, stored))
    with pytest.raises(IntegrityError, match="at most 2147483648 are allowed"):
        store.reader.read_model(release.variants[0])
    with pytest.raises(IntegrityError, match="at most 16777216 are allowed"):
        store.reader.read_verdict(release)


def test_a_version_that_names_a_variant_is_refused(store: "Store") -> None:
    store.publish()
    writer = open_for_writing(store.location)
    child, _ = writer.read_tag("v1-float32", limit=1 << 20)
    writer.commit([("v2", child)], expected={})
    with pytest.raises(IntegrityError, match=r"Expected application/vnd\.oci\.image\.index"):
        store.reader.open_version(2)


def test_a_descriptor_survives_the_way_to_json_and_back() -> None:
    for annotations in ({}, {"a": "b"}):
        descriptor = Descriptor("text/plain", f"sha256:{'0' * 64}", 3, annotations)
        assert Descriptor.from_json(descriptor.to_json()) == descriptor
