"""Signed metadata: each change is built on what was verified, and none is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from edgeline.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    TrustError,
)
from edgeline.publish import repository as repository_module
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.repository import Expiry, Keys, ModelKeys, Repository, initialize
from edgeline.publish.root_signing import RootDraft, sign_draft
from edgeline.publish.store import WriteStore
from edgeline.registry.format import OCI_INDEX, TUF_TAG, Descriptor, ReleaseRef
from tests.edge.attack_cases import FORGED, Case
from tests.edge.attacks import Document, World, newest, read


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(usual: World, tmp_path: Path) -> World:
    """Releases 1 and 3 of cells in candidate, 1 in production; 2 of dogs in both."""
    return usual.copied_to(tmp_path)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "_PAUSE", 0.0)


def ref(version: int) -> ReleaseRef:
    """A reference to a release that nobody looks for."""
    return ReleaseRef(version, Descriptor(OCI_INDEX, f"sha256:{version:064x}", 100 + version))


def served(world: World, model: str = "cells", channel: str = "candidate") -> list[int]:
    """The versions that a channel serves and served before."""
    found = world.repository().channel(model, channel)
    return [each.version for each in (found.release, *found.history)] if found else []


# Initializing.


def _keys(**changes: Any) -> tuple[Keys, Signers]:
    signers = {name: CryptoSigner.generate_ed25519() for name in "abcde"}
    a, b, c, d, e = (signer.public_key for signer in signers.values())
    keys = {
        "root": (a, b),
        "root_threshold": 2,
        "targets": c,
        "online": d,
        "models": {"cells": ModelKeys(ci=d, release=e)},
    }
    return Keys(**{**keys, **changes}), Signers(signers.values())


def test_the_first_root_is_what_the_registry_starts_with(tmp_path: Path) -> None:
    store = LayoutWriter(tmp_path / "registry")
    keys, signers = _keys()
    root = initialize(store, keys, signers, Expiry(root=10))
    repository = Repository(store, root=root, signers=signers)
    assert repository.root() == root
    assert repository.channels() == []
    assert store.tags() == ["tuf", "tuf-1"]
    roles = {role.name: role for role in repository.roles()}
    assert list(roles) == ["root", "targets", "snapshot", "timestamp", "cells-ci", "cells-release"]
    assert (roles["root"].threshold, roles["root"].days) == (2, 10)
    assert (roles["cells-ci"].version, roles["cells-ci"].expires) == (0, None)
    assert roles["cells-release"].keys == (keys.models["cells"].release,)


def test_a_registry_is_initialized_once(tmp_path: Path) -> None:
    store = LayoutWriter(tmp_path / "registry")
    keys, signers = _keys()
    initialize(store, keys, signers)
    before = store.read_tag(TUF_TAG, limit=1 << 20)
    with pytest.raises(RegistryError, match="is a registry already"):
        initialize(store, keys, signers)
    assert store.read_tag(TUF_TAG, limit=1 << 20) == before
    store.remove([TUF_TAG])
    with pytest.raises(RegistryError, match="if its newest metadata was lost, recover it"):
        initialize(store, keys, signers)


_A_KEY = CryptoSigner.generate_ed25519().public_key
_AN_RSA_KEY = CryptoSigner.generate_rsa().public_key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"root_threshold": 3}, "3 signatures and have 2 keys", id="a high threshold"),
        pytest.param({"root_threshold": 0}, "0 signatures and have 2 keys", id="no threshold"),
        pytest.param({"root": (_A_KEY, _A_KEY)}, "the same key twice", id="a key twice"),
        pytest.param(
            {"root": (_A_KEY, SSlibKey("f" * 64, "ed25519", "ed25519", _A_KEY.keyval))},
            "the same key twice",
            id="a key under two ids",
        ),
        pytest.param({"targets": _AN_RSA_KEY}, "devices verify Ed25519", id="an RSA key"),
        pytest.param(
            {"models": {"cells": ModelKeys(_A_KEY, _A_KEY)}}, "must not share a key", id="one key"
        ),
        pytest.param({"models": {"../x": ModelKeys(_A_KEY, _A_KEY)}}, "is named by", id="a path"),
        pytest.param({"online": _A_KEY}, "Role 'snapshot' is signed by 1 of", id="a missing key"),
        pytest.param({"root": (_A_KEY, _A_KEY), "root_threshold": 1}, "twice", id="a spare twice"),
    ],
)
def test_keys_that_make_no_sense_are_refused(
    changes: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    store = LayoutWriter(tmp_path / "registry")
    keys, signers = _keys(**changes)
    with pytest.raises(RegistryError, match=message):
        initialize(store, keys, signers)
    assert not (tmp_path / "registry").exists() or store.tags() == []


@pytest.mark.parametrize("days", [0, -1, 4000, 1.5, True])
def test_times_that_make_no_sense_are_refused(days: Any, tmp_path: Path) -> None:
    keys, signers = _keys()
    with pytest.raises(RegistryError, match="last 1 to 3650 days"):
        initialize(LayoutWriter(tmp_path), keys, signers, Expiry(snapshot=days))


# Pointing.


def test_a_channel_serves_what_it_is_pointed_at_and_remembers_the_rest(world: World) -> None:
    repository = world.repository()
    assert served(world) == [3, 1]
    channel = repository.point("cells", "candidate", ref(4))
    assert repository.channel("cells", "candidate") == channel
    assert channel.release == ref(4)
    assert served(world) == [4, 3, 1]
    assert served(world, channel="production") == [1]
    assert served(world, channel="canary") == []
    assert served(world, "dogs") == [2]
    names = [(channel.model, channel.name) for channel in repository.channels()]
    assert names == [("cells", "candidate"), ("cells", "production"),
                     ("dogs", "candidate"), ("dogs", "production")]  # fmt: skip


def test_pointing_where_it_points_already_changes_nothing(world: World) -> None:
    before = world.files()
    channel = world.repository().channel("cells", "candidate")
    assert world.repository().point("cells", "candidate", world.releases[3]) == channel
    assert world.files() == before


def test_a_release_is_in_the_history_once(world: World) -> None:
    for version in (4, 5, 4, 6, 4):
        world.repository().point("cells", "candidate", ref(version))
    assert served(world) == [4, 6, 5, 3, 1]


def test_the_history_ends_after_ten_releases(world: World) -> None:
    for version in range(4, 20):
        world.repository().point("cells", "candidate", ref(version))
    assert served(world) == list(range(19, 8, -1))


def test_only_what_a_change_touches_is_signed_anew(world: World) -> None:
    before = world.files()
    world.repository().point("cells", "candidate", ref(4))
    after = world.files()
    kept = {name for name in before if after.get(name) == before[name]}
    changed = {newest(before, role) for role in ("timestamp", "snapshot", "cells-ci")}
    assert kept == set(before) - changed
    for role in ("timestamp", "snapshot", "cells-ci"):
        old, new = read(before, role)["signed"], read(after, role)["signed"]
        assert new["version"] == old["version"] + 1


def test_every_bundle_keeps_a_tag(world: World) -> None:
    world.repository().point("cells", "candidate", ref(4))
    version = read(world.files(), "timestamp")["signed"]["version"]
    assert world.store.read_tag(f"tuf-{version}", limit=1 << 20) == world.store.read_tag(
        "tuf", limit=1 << 20
    )
    assert {f"tuf-{each}" for each in range(1, version + 1)} < set(world.store.tags())


@pytest.mark.parametrize(
    ("model", "channel", "message"),
    [
        ("birds", "candidate", "no model 'birds'; it has cells, dogs"),
        ("cells", "staging", "no channel 'staging'; there are candidate, canary, production"),
        ("../x", "candidate", "is named by"),
        ("cells", "../x", "no channel"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    model: str, channel: str, message: str, world: World
) -> None:
    repository = world.repository()
    for act in (
        lambda: repository.point(model, channel, ref(4)),
        lambda: repository.rollback(model, channel),
        lambda: repository.channel(model, channel),
        lambda: repository.check_can_sign(model, channel),
    ):
        with pytest.raises(RegistryError, match=message):
            act()


@pytest.mark.parametrize(
    "release",
    [
        pytest.param(ReleaseRef(0, ref(1).index), id="version 0"),
        pytest.param(ReleaseRef(1, Descriptor(OCI_INDEX, "sha256:x", 1)), id="no digest"),
        pytest.param(ReleaseRef(1, Descriptor(OCI_INDEX, ref(1).index.digest, 0)), id="no size"),
        pytest.param(ReleaseRef(1, Descriptor(OCI_INDEX, ref(1).index.digest, 1 << 30)), id="huge"),
    ],
)
def test_a_malformed_reference_is_not_signed(release: ReleaseRef, world: World) -> None:
    before = world.files()
    with pytest.raises(RegistryError):
        world.repository().point("cells", "candidate", release)
    assert world.files() == before


@pytest.mark.parametrize(
    ("channel", "keys", "role"),
    [
        ("candidate", ("online", "cells-release"), "cells-ci"),
        ("production", ("online", "cells-ci"), "cells-release"),
        ("production", ("online", "dogs-release"), "cells-release"),
        ("candidate", ("cells-ci",), "snapshot"),
        ("candidate", ("targets", "root-1", "root-2"), "cells-ci"),
    ],
)
def test_a_missing_key_is_named_and_nothing_is_written(
    channel: str, keys: Sequence[str], role: str, world: World
) -> None:
    repository = world.repository(*keys)
    given = ", ".join(world.key(key).keyid[:12] for key in keys)
    wanted = world.key("online" if role == "snapshot" else role).keyid[:12]
    message = f"Role '{role}' is signed by 1 of the keys {wanted}; given was {given}"
    tags, blobs = world.store.tags(), len(list(world.path.rglob("*")))
    for act in (
        lambda: repository.check_can_sign("cells", channel),
        lambda: repository.point("cells", channel, ref(4)),
    ):
        with pytest.raises(RegistryError, match=message):
            act()
    assert (world.store.tags(), len(list(world.path.rglob("*")))) == (tags, blobs)


def test_whoever_has_no_key_may_look(world: World) -> None:
    repository = Repository(world.store, root=world.root, signers=Signers())
    assert len(repository.channels()) == 4
    with pytest.raises(RegistryError, match="given was no key, and so none of them"):
        repository.point("cells", "candidate", ref(4))


# Rolling back.


@pytest.mark.parametrize(
    ("to", "after"),
    [
        pytest.param([None], [5, 4, 3, 1], id="once"),
        pytest.param([None, None], [4, 3, 1], id="twice"),
        pytest.param([4], [4, 3, 1], id="to a version"),
        pytest.param([4, None], [3, 1], id="and once more"),
        pytest.param([1], [1], id="to the first"),
    ],
)
def test_rolling_back(to: Sequence[int | None], after: Sequence[int], world: World) -> None:
    for version in (4, 5, 6):
        world.repository().point("cells", "candidate", ref(version))
    before = read(world.files(), "cells-ci")["signed"]["version"]
    for version_or_none in to:
        channel = world.repository().rollback("cells", "candidate", version_or_none)
    assert channel == world.repository().channel("cells", "candidate")
    assert served(world) == after
    # For devices, it goes forward.
    assert read(world.files(), "cells-ci")["signed"]["version"] == before + len(to)


def test_there_must_be_something_to_roll_back_to(world: World) -> None:
    repository = world.repository()
    for channel, to, message in (
        ("candidate", 2, "did not serve v2 before v3; its history has v1"),
        ("production", None, "did not serve anything else before v1; its history has nothing"),
        ("canary", None, "serves nothing yet"),
    ):
        with pytest.raises(NotFoundError, match=message):
            repository.rollback("cells", channel, to)


# Several at once.


class Meddled:
    """A store without locks, in which something happens right before each commit."""

    def __init__(self, store: WriteStore, *meddle: Callable[[], object]) -> None:
        self._store = store
        self._meddle = list(meddle)
        self.lies = False  # whether commits are reported to have failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def exclusive(self) -> AbstractContextManager[None]:
        return nullcontext()

    def commit(
        self, tags: Sequence[tuple[str, Descriptor]], *, expected: Mapping[str, str | None]
    ) -> None:
        if self._meddle:
            self._meddle.pop(0)()
        self._store.commit(tags, expected=expected)
        if self.lies:
            self.lies = False
            raise ConflictError("a tag was lost to another writer")


def _meddled(world: World, *meddle: Callable[[], object]) -> tuple[Meddled, Repository]:
    store = Meddled(LayoutWriter(world.path), *meddle)
    return store, Repository(cast(WriteStore, store), root=world.root, signers=world.signers())


def test_a_change_is_made_over_again_when_somebody_else_was_faster(world: World) -> None:
    others = [
        lambda: world.repository().point("dogs", "production", ref(7)),
        lambda: world.repository().point("cells", "candidate", ref(8)),
        lambda: world.repository().refresh(),
    ]
    _, repository = _meddled(world, *others)
    repository.point("cells", "candidate", ref(9))
    assert served(world) == [9, 8, 3, 1]
    assert served(world, "dogs", "production") == [7, 2]


def test_it_gives_up_when_others_never_stop(world: World) -> None:
    others = [lambda: world.repository().refresh()] * 50
    _, repository = _meddled(world, *others)
    with pytest.raises(ConflictError, match="gave up after 10 attempts"):
        repository.point("cells", "candidate", ref(9))
    assert served(world) == [3, 1]


def test_a_change_that_went_through_unnoticed_is_not_made_twice(world: World) -> None:
    for version in (4, 5, 6):
        world.repository().point("cells", "candidate", ref(version))
    store, repository = _meddled(world)
    store.lies = True
    assert repository.rollback("cells", "candidate").release == ref(5)
    assert served(world) == [5, 4, 3, 1]
    store.lies = True
    repository.point("cells", "candidate", ref(7))
    assert served(world) == [7, 5, 4, 3, 1]


def test_a_roll_back_stops_when_somebody_else_moved_the_channel(world: World) -> None:
    _, repository = _meddled(world, lambda: world.repository().point("cells", "candidate", ref(8)))
    with pytest.raises(ConflictError, match="Somebody else changed candidate of cells"):
        repository.rollback("cells", "candidate")
    assert served(world) == [8, 3, 1]


def test_no_change_of_many_writers_is_lost(world: World) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        repository = Repository(LayoutWriter(world.path), root=world.root, signers=world.signers())
        try:
            for step in range(5):
                repository.point("cells", "candidate", ref(100 * (number + 1) + step))
                repository.point("dogs", ("canary", "production")[number % 2], ref(number + 50))
        except BaseException as error:
            failures.append(error)

    before = read(world.files(), "cells-ci")["signed"]["version"]
    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read(world.files(), "cells-ci")["signed"]["version"] == before + 4 * 5
    assert world.device(world.folder / "state").trusts()


# Verifying before building.


@pytest.mark.parametrize("case", FORGED, ids=lambda case: case.name)
def test_nothing_is_built_upon_a_forgery(case: Case, world: World) -> None:
    case.prepare(world)
    case.attack(world)
    before = world.store.read_tag(TUF_TAG, limit=1 << 20)
    repository = world.repository()
    for act in (
        repository.channels,
        lambda: repository.point("cells", case.channel, ref(9)),
        repository.refresh,
    ):
        with pytest.raises((TrustError, IntegrityError)):
            act()
    assert world.store.read_tag(TUF_TAG, limit=1 << 20) == before


def test_a_registry_that_goes_back_meanwhile_is_not_built_upon(world: World) -> None:
    repository = world.repository()
    repository.channels()
    world.serve(world.recorded[-2])
    with pytest.raises(TrustError, match="went back from version"):
        repository.point("cells", "candidate", ref(9))
    assert world.files() == world.recorded[-2]


def test_any_root_of_the_chain_will_do(world: World) -> None:
    first = world.root
    for _ in range(3):
        world.repository().rotate("root")
    newest_root = world.repository().root()
    assert json.loads(newest_root)["signed"]["version"] == 4
    for root in (first, newest_root):
        repository = Repository(world.store, root=root, signers=world.signers())
        assert repository.point("cells", "candidate", ref(9)).release == ref(9)
    # All of them stay, for devices that were given the first one.
    assert {f"{version}.root.json" for version in range(1, 5)} < set(world.files())


def test_another_registrys_root_is_refused(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    for root in (other.root, b"", b"{}", world.files()["timestamp.json"]):
        with pytest.raises((TrustError, IntegrityError)):
            Repository(world.store, root=root, signers=world.signers()).channels()


def test_a_root_that_the_registry_does_not_have_yet_is_refused(world: World) -> None:
    before = world.files()
    world.repository().rotate("root")
    root = world.repository().root()
    world.serve(before)
    with pytest.raises((TrustError, IntegrityError)):
        Repository(world.store, root=root, signers=world.signers()).channels()


# Signing anew.


def test_snapshot_and_timestamp_are_always_signed_anew(world: World) -> None:
    with world.clock(days=5):
        signed = world.repository("online").refresh()
    assert [role.name for role in signed] == ["snapshot", "timestamp"]
    expected = datetime.now(timezone.utc) + timedelta(days=35)
    assert all(
        role.expires and abs(role.expires - expected) < timedelta(minutes=10) for role in signed
    )
    assert world.repository().roles()[2:4] == signed


@pytest.mark.parametrize(
    ("keys", "days", "roles"),
    [
        pytest.param((), 200, set(), id="it is not time"),
        pytest.param(
            (),
            300,
            {"root", "targets", "cells-ci", "cells-release", "dogs-ci", "dogs-release"},
            id="it is time",
        ),
        pytest.param(("online", "cells-ci"), 300, {"cells-ci"}, id="some keys are at hand"),
        pytest.param(("online", "root-1"), 300, set(), id="too few keys are at hand"),
        pytest.param(("online", "dogs-ci"), 1000, {"dogs-ci"}, id="all has expired"),
    ],
)
def test_what_nears_its_end_is_signed_anew(
    keys: Sequence[str], days: int, roles: set[str], world: World
) -> None:
    with world.clock(days):
        signed = world.repository(*keys).refresh()
    assert {role.name for role in signed} == {"snapshot", "timestamp"} | roles
    periods = {role.name: role.days for role in world.repository().roles()}
    assert periods == {name: 30 if name in ("snapshot", "timestamp") else 365 for name in periods}


def test_an_expired_registry_lives_again(tmp_path: Path) -> None:
    expiry = Expiry(root=1, targets=1, delegated=1, snapshot=1, timestamp=1)
    world = World(tmp_path, expiry=expiry, days=-100)
    world.repository().refresh()
    assert world.device(tmp_path / "state").visit() == world.releases[3].index.digest


def test_refreshing_needs_the_online_key(world: World) -> None:
    with pytest.raises(RegistryError, match="Role 'snapshot' is signed by 1 of"):
        world.repository("cells-ci").refresh()


# How long signatures last.


def _of_before_root_said_it(world: World) -> None:
    """Have every role say for itself how long it lasts, as a thief of the online key would."""

    def say(document: Document) -> None:
        document["signed"]["x-edgeline-expiry-days"] = 3650

    files = world.files()
    root = read(files, "root")
    for role in root["signed"]["roles"].values():
        del role["x-edgeline-expiry-days"]
    say(root)
    world.root = files["1.root.json"] = world.sign(root, "root-1", "root-2")
    world.serve(world.forge(files, change=say))


def _days(world: World) -> dict[str, tuple[int, bool]]:
    return {role.name: (role.days, role.is_bounded) for role in world.repository().roles()[:4]}


def test_root_says_how_long_signatures_last_in_a_registry_of_before(world: World) -> None:
    _of_before_root_said_it(world)
    usual = {"root": 365, "targets": 365, "snapshot": 30, "timestamp": 30}
    assert _days(world) == {name: (days, False) for name, days in usual.items()}
    device = world.device(world.folder / "state")
    device.visit()
    assert world.repository().set_expiry() is None
    assert _days(world) == {name: (days, True) for name, days in usual.items()}
    version = json.loads(world.repository().root())["signed"]["version"]
    world.repository("online").set_expiry()
    assert json.loads(world.repository().root())["signed"]["version"] == version == 2
    device.visit()
    world.refresh()
    for role in ("root", "timestamp", "snapshot"):
        assert "x-edgeline-expiry-days" not in read(world.files(), role)["signed"]


def test_what_was_signed_for_longer_is_signed_anew(world: World) -> None:
    draft = world.folder / "draft.json"
    proposed = world.repository("root-1").set_expiry({"timestamp": 7}, draft=draft)
    assert proposed is not None
    assert "timestamp lasts 7 days, not 30" in proposed.changes
    assert not any("snapshot" in line for line in proposed.changes)
    before = {role.name: role.version for role in world.repository().roles()}
    world.repository("root-2", "online").apply_draft(draft)
    signed = {
        role.name: role.expires
        for role in world.repository().roles()
        if role.version > before[role.name]
    }
    assert signed.keys() == {"root", "timestamp"}
    lasts = signed["timestamp"]
    assert lasts is not None
    assert abs(lasts - datetime.now(timezone.utc) - timedelta(days=7)) < timedelta(minutes=10)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ({"timestamp": 0}, "last 1 to 3650 days"),
        ({"cells-ci": 30}, "Root says it for root, targets, snapshot, timestamp; got cells-ci"),
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(
    days: dict[str, int], message: str, world: World
) -> None:
    with pytest.raises(RegistryError, match=message):
        world.repository().set_expiry(days)


# Other keys.


def _roles(world: World, *names: str) -> list[list[Key]]:
    roles = {role.name: list(role.keys) for role in world.repository().roles()}
    return [roles[name] for name in names]


@pytest.mark.parametrize(
    ("role", "old", "roles"),
    [
        ("root", "root-1", ["root"]),
        ("targets", "targets", ["targets"]),
        ("online", "online", ["snapshot", "timestamp"]),
        ("cells-ci", "cells-ci", ["cells-ci"]),
        ("dogs-release", "dogs-release", ["dogs-release"]),
    ],
)
def test_a_key_is_replaced(role: str, old: str, roles: Sequence[str], world: World) -> None:
    device = world.device(world.folder / "state")
    device.visit()
    new = world.key("stranger-1")
    everybody = (*world.honest_names, "stranger-1")
    world.repository(*everybody).rotate(role, add=[new], remove=[world.key(old).keyid])
    for keys in _roles(world, *roles):
        assert new in keys
        assert world.key(old) not in keys
    assert device.visit() == world.releases[3].index.digest
    # A key can be there beside others, and leave again without anybody signing anew.
    world.repository(*everybody).rotate(role, add=[world.key("stranger-2")])
    world.repository(*everybody).rotate(role, remove=[world.key("stranger-2").keyid])
    assert device.visit() == world.releases[3].index.digest


@pytest.mark.parametrize(
    ("role", "signed"),
    [
        ("root", {"root"}),
        ("targets", {"targets", "snapshot", "timestamp"}),
        ("online", {"snapshot", "timestamp"}),
        ("cells-ci", {"cells-ci", "snapshot", "timestamp"}),
    ],
)
def test_without_a_change_what_a_role_signs_is_signed_anew(
    role: str, signed: set[str], world: World
) -> None:
    before = {each.name: each.version for each in world.repository().roles()}
    with world.clock(days=10):
        world.repository().rotate(role)
    after = world.repository().roles()
    assert {each.name for each in after if each.version > before[each.name]} == signed
    assert {each.name for each in after if each.version == before[each.name] + 1} == signed
    assert world.device(world.folder / "state").visit() == world.releases[3].index.digest


@pytest.mark.parametrize(
    ("role", "arguments", "message"),
    [
        ("pilot", {}, "There is no role 'pilot'; there are root, targets, snapshot, timestamp"),
        ("snapshot", {"threshold": 1}, "change their keys as 'online'"),
        ("root", {"remove": ["0" * 64]}, "Key 000000000000 does not sign for root"),
        ("root", {"add": ["root-1"]}, "signs for root already"),
        ("root", {"add": ["stranger-1", "stranger-1"]}, "the same key twice"),
        ("root", {"threshold": 3}, "3 signatures and have 2 keys"),
        ("root", {"threshold": 0}, "0 signatures and have 2 keys"),
        ("root", {"remove": ["root-1"]}, "2 signatures and have 1 keys"),
        ("targets", {"remove": ["targets"]}, "1 signatures and have 0 keys"),
        ("cells-ci", {"add": ["cells-release"]}, "must not share a key"),
        ("cells-release", {"add": ["cells-ci"]}, "must not share a key"),
        ("cells-ci", {"threshold": 2, "add": ["stranger-1"]}, "'cells-ci' is signed by 2 of"),
        ("online", {"remove": ["online"], "add": ["stranger-1"]}, "'snapshot' is signed by 1 of"),
    ],
)
def test_a_change_of_keys_that_makes_no_sense_is_refused(
    role: str, arguments: Mapping[str, Any], message: str, world: World
) -> None:
    given = dict(arguments)
    given["add"] = [world.key(name) for name in given.get("add", [])]
    given["remove"] = [
        world.key(name).keyid if name in world.keys else name for name in given.get("remove", [])
    ]
    before = world.files()
    with pytest.raises(RegistryError, match=message):
        world.repository().rotate(role, **given)
    assert world.files() == before


# Going back to older metadata, after somebody spoiled the newest.


def _spoil(world: World, *, roots: int = 0) -> str:
    """Have somebody with the online key spoil the newest metadata; return the last good tag.

    So many roots were made since the last good metadata with a tag of its own.
    """
    base = world.newest_honest
    for _ in range(roots):
        world.repository().rotate("root")
        world.point("candidate", 1)
        world.point("candidate", 3)
    versions = {"snapshot": 900_000_000, "timestamp": 900_000_000}
    world.serve(world.forge(world.files(), versions=versions))
    return base


def _recover(world: World, base: str, root: bytes | None = None) -> None:
    signers = world.signers(*world.honest_names, "stranger-1")
    repository = Repository(world.store, root=root or world.root, signers=signers, base=base)
    repository.rotate("online", add=[world.key("stranger-1")], remove=[world.key("online").keyid])


@pytest.mark.parametrize("roots", [0, 2])
def test_recovering_from_older_metadata_makes_no_second_root_of_a_version(
    roots: int, world: World
) -> None:
    device = world.device(world.folder / "state")
    base = _spoil(world, roots=roots)
    device.visit()
    _recover(world, base)
    assert json.loads(world.repository().root())["signed"]["version"] == roots + 2
    assert device.visit() == world.releases[3].index.digest
    timestamp = read(world.files(), "timestamp")["signed"]["version"]
    assert timestamp == int(base.removeprefix("tuf-")) + 1
    # The metadata that was recovered from is signed by a key that does not count any more.
    with pytest.raises(TrustError, match=r"timestamp\.json cannot be trusted"):
        _recover(world, base)


def _hide_roots(world: World) -> None:
    files = world.files()
    world.serve(
        {name: data for name, data in files.items() if "root" not in name or name[0] == "1"}
    )


def _plant_root(world: World) -> None:
    world.serve({**world.files(), "4.root.json": world.files()["3.root.json"]})


def _damage_the_manifest(world: World) -> None:
    descriptor, _ = world.store.read_tag(TUF_TAG, limit=1 << 20)
    digest = descriptor.digest.removeprefix("sha256:")
    (world.path / "blobs" / "sha256" / digest).write_bytes(b"{}")


def _remove_the_tag(world: World) -> None:
    world.store.remove([TUF_TAG])


def _plant_a_manifest(world: World) -> None:
    world.serve_manifest({"schemaVersion": 2})


@pytest.mark.parametrize(
    "spoil", [_hide_roots, _plant_root, _damage_the_manifest, _remove_the_tag, _plant_a_manifest]
)
def test_recovering_whatever_was_done_to_the_newest_metadata(
    spoil: Callable[[World], None], world: World
) -> None:
    device = world.device(world.folder / "state")
    base = _spoil(world, roots=2)
    device.visit()
    newest_root = world.repository().root()
    spoil(world)
    with pytest.raises(RegistryError):
        _recover(world, TUF_TAG, newest_root)
    _recover(world, base, newest_root)
    assert json.loads(world.repository().root())["signed"]["version"] == 4
    assert device.visit() == world.releases[3].index.digest


def test_a_channel_may_need_two_signatures(world: World) -> None:
    both = ("online", "targets", "cells-release", "stranger-1")
    world.repository(*both).rotate("cells-release", add=[world.key("stranger-1")], threshold=2)
    with pytest.raises(RegistryError, match="Role 'cells-release' is signed by 2 of"):
        world.repository("online", "cells-release").point("cells", "production", ref(9))
    world.repository("online", "cells-release", "stranger-1").point("cells", "production", ref(9))
    assert served(world, channel="production") == [9, 1]


def test_a_model_is_added_by_public_keys(world: World) -> None:
    keys = ModelKeys(ci=world.key("stranger-1"), release=world.key("stranger-2"))
    world.repository("targets", "online").add_model("birds", keys)
    assert served(world, "birds") == []
    world.repository("online", "stranger-1").point("birds", "candidate", ref(9))
    world.repository("online", "stranger-2").point("birds", "production", ref(9))
    assert served(world, "birds", "production") == [9]
    assert world.device(world.folder / "state").visit() == world.releases[3].index.digest
    with pytest.raises(RegistryError, match="'birds' is there already"):
        world.repository().add_model("birds", keys)
    with pytest.raises(RegistryError, match="Role 'targets' is signed by 1 of"):
        world.repository("online").add_model("cats", keys)


# Roots that several people sign.


@pytest.fixture
def draft(world: World, tmp_path: Path) -> Path:
    """A root with another online key, which the first of two people has signed."""
    path = tmp_path / "draft.json"
    result = world.repository("root-1").rotate(
        "online", add=[world.key("stranger-1")], remove=[world.key("online").keyid], draft=path
    )
    assert result is not None
    return path


def test_a_draft_is_signed_by_one_after_the_other(world: World, draft: Path) -> None:
    before = world.files()
    wanted = world.key("root-2").keyid[:12]
    assert RootDraft.read(draft).missing == [
        f"1 more signature(s) are needed of the {kind} root's keys {wanted}"
        for kind in ("present", "new")
    ]
    changes = RootDraft.read(draft).changes
    assert f"timestamp gains key {world.key('stranger-1').keyid}" in changes
    assert f"snapshot loses key {world.key('online').keyid}" in changes
    with pytest.raises(RegistryError, match="is not complete: 1 more signature"):
        world.repository("stranger-1").apply_draft(draft)
    assert world.files() == before
    done = sign_draft(draft, root=world.root, signers=world.signers("root-2", "cells-ci"))
    assert done.missing == []
    world.repository("stranger-1").apply_draft(draft)
    world.repository("stranger-1", "cells-ci").point("cells", "candidate", ref(9))
    assert _roles(world, "snapshot", "timestamp") == [[world.key("stranger-1")]] * 2
    # It was applied already: nothing to do, and nothing to complain about.
    world.repository("stranger-1").apply_draft(draft)


def test_whoever_applies_a_draft_may_be_the_last_to_sign(world: World, draft: Path) -> None:
    world.repository("root-2", "stranger-1").apply_draft(draft)
    assert json.loads(world.repository().root())["signed"]["version"] == 2


def test_what_a_new_root_makes_necessary_has_to_be_signed_too(world: World, draft: Path) -> None:
    before = world.files()
    with pytest.raises(RegistryError, match="Role 'snapshot' is signed by 1 of"):
        world.repository("root-2", "online").apply_draft(draft)
    assert world.files() == before


def test_without_a_place_for_a_draft_the_missing_signatures_are_named(world: World) -> None:
    with pytest.raises(RegistryError, match="The new root needs more signatures: 1 more"):
        world.repository("root-1").rotate("root", threshold=1)


def test_a_draft_is_not_needed_when_all_keys_are_at_hand(world: World, tmp_path: Path) -> None:
    path = tmp_path / "draft.json"
    assert world.repository().rotate("root", threshold=1, draft=path) is None
    assert not path.exists()


def test_a_draft_is_only_signed_with_keys_that_count(world: World, draft: Path) -> None:
    for keys in (("cells-ci",), ("root-1",), ("stranger-2",)):
        with pytest.raises(RegistryError, match="had anything to sign"):
            sign_draft(draft, root=world.root, signers=world.signers(*keys))


def test_a_draft_for_a_root_that_was_changed_since_is_refused(world: World, draft: Path) -> None:
    world.repository().rotate("root")
    with pytest.raises(RegistryError, match="was written for version 1 of root"):
        world.repository("root-2", "stranger-1").apply_draft(draft)


def _without_signatures(document: dict[str, Any]) -> None:
    document["roots"][-1]["signatures"] = []


def _other_threshold(document: dict[str, Any]) -> None:
    document["roots"][-1]["signed"]["roles"]["root"]["threshold"] = 1


def _a_gap(document: dict[str, Any]) -> None:
    del document["roots"][1]


@pytest.mark.parametrize("change", [_without_signatures, _other_threshold, _a_gap])
def test_nobody_signs_a_draft_with_a_made_up_past(
    change: Callable[[dict[str, Any]], None], world: World, tmp_path: Path
) -> None:
    for _ in range(2):
        world.repository().rotate("root")
    path = tmp_path / "draft.json"
    world.repository("root-1").rotate("root", threshold=1, draft=path)
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    with pytest.raises(TrustError):
        sign_draft(path, root=world.root, signers=world.signers("root-2"))
    assert path.read_bytes() == before


def test_nobody_signs_a_draft_of_another_registry(
    world: World, draft: Path, tmp_path: Path
) -> None:
    other = World(tmp_path / "other")
    with pytest.raises(TrustError, match="another registry"):
        sign_draft(draft, root=other.root, signers=world.signers("root-2"))


def test_a_draft_that_was_changed_after_signing_is_not_complete(world: World, draft: Path) -> None:
    document = json.loads(draft.read_bytes())
    document["proposed"]["signed"]["roles"]["root"]["threshold"] = 1
    draft.write_text(json.dumps(document))
    assert len(sign_draft(draft, root=world.root, signers=world.signers("root-2")).missing) == 1
    with pytest.raises(RegistryError, match="is not complete"):
        world.repository("stranger-1").apply_draft(draft)


def test_a_draft_cannot_steer_a_terminal(world: World, draft: Path) -> None:
    document = json.loads(draft.read_bytes())
    document["proposed"]["signed"]["roles"]["root"]["keyids"].append("\x1b[2J")
    draft.write_text(json.dumps(document))
    with pytest.raises(RegistryError, match="is no draft of a root") as raised:
        sign_draft(draft, root=world.root, signers=world.signers("root-2"))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": "edgeline-root-draft", "roots": [], "proposed": {}}',
        b'{"format": "edgeline-root-draft", "roots": [], "proposed": 1}',
        b'{"format": "edgeline-root-draft"}',
    ],
)
def test_what_is_no_draft_is_refused(data: bytes, world: World, tmp_path: Path) -> None:
    path = tmp_path / "draft.json"
    path.write_bytes(data)
    for act in (
        lambda: sign_draft(path, root=world.root, signers=world.signers()),
        lambda: world.repository().apply_draft(path),
    ):
        with pytest.raises(RegistryError, match="is no draft of a root"):
            act()
    path.unlink()
    with pytest.raises(RegistryError, match="cannot be read"):
        world.repository().apply_draft(path)
