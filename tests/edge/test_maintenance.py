"""Copies of stores, and the removal of what nobody needs: nothing is lost that is signed for."""

import tempfile
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from edgeline.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    TrustError,
)
from edgeline.key_files import generate_key
from edgeline.publish import copying, maintenance, remote
from edgeline.publish.copying import Copied, copy
from edgeline.publish.garbage import Collected
from edgeline.publish.keys import Signers
from edgeline.publish.maintenance import Swept, gc
from edgeline.publish.repository import Repository
from edgeline.publish.store import open_for_writing
from edgeline.registry.format import MAX_MANIFEST, TUF_METADATA, Descriptor
from tests.edge.hooks import hooked
from tests.edge.servers import RegistryServer

if TYPE_CHECKING:
    from tests.edge.conftest import Store

NOW = timedelta()
ONE = {"float32": b"1", "int8": b"1, smaller"}
TWO = {"float32": b"2", "int8": b"2, smaller"}
THREE = {"float32": b"3"}


def digests(store: "Store") -> dict[str, str]:
    opened = store.open()
    return {tag: opened.read_tag(tag, limit=MAX_MANIFEST)[0].digest for tag in opened.tags()}


def copied(source: "Store", target: "Store", *versions: int, **options: Any) -> Copied:
    return copy(
        source.open(),
        open_for_writing(target.location),
        versions or None,
        root=source.root,
        **options,
    )


@pytest.fixture(params=["directory to directory", "directory to server", "server to directory"])
def pair(
    request: pytest.FixtureRequest, store: "Store", monkeypatch: pytest.MonkeyPatch
) -> tuple["Store", "Store"]:
    """A registry with keys, and a place where there is none yet."""
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)  # there is one writer at a time
    source_kind, _, target_kind = request.param.partition(" to ")
    source = request.getfixturevalue("server_store") if source_kind == "server" else store
    location = str(store.files / "copy")
    if target_kind == "server":
        server: RegistryServer = request.getfixturevalue("server")
        location = f"oci://{server.host}/copies/{store.path.parent.name.lower()[-8:].strip('_')}"
    files = store.files / "of-the-copy"
    files.mkdir()
    return source, replace(source, location=location, files=files)


def test_a_copy_keeps_digests_numbers_and_trust(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE, report=b"report", provenance=b"envelope", golden=b"golden")
    source.publish(TWO)
    source.publish(TWO, channel="production")
    done = copied(source, target)
    assert (done.versions, done.present, done.metadata) == ((1, 2), (), 4)
    before = digests(source)
    superseded = {"tuf-1", "tuf-2", "tuf-3"}
    assert digests(target) == {tag: before[tag] for tag in before.keys() - superseded}
    assert target.read_everything() == source.read_everything()
    assert target.serving("pets", "production") == source.serving("pets", "production")


def test_a_second_copy_sends_what_is_new(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE)
    copied(source, target)
    device = target.channels.channel("pets", "candidate")
    assert device is not None
    assert device.release.version == 1

    assert copied(source, target) == Copied((), (1,), None, 0, 0)
    source.publish({**TWO, "float32": ONE["float32"]})
    again = copied(source, target)
    assert (again.versions, again.present, again.metadata) == ((2,), (1,), 3)
    assert again.blobs == 5, "weights, their config, and metadata of 3 roles that was signed anew"
    assert target.serving().version == 2
    assert target.read_everything() == source.read_everything()


def test_what_the_target_has_is_not_sent_again(
    store: "Store", server_store: "Store", server: RegistryServer
) -> None:
    source = server_store
    source.publish(ONE)
    source.publish(TWO)
    target = replace(source, location=f"{source.location}-copy")
    name = target.location.rpartition("/")[2]
    copied(source, target)
    uploads = len(server.asked("PUT", f"/{name}/blobs/"))
    assert uploads == len(server.repositories[name].blobs), "each once"
    copied(source, target)
    assert len(server.asked("PUT", f"/{name}/blobs/")) == uploads


def test_a_part_of_a_registry_is_copied_with_what_its_channels_serve(
    pair: tuple["Store", "Store"],
) -> None:
    source, target = pair
    for content in (ONE, TWO, THREE):
        source.publish(content)
    source.publish(ONE, model="cats", channel="production")
    assert copied(source, target, 2).versions == (2, 3, 4)
    assert target.reader.versions() == [2, 3, 4]
    assert target.serving("pets").version == 3
    assert target.serving("cats", "production").version == 4
    assert copied(source, target).versions == (1,)
    assert target.read_everything() == source.read_everything()


