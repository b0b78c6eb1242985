"""Publishing: the same content is one release, and the channel's signers vouch for it."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.errors import ConflictError, NotFoundError, RegistryError
from edgeline.publish import release
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Repository
from edgeline.publish.store import open_for_writing
from edgeline.registry.format import (
    MAX_MANIFEST,
    MODEL_CONFIG,
    Descriptor,
    ReleaseRef,
    parse_version_tag,
)
from tests.edge.hooks import hooked

if TYPE_CHECKING:
    from tests.edge.conftest import Store


def _read_json(store: "Store", entry: dict[str, Any]) -> dict[str, Any]:
    descriptor = Descriptor.from_json(entry)
    reader = store.open()
    is_blob = descriptor.media_type == MODEL_CONFIG
    read = reader.read_blob if is_blob else reader.read_manifest
    document = json.loads(read(descriptor, limit=MAX_MANIFEST))
    assert isinstance(document, dict)
    return document


def test_a_release_is_an_index_of_modelpack_manifests(any_store: "Store") -> None:
    published = any_store.publish({"float32": b"large weights", "int8": b"weights"})
    assert any_store.open().tags() == ["tuf", "tuf-1", "tuf-2", "v1", "v1-float32", "v1-int8"]
    assert published.index.media_type == "application/vnd.oci.image.index.v1+json"
    index = _read_json(any_store, published.index.to_json())
    assert index["mediaType"] == published.index.media_type
    assert index["annotations"]["dev.edgeline.model"] == "pets"
    for entry, name in zip(index["manifests"], ("float32", "int8"), strict=True):
        assert entry.keys() == {"mediaType", "digest", "size", "annotations"}
        assert entry["annotations"] == {"dev.edgeline.variant": name}
        tagged, _ = any_store.open().read_tag(f"v1-{name}", limit=MAX_MANIFEST)
        assert tagged.digest == entry["digest"]
        _check_modelpack(any_store, entry)


def _check_modelpack(store: "Store", entry: dict[str, Any]) -> None:
    manifest = _read_json(store, entry)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    for annotation in ("org.cncf.model.filepath", "org.opencontainers.image.title"):
        files = [layer["annotations"][annotation] for layer in manifest["layers"]]
        assert files == ["model.tflite", "preprocessing.json", "verdict.json"]
    config = _read_json(store, manifest["config"])
    assert config["config"]["format"] == "tflite"
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert config["modelfs"] == {"type": "layers", "diffIds": digests}


def test_everything_about_a_release_travels_with_it(any_store: "Store") -> None:
    any_store.publish(
        {"float32": b"weights"},
        verdict=b"verdict",
        report=b"<!doctype html>",
        provenance=b"envelope",
        golden=b"golden",
    )
    any_store.publish(model="others")
    reader, served = any_store.reader, any_store.serving()
    assert reader.read_verdict(served) == b"verdict"
    assert reader.read_report(served) == b"<!doctype html>"
    assert reader.read_provenance(served) == b"envelope"
    assert reader.read_golden(served.variants[0]) == b"golden"
    assert reader.read_model(served.variants[0]) == b"weights"

    other = any_store.serving("others")
    assert reader.read_report(other) is None
    assert reader.read_provenance(other) is None
    assert reader.read_golden(other.variants[0]) is None


def test_the_same_content_again_is_the_same_release(any_store: "Store") -> None:
    first = any_store.publish({"float32": b"one", "int8": b"two"})
    tags = any_store.open().tags()
    again = any_store.publish({"int8": b"two", "float32": b"one"})
    assert (first.version, first.tag, first.created) == (1, "v1", True)
    assert (again.version, again.index, again.created) == (1, first.index, False)
    assert any_store.open().tags() == tags, "nothing was signed anew"


def test_the_same_content_elsewhere_has_the_same_digest(any_store: "Store") -> None:
    first = any_store.publish({"float32": b"1"}, model="cats")
    any_store.publish({"float32": b"2"}, model="cats")
    elsewhere = any_store.elsewhere()
    elsewhere.publish({"float32": b"2"}, model="cats")
    assert elsewhere.publish({"float32": b"1"}, model="cats").digest == first.digest


def test_publishing_old_content_moves_the_channel_back(any_store: "Store") -> None:
    old = any_store.publish({"float32": b"1"})
    any_store.publish({"float32": b"2"})
    again = any_store.publish({"float32": b"1"})
    assert (again.version, again.digest, again.created) == (1, old.digest, False)
    assert any_store.serving().version == 1
    assert any_store.reader.versions() == [1, 2]


def test_models_measured_again_stay_the_release_that_the_channel_serves(
    any_store: "Store",
) -> None:
    served = any_store.publish({"float32": b"1"}, verdict=b"passed")
    again = any_store.publish({"float32": b"1"}, verdict=b"passed, a millisecond faster")
    assert (again.version, again.digest, again.created) == (1, served.digest, False)
    assert any_store.reader.read_verdict(any_store.serving()) == b"passed"
    more = any_store.publish({"float32": b"1", "int8": b"2"}, verdict=b"passed")
    assert (more.version, more.created) == (2, True), "another set of variants is another release"


def test_models_that_a_channel_served_before_come_back_as_the_release_they_were(
    any_store: "Store",
) -> None:
    """Whatever was promoted in between, and whatever they are measured against now."""
    first = any_store.publish({"float32": b"1"}, verdict=b"passed, compared with nothing")
    second = any_store.publish({"float32": b"2"}, channel="production")
    any_store.repository().point("pets", "candidate", ReleaseRef(second.version, second.index))
    again = any_store.publish({"float32": b"1"}, verdict=b"passed, compared with v2")
    assert (again.version, again.digest, again.created) == (1, first.digest, False)
    assert any_store.serving().version == 1
    assert any_store.reader.versions() == [1, 2]


def test_models_with_another_contract_are_another_release(any_store: "Store") -> None:
    any_store.publish({"float32": b"1"})
    contract = replace(any_store.contract, max_side=256)
    again = replace(any_store, contract=contract).publish({"float32": b"1"})
    assert (again.version, again.created) == (2, True)
    assert any_store.serving().contract == contract


def test_another_channel_gets_the_same_release(any_store: "Store") -> None:
    first = any_store.publish(channel="candidate")
    second = any_store.publish(channel="production")
    assert (second.version, second.digest, second.created) == (1, first.digest, False)
    assert any_store.serving(channel="production") == any_store.serving(channel="candidate")


def test_versions_are_counted_per_store_and_channels_per_model(any_store: "Store") -> None:
    any_store.publish(model="cats", channel="candidate")
    any_store.publish(model="dogs", channel="candidate")
    any_store.publish(model="cats", channel="production")
    reader = any_store.reader
    models = [reader.open_version(version).model for version in reader.versions()]
    assert models == ["cats", "dogs"]
    channels = [(each.model, each.name) for each in any_store.channels.channels()]
    assert channels == [("cats", "candidate"), ("cats", "production"), ("dogs", "candidate")]


def test_a_version_that_only_a_channel_names_is_not_given_again(any_store: "Store") -> None:
    """As in a partial copy, or where somebody removed a tag."""
    any_store.publish({"float32": b"1"})
    any_store.publish({"float32": b"2"})
    open_for_writing(any_store.location).remove(["v2", "v2-float32"])
    assert any_store.publish({"float32": b"3"}, model="cats").version == 3


def test_what_a_crash_left_without_a_version_gets_one(any_store: "Store") -> None:
    published = any_store.publish({"float32": b"1"}, model="cats")
    other = any_store.elsewhere()
    writer = open_for_writing(other.location)

    def crash(step: str, _: object) -> None:
        if step == "commit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        other.publish({"float32": b"1"}, model="cats", writer=hooked(writer, before=crash))
    assert other.reader.versions() == []
    again = other.publish({"float32": b"1"}, model="cats")
    assert (again.version, again.digest, again.created) == (1, published.digest, True)


@pytest.mark.parametrize("part", ["index", "manifest", "model", "verdict"])
def test_publishing_again_repairs(part: str, store: "Store") -> None:
    store.publish()
    served = store.serving()
    damaged = {
        "index": served.index,
        "manifest": served.variants[0].manifest,
        "model": served.variants[0].model,
        "verdict": served.verdict,
    }[part]
    store.blob(damaged.digest).write_bytes(b"X")
    with pytest.raises(RegistryError):
        store.read_everything()
    again = store.publish()
    assert (again.version, again.index, again.created) == (1, served.index, False)
    assert len(store.read_everything()) == 1


def test_damage_to_an_old_release_does_not_stop_a_new_one(store: "Store") -> None:
    store.publish({"float32": b"1"})
    second = store.publish({"float32": b"2"})
    store.publish({"float32": b"3"})
    store.blob(store.reader.open_version(1).digest).unlink()
    store.blob(store.reader.open_version(3).digest).write_bytes(b"{}")
    assert store.publish({"float32": b"2"}).version == second.version == 2
    assert store.publish({"float32": b"4"}).version == 4


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({"model": "../pets"}, id="a model that climbs out"),
        pytest.param({"model": "Pets"}, id="a model in capitals"),
        pytest.param({"model": ""}, id="a model without a name"),
        pytest.param({"model": "a" * 64}, id="a model with a long name"),
        pytest.param({"channel": "a.b"}, id="a channel with a dot"),
        pytest.param({"channel": "canary\n"}, id="a channel with a line break"),
    ],
)
def test_refuses(names: dict[str, Any], any_store: "Store") -> None:
    with pytest.raises(RegistryError, match="is named by at most 63"):
        any_store.publish(**names)
    assert any_store.open().tags() == ["tuf", "tuf-1"]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="no variant"),
        pytest.param(["int8", "int8"], id="a variant twice"),
        pytest.param(["int8-io"], id="a variant with a dash"),
        pytest.param([f"v{number}" for number in range(65)], id="too many variants"),
    ],
)
def test_refuses_variants(names: list[str], store: "Store") -> None:
    model = store.files / "model.tflite"
    model.write_bytes(b"weights")
    with pytest.raises(RegistryError, match="variant"):
        publish(
            store.repository(),
            model="pets",
            channel="candidate",
            variants=[VariantFiles(name, model) for name in names],
            preprocessing=store.contract,
            verdict=b"{}",
        )


def _publish_with(store: "Store", *keys: str, channel: str = "candidate") -> None:
    writer = open_for_writing(store.location)
    model = store.files / "model.tflite"
    model.write_bytes(b"weights")
    publish(
        Repository(writer, root=store.root, signers=store.authority.signers_of(*keys)),
        model="pets",
        channel=channel,
        variants=[VariantFiles("float32", model)],
        preprocessing=store.contract,
        verdict=b"{}",
    )


def test_the_pipelines_keys_publish_candidates_and_nothing_for_production(
    any_store: "Store",
) -> None:
    with pytest.raises(RegistryError, match="pets-release"):
        _publish_with(any_store, "ci", "online", channel="production")
    with pytest.raises(RegistryError, match="snapshot"):
        _publish_with(any_store, "ci")
    assert any_store.open().tags() == ["tuf", "tuf-1"], "nothing was written before"
    _publish_with(any_store, "ci", "online")
    assert any_store.serving().version == 1


def test_a_model_without_keys_is_not_published(any_store: "Store") -> None:
    with pytest.raises(NotFoundError, match="has no model 'birds'; it has cats, dogs"):
        any_store.publish(model="birds")


def test_a_directory_without_keys_is_not_published_to(store: "Store") -> None:
    empty = store.files / "empty"
    writer = open_for_writing(str(empty))
    repository = Repository(writer, root=store.root, signers=store.authority.signers)
    with pytest.raises(NotFoundError, match="edgeline registry init"):
        publish(
            repository,
            model="pets",
            channel="candidate",
            variants=[VariantFiles("float32", store.files / "missing.tflite")],
            preprocessing=store.contract,
            verdict=b"{}",
        )
    assert not empty.exists()


def test_a_model_file_that_is_missing_or_empty_is_not_published(any_store: "Store") -> None:
    with pytest.raises(RegistryError, match="has 0 bytes"):
        any_store.publish({"float32": b""})
    (any_store.files / "folder.tflite").mkdir()
    for name in ("missing.tflite", "folder.tflite"):
        with pytest.raises(RegistryError, match=name):
            publish(
                any_store.repository(),
                model="pets",
                channel="candidate",
                variants=[VariantFiles("float32", any_store.files / name)],
                preprocessing=any_store.contract,
                verdict=b"{}",
            )
    assert any_store.reader.versions() == []
    assert any_store.publish({"float32": b"weights"}).version == 1


def _is_claim(step: str, argument: Any) -> bool:
    return step == "commit" and parse_version_tag(argument[0][0]) is not None


def test_a_version_that_was_lost_to_another_publisher_is_followed_by_the_next(
    server_store: "Store",
) -> None:
    """On a server, which has no lock: the other one is faster between the look and the claim."""
    others = iter([b"first", b"second"])

    def publish_another(step: str, argument: Any) -> None:
        content = next(others, None) if _is_claim(step, argument) else None
        if content is not None:
            server_store.publish({"float32": content}, model="dogs")

    writer = hooked(open_for_writing(server_store.location), before=publish_another)
    published = server_store.publish({"float32": b"mine"}, writer=writer)
    assert published.version == 3
    contents = [
        server_store.reader.read_model(each.variants[0]) for each in server_store.read_everything()
    ]
    assert contents == [b"first", b"second", b"mine"]
    assert server_store.serving("dogs").version == 2
    assert server_store.serving("pets").version == 3


def test_the_same_content_that_another_publisher_claims_first_is_one_release(
    server_store: "Store",
) -> None:
    once = iter([True])

    def publish_the_same(step: str, argument: Any) -> None:
        if _is_claim(step, argument) and next(once, False):
            server_store.publish({"float32": b"same"}, channel="canary")

    writer = hooked(open_for_writing(server_store.location), before=publish_the_same)
    published = server_store.publish({"float32": b"same"}, writer=writer)
    assert (published.version, published.created) == (1, False)
    assert server_store.reader.versions() == [1]
    assert server_store.serving(channel="canary") == server_store.serving(channel="candidate")


def test_a_publisher_that_never_gets_a_version_says_so(
    any_store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "_LONGEST_PAUSE", 0.0)

    def lose(step: str, argument: Any) -> None:
        if _is_claim(step, argument):
            raise ConflictError("somebody else was faster")

    writer = hooked(open_for_writing(any_store.location), before=lose)
    with pytest.raises(ConflictError, match="20 times in a row"):
        any_store.publish(writer=writer)
    assert any_store.open().tags() == ["tuf", "tuf-1"]


def test_a_store_without_versions_left_says_so(store: "Store") -> None:
    published = store.publish()
    writer = open_for_writing(store.location)
    writer.commit([("v999999999", published.index)], expected={})
    with pytest.raises(RegistryError, match="no versions left"):
        store.publish({"float32": b"another"})
