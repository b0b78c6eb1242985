"""Checking a registry wholly: every fault is found, none hides another, and none is invented."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeline.publish.keys import Signers
from edgeline.publish.repository import Expiry, Repository, initialize
from edgeline.publish.store import open_for_writing
from edgeline.publish.verify import Finding, Verification, verify
from edgeline.registry.format import OCI_INDEX, OCI_MANIFEST, Descriptor
from tests.edge.attacks import World
from tests.edge.devices import signed_days_ago
from tests.edge.test_channels import signed_provenance
from tests.edge.test_repository import _of_before_root_said_it

if TYPE_CHECKING:
    from tests.edge.conftest import Authority, Store


@pytest.fixture
def filled(store: "Store") -> "Store":
    """A registry whose production went from v1 to v2."""
    for content in (b"first", b"second"):
        store.publish({"float32": content, "int8": content[::-1]}, channel="production")
    return store


def _verify(store: "Store", root: bytes | None = None) -> Verification:
    writer = open_for_writing(store.location)
    repository = Repository(writer, root=root or store.root, signers=Signers())
    return verify(repository)


def test_nothing_is_found_in_a_sound_registry(filled: "Store") -> None:
    found = _verify(filled)
    assert found.findings == ()
    assert found.passed
    assert (found.releases, found.channels) == (2, 1)
    assert found.size > 4 * len(b"first")


def test_an_empty_registry_is_sound(store: "Store") -> None:
    assert _verify(store).passed


def _damage_weights(store: "Store") -> None:
    blob = store.reader.open_version(1).variant("int8").model
    store.blob(blob.digest).write_bytes(b"x" * blob.size)


def _lose_a_manifest(store: "Store") -> None:
    store.blob(store.reader.open_version(2).variant("int8").manifest.digest).unlink()


def _move_a_version(store: "Store") -> None:
    index = store.reader.open_version(1).index
    open_for_writing(store.location).commit([("v2", index)], expected={})


def _lose_the_release_before(store: "Store") -> None:
    open_for_writing(store.location).remove(["v1", "v1-float32", "v1-int8"])


def _lose_a_variants_tag(store: "Store") -> None:
    open_for_writing(store.location).remove(["v2-int8"])


def _leave_tags(store: "Store") -> None:
    manifest = store.reader.open_version(1).variant("int8").manifest
    named = Descriptor(OCI_MANIFEST, manifest.digest, manifest.size)
    open_for_writing(store.location).commit([("v7-int8", named), ("tuf-99", named)], expected={})


def _tag_like_other_tools(store: "Store") -> None:
    index = store.reader.open_version(1).index
    named = Descriptor(OCI_INDEX, index.digest, index.size)
    open_for_writing(store.location).commit([("latest", named)], expected={})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_damage_weights, [("error", "v1", "was changed or damaged")]),
        (
            _lose_a_manifest,
            [
                ("error", "v2", "does not exist"),
                ("error", "pets/production", "Release v2 is damaged"),
            ],
        ),
        (
            _move_a_version,
            [
                ("error", "pets/production", "Tag v2 names sha256:"),
                ("warning", "tag v2-float32", "It names sha256:"),
                ("warning", "tag v2-int8", "It names sha256:"),
            ],
        ),
        (
            _lose_the_release_before,
            [("warning", "pets/production", "It cannot go back to v1: The store has no release")],
        ),
        (_lose_a_variants_tag, [("warning", "tag v2-int8", "It is missing")]),
        (
            _leave_tags,
            [
                ("warning", "tag tuf-99", "A change was cut short"),
                ("warning", "tag v7-int8", "No release has such a variant"),
            ],
        ),
        (_tag_like_other_tools, []),
    ],
)
def test_finds(
    spoil: Callable[["Store"], None], expected: list[tuple[str, str, str]], filled: "Store"
) -> None:
    spoil(filled)
    found = _verify(filled)
    assert [(each.level, each.subject) for each in found.findings] == [
        (level, subject) for level, subject, _ in expected
    ]
    for finding, (_, _, text) in zip(found.findings, expected, strict=True):
        assert text in finding.text
    assert found.passed == all(level == "warning" for level, _, _ in expected)


def test_finds_every_fault_at_once(filled: "Store") -> None:
    _damage_weights(filled)
    _leave_tags(filled)
    assert len(_verify(filled).findings) == 3


def _verify_another(
    folder: Path, authority: "Authority", expiry: Expiry, at: datetime | None = None
) -> Verification:
    writer = open_for_writing(str(folder / "another"))
    root = initialize(writer, authority.keys, authority.signers, expiry)
    return verify(Repository(writer, root=root, signers=Signers()), at=at)


def test_finds_provenance_that_was_not_signed_so(store: "Store") -> None:
    keys = store.authority.keys
    ci, other = keys.models["pets"].ci, keys.targets
    for content, key in ((b"first", ci), (b"second", other), (b"third", other)):
        weights = {"float32": content}
        envelope = signed_provenance(store, key, weights)
        if content == b"third":
            envelope = envelope.replace(other.keyid.encode(), ci.keyid.encode())
        store.publish(weights, channel="production", provenance=envelope)
    assert [(each.level, each.subject) for each in _verify(store).findings] == [
        ("error", "v3"),
        ("warning", "provenance"),
    ]


def test_finds_what_expires_soon(tmp_path: Path, authority: "Authority") -> None:
    found = _verify_another(tmp_path, authority, Expiry(timestamp=6, snapshot=8))
    (finding,) = found.findings
    assert (finding.level, finding.subject) == ("warning", "role timestamp")
    assert "expires on" in finding.text
    assert found.passed


def test_finds_what_has_expired(tmp_path: Path, authority: "Authority") -> None:
    later = datetime.now(timezone.utc) + timedelta(days=60)
    found = _verify_another(tmp_path, authority, Expiry(), at=later)
    assert [(each.level, each.subject) for each in found.findings] == [
        ("error", "role snapshot"),
        ("error", "role timestamp"),
    ]
    assert not found.passed


def test_finds_what_was_signed_for_longer_than_root_says(store: "Store") -> None:
    with signed_days_ago(-400):
        store.repository().refresh()
    found = _verify(store)
    assert [(each.level, each.subject) for each in found.findings] == [
        ("error", f"role {name}") for name in ("root", "targets", "snapshot", "timestamp")
    ]
    assert "more than 30 days away" in found.findings[-1].text


def test_finds_a_root_that_does_not_say_how_long_signatures_last(tmp_path: Path) -> None:
    world = World(tmp_path)
    _of_before_root_said_it(world)
    found = verify(world.repository())
    assert ("warning", "role root") in {(each.level, each.subject) for each in found.findings}
    world.repository().set_expiry()
    assert verify(world.repository()).findings == ()


def test_finds_that_another_root_signed(
    tmp_path: Path, authority: "Authority", filled: "Store"
) -> None:
    other = open_for_writing(str(tmp_path / "another"))
    root = initialize(other, authority.keys, authority.signers, Expiry(root=99))
    found = _verify(filled, root)
    assert found.findings[0].subject == "signatures"
    assert isinstance(found.findings[0], Finding)
    assert found.releases == 2