def test_a_copy_may_be_changed_and_carried_back(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE)
    copied(source, target)
    target.publish(TWO)
    copied(target, source)
    assert source.serving().version == 2
    assert source.read_everything() == target.read_everything()


def test_metadata_is_not_moved_back(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE)
    copied(source, target)
    target.publish(TWO)
    before = digests(target)
    with pytest.raises(RegistryError, match="newer than that to be copied"):
        copied(source, target)
    assert digests(target) == before


def test_stores_that_went_different_ways_are_not_mixed(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE)
    copied(source, target)
    target.publish(TWO)
    source.publish(THREE)
    before = digests(target)
    with pytest.raises(RegistryError, match="both stores were changed by themselves"):
        copied(source, target)
    source.repository().refresh()
    with pytest.raises(RegistryError, match=r"v2 in .* is another release"):
        copied(source, target)
    assert digests(target) == before


def test_a_version_is_not_overwritten(pair: tuple["Store", "Store"]) -> None:
    source, target = pair
    source.publish(ONE)
    other = source.elsewhere()
    other.publish(TWO)
    index, _ = other.open().read_tag("v1", limit=MAX_MANIFEST)
    copied(other, target)
    open_for_writing(target.location).remove(["tuf", f"tuf-{2}"])
    assert digests(target)["v1"] == index.digest
    with pytest.raises(RegistryError, match=r"v1 in .* is another release"):
        copied(source, target)


def test_another_registry_is_not_overwritten(store: "Store") -> None:
    store.publish(ONE)
    other = store.elsewhere()
    other.publish(TWO)
    with pytest.raises(TrustError):
        copied(store, other)
    with pytest.raises(TrustError):
        copy(store.open(), open_for_writing(str(store.files / "copy")), root=other.root)
    assert not (store.files / "copy").exists()


def test_what_is_not_there_cannot_be_copied(store: "Store") -> None:
    target = replace(store, location=str(store.files / "copy"))
    store.publish(ONE)
    with pytest.raises(NotFoundError, match="lacks v7, which was asked for"):
        copied(store, target, 7)
    open_for_writing(store.location).remove(["v1"])
    with pytest.raises(NotFoundError, match="lacks v1, which a channel serves"):
        copied(store, target)
    assert not target.path.exists()


def test_a_release_that_took_the_place_of_a_signed_one_is_not_copied(store: "Store") -> None:
    target = replace(store, location=str(store.files / "copy"))
    store.publish(ONE)
    other = store.publish(TWO, model="cats")
    open_for_writing(store.location).commit([("v1", other.index)], expected={})
    with pytest.raises(IntegrityError, match=r"which was signed for pets/candidate"):
        copied(store, target)
    assert not target.path.exists()


LARGE = b"large weights" * 200_000


@pytest.mark.parametrize("part", ["model", "large model", "verdict", "manifest", "index", "tuf"])
@pytest.mark.parametrize("damaged", [b"", b"X", None], ids=["empty", "changed", "missing"])
def test_what_is_damaged_is_not_copied(part: str, damaged: bytes | None, store: "Store") -> None:
    target = replace(store, location=str(store.files / "copy"))
    store.publish({"float32": LARGE if part == "large model" else b"weights"})
    served = store.serving()
    bundle, _ = store.open().read_tag("tuf", limit=MAX_MANIFEST)
    blob = store.blob(
        {
            "model": served.variants[0].model,
            "large model": served.variants[0].model,
            "verdict": served.verdict,
            "manifest": served.variants[0].manifest,
            "index": served.index,
            "tuf": bundle,
        }[part].digest
    )
    good = blob.read_bytes()
    if damaged is None:
        blob.unlink()
    else:
        blob.write_bytes(damaged + good[len(damaged) :] if damaged else damaged)
    with pytest.raises((IntegrityError, NotFoundError)):
        copied(store, target)
    assert not target.path.exists() or target.open().tags() == []

    blob.write_bytes(good)
    copied(store, target)
    assert target.read_everything() == store.read_everything()


def test_a_copy_tells_how_far_it_has_come(store: "Store") -> None:
    store.publish({"float32": LARGE})
    told: list[str] = []
    copied(store, replace(store, location=str(store.files / "copy")), notify=told.append)
    assert told[0] == "v1: copying"
    assert told[-1] == "v1, float32: copied 3 of 3 MB"


def test_a_copy_repairs_nothing_by_halves(store: "Store") -> None:
    """What is there by number and by all of its tags is taken to be whole; verify tells more."""
    target = replace(store, location=str(store.files / "copy"))
    store.publish(ONE)
    copied(store, target)
    open_for_writing(target.location).remove(["v1-int8"])
    model = target.serving().variant("float32").model
    target.blob(model.digest).write_bytes(b"X")
    assert copied(store, target).versions == (1,)
    assert target.read_everything() == store.read_everything()


def test_a_copy_that_is_broken_off_is_finished_by_the_next(
    pair: tuple["Store", "Store"],
) -> None:
    source, target = pair
    source.publish(ONE)
    copied(source, target)
    source.publish(TWO)
    steps = 0
    while True:
        left = steps

        def interrupt(step: str, argument: object) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1

        writer = hooked(open_for_writing(target.location), before=interrupt)
        try:
            copy(source.open(), writer, root=source.root)
            break
        except KeyboardInterrupt:
            steps += 1
        assert target.serving().version == 1
        target.read_everything()
    assert steps > 2
    assert target.serving().version == 2
    assert target.read_everything() == source.read_everything()


def test_an_older_copy_is_brought_up_to_date_by_a_newer_root(store: "Store") -> None:
    target = replace(store, location=str(store.files / "copy"))
    store.publish(ONE)
    copied(store, target)
    key = generate_key(store.files / "new.pem", None)
    signers = Signers.load([str(store.authority.files), str(store.files / "new.pem")])
    repository = Repository(open_for_writing(store.location), root=store.root, signers=signers)
    repository.rotate("root", add=[key])
    copy(store.open(), open_for_writing(target.location), root=repository.root())
    assert target.serving().version == 1
    assert digests(target)["tuf"] == digests(store)["tuf"]


def test_a_copy_follows_a_registry_that_started_over_from_older_metadata(store: "Store") -> None:
    """Whoever stole the online key had made its numbers grow; they count from the new key on."""
    target = replace(store, location=str(store.files / "copy"), files=store.files)
    store.publish(ONE)
    for _ in range(5):
        store.repository().refresh()
    copied(store, target)
    assert target.serving().version == 1

    new = generate_key(store.files / "new.pem", None)
    signers = Signers.load([str(store.authority.files), str(store.files / "new.pem")])
    writer = open_for_writing(store.location)
    repository = Repository(writer, root=store.root, signers=signers, base="tuf-2")
    repository.rotate("online", add=[new], remove=[store.authority.keys.online.keyid])
    assert copied(store, target).metadata == 3
    assert target.serving().version == 1
    assert target.channels.channel("pets", "candidate") is not None


def test_a_source_that_changes_while_it_is_read_is_not_copied(store: "Store") -> None:
    store.publish(ONE)
    source = store.open()
    original = source.read_blob
    once = iter([True])

    def read_blob(descriptor: Descriptor, *, limit: int) -> bytes:
        if descriptor.media_type == TUF_METADATA and next(once, False):
            store.publish(TWO)
        return original(descriptor, limit=limit)

    source.read_blob = read_blob  # type: ignore[method-assign]
    target = open_for_writing(str(store.files / "copy"))
    with pytest.raises(ConflictError, match="was changed while it was read"):
        copy(source, target, root=store.root)
    assert copy(source, target, root=store.root).versions == (1, 2)


def test_a_blob_that_is_larger_than_a_model_may_be_is_not_copied(
    store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish({"float32": LARGE})
    monkeypatch.setattr(copying, "MAX_MODEL", len(LARGE) - 1)
    with pytest.raises(IntegrityError, match="is said to have 2600000 bytes; at most 2599999"):
        copied(store, replace(store, location=str(store.files / "copy")))


def test_a_full_temporary_folder_is_told(store: "Store", monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish({"float32": LARGE})
    monkeypatch.setattr(tempfile, "tempdir", str(store.files / "missing"))
    with pytest.raises(RegistryError, match=r"cannot be kept in .*missing.* with TMPDIR"):
        copied(store, replace(store, location=str(store.files / "copy")))


# What nobody needs any more.


def swept(store: "Store", **options: Any) -> Swept:
    options = {"grace": NOW, "root": store.root, **options}
    return gc(open_for_writing(store.location), **options)


def test_superseded_metadata_is_removed(any_store: "Store") -> None:
    any_store.publish(ONE)
    any_store.publish(TWO)
    device = any_store.channels
    device.refresh()
    done = swept(any_store)
    assert (done.versions, done.metadata, done.tags) == ((), (1, 2), ("tuf-1", "tuf-2"))
    assert {"tuf", "tuf-3"} <= set(any_store.open().tags())
    device.refresh()
    assert any_store.reader.versions() == [1, 2]
    any_store.read_everything()
    any_store.publish(THREE)
    assert any_store.serving().version == 3


@pytest.mark.parametrize(
    ("days", "expected"),
    [(6, ()), (8, (1, 2, 3)), (-1, ())],
    ids=["younger", "older", "by a clock that runs behind"],
)
def test_superseded_metadata_stays_for_a_while(
    days: int, expected: tuple[int, ...], store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (ONE, TWO, THREE):
        store.publish(content)
    later = datetime.now(timezone.utc) + timedelta(days=days)
    monkeypatch.setattr(maintenance, "now", lambda: later)
    assert swept(store, grace=timedelta(days=7)).metadata == expected


def test_metadata_that_was_replaced_lately_stays_with_that_before_it(
    store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    """tuf-1 was replaced long ago, tuf-2 just now."""
    store.publish(ONE)
    began = datetime.now(timezone.utc)
    with monkeypatch.context() as patch:
        patch.setattr("edgeline.publish.signatures.now", lambda: began + timedelta(days=10))
        store.repository().refresh()
    monkeypatch.setattr(maintenance, "now", lambda: began + timedelta(days=11))
    assert swept(store, grace=timedelta(days=5)).metadata == (1,)


def test_metadata_that_is_damaged_is_removed_at_once(store: "Store") -> None:
    for content in (ONE, TWO, THREE):
        store.publish(content)
    store.blob(digests(store)["tuf-2"]).write_bytes(b"{}")
    assert swept(store, grace=timedelta(days=1)).metadata == (2,), "nobody could read it"
    assert swept(store).metadata == (1, 3)
    store.read_everything()


def test_old_releases_are_removed_but_for_what_channels_served(any_store: "Store") -> None:
    contents = [{"float32": b"%d" % number, "int8": b"-%d" % number} for number in range(1, 7)]
    any_store.publish(contents[0], model="cats", channel="production")
    any_store.publish(contents[1], model="cats", channel="production")
    for content in contents[2:]:
        any_store.publish(content, model="dogs")
    writer = open_for_writing(any_store.location)
    # As if dogs had served it longer ago than its history reaches.
    forget_history(any_store, "dogs")
    done = swept(any_store, keep=2)
    assert done.versions == (3, 4)
    assert any_store.reader.versions() == [1, 2, 5, 6]
    tags = writer.tags()
    assert not [tag for tag in tags if tag.startswith(("v3", "v4"))]
    any_store.read_everything()
    any_store.repository().rollback("cats", "production")
    assert any_store.serving("cats", "production").version == 1
    assert any_store.publish({"float32": b"7"}).version == 7, "numbers are not given again"


def test_a_removal_tells_how_far_it_has_come(any_store: "Store") -> None:
    for content in (ONE, TWO):
        any_store.publish(content)
    forget_history(any_store, "pets")
    told: list[str] = []
    done = swept(any_store, keep=1, notify=told.append)
    assert done.versions == (1,)
    read = [line for line in told if line.startswith("reading release")]
    assert read[-1].endswith(f" {len(read)} of {len(read)}")
    last = "deleting manifest" if any_store.location.startswith("oci://") else "looking at blob"
    assert told[-1].startswith(last)


def forget_history(store: "Store", model: str) -> None:
    """Serve so many releases that the history of a channel no longer tells of the first ones."""
    repository = store.repository()
    channel = repository.channel(model, "candidate")
    assert channel is not None
    served = channel.release
    for number in range(11):
        index = replace(served.index, digest=f"sha256:{number:064x}")
        repository.point(model, "candidate", replace(served, index=index))
    repository.point(model, "candidate", served)


def test_a_manifest_that_two_releases_share_stays(any_store: "Store") -> None:
    any_store.publish({"float32": b"same"}, model="dogs", channel="canary")
    any_store.publish({"float32": b"same", "int8": b"more"}, model="dogs", channel="canary")
    shared = digests(any_store)
    assert shared["v1-float32"] == shared["v2-float32"]
    for number in range(11):
        any_store.publish({"float32": b"%d" % number}, model="dogs", channel="canary")
    done = swept(any_store, keep=12)
    assert done.versions == (1,)
    assert "v1" in done.tags
    assert "v1-float32" not in done.tags
    any_store.read_everything()


def test_tags_of_variants_without_a_release_are_removed(any_store: "Store") -> None:
    any_store.publish(ONE)
    any_store.publish(TWO)
    open_for_writing(any_store.location).remove(["v1"])
    done = swept(any_store)
    assert {"v1-float32", "v1-int8"} <= set(done.tags)
    assert not [tag for tag in any_store.open().tags() if tag.startswith("v1")]
    assert any_store.serving().version == 2


def test_a_dry_run_removes_nothing(store: "Store") -> None:
    store.publish(ONE)
    store.publish(TWO)
    orphan = open_for_writing(store.location).put_blob(b"orphan", "text/plain", limit=10)
    before = digests(store)
    told = swept(store, dry_run=True)
    assert told.collected is None
    assert digests(store) == before
    assert store.blob(orphan.digest).exists()
    done = swept(store)
    assert replace(done, collected=None) == told
    assert done.collected is not None
    assert done.collected.blobs > 1
    assert not store.blob(orphan.digest).exists()


def test_nothing_is_removed_when_a_release_that_stays_is_damaged(store: "Store") -> None:
    store.publish(ONE)
    store.publish(TWO)
    open_for_writing(store.location).remove(["v1"])
    store.blob(store.serving().variant("int8").manifest.digest).write_bytes(b"{}")
    before = store.open().tags()
    with pytest.raises(IntegrityError, match="Nothing was removed"):
        swept(store)
    assert store.open().tags() == before


def test_nothing_is_removed_when_the_metadata_is_not_genuine(store: "Store") -> None:
    store.publish(ONE)
    before = digests(store)
    with pytest.raises(TrustError):
        swept(store, root=store.elsewhere().root)
    assert digests(store) == before


def test_nothing_is_removed_when_a_channel_is_changed_meanwhile(server_store: "Store") -> None:
    for number in range(3):
        server_store.publish({"float32": b"%d" % number}, model="dogs")
    old = server_store.publish(ONE)
    forget_history(server_store, "dogs")
    writer = open_for_writing(server_store.location)
    looks = iter(range(2))
    original = writer.read_tag

    def read_tag(tag: str, *, limit: int) -> Any:
        if tag == "v1" and next(looks, None) == 0:
            release = server_store.reader.open_version(1)
            server_store.repository().point("dogs", "production", release.ref)
        return original(tag, limit=limit)

    writer.read_tag = read_tag  # type: ignore[method-assign]
    assert old.version == 4
    with pytest.raises(ConflictError, match="Nothing was removed"):
        gc(writer, root=server_store.root, grace=NOW, keep=1)
    assert server_store.serving("dogs", "production").version == 1


def test_a_server_that_does_not_delete_says_so(store: "Store") -> None:
    with RegistryServer(deleting=False) as server:
        there = replace(store, location=f"oci://{server.host}/pets").initialized()
        there.publish(ONE)
        with pytest.raises(RegistryError, match=r"storage\.delete\.enabled"):
            swept(there)
        there.read_everything()


def test_a_place_without_a_registry_is_not_swept(store: "Store") -> None:
    missing = store.files / "missing"
    with pytest.raises(NotFoundError):
        gc(open_for_writing(str(missing)), root=store.root, grace=NOW)
    assert not missing.exists()


@pytest.mark.parametrize("options", [{"grace": timedelta(-1)}, {"keep": 0}, {"keep": -1}])
def test_senseless_arguments_are_refused(options: dict[str, Any], store: "Store") -> None:
    store.publish(ONE)
    with pytest.raises(RegistryError, match="Expected a grace period"):
        swept(store, **options)


def test_what_a_registry_needs_is_never_collected(store: "Store") -> None:
    store.publish(ONE, report=b"report", provenance=b"envelope", golden=b"golden")
    store.publish(TWO)
    done = swept(store)
    assert done.collected is not None
    assert done.collected.manifests == 2, "two bundles of metadata"
    assert swept(store).collected == Collected(0, 0, 0)
    store.read_everything()
