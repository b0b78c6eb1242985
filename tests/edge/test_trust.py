"""Trust on the device: cheap to bring up to date, remembered safely, and explained when refused."""

from __future__ import annotations

import gc
import json
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from securesystemslib.signer import CryptoSigner

from edgeline._files import locked
from edgeline.errors import (
    ConflictError,
    ExpiredError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    TrustError,
    UnreachableError,
)
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.repository import Expiry, Keys, ModelKeys, Repository, initialize
from edgeline.registry.bundle import Channel
from edgeline.registry.format import OCI_INDEX, Descriptor, ReleaseRef
from edgeline.registry.home import default_state
from edgeline.registry.layout import LayoutStore
from edgeline.registry.state import Kept, pack
from edgeline.registry.store import ReadStore
from edgeline.registry.trust import TimeFloor, TrustedChannels
from tests.edge.attacks import Document, World, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(usual: World, tmp_path: Path) -> World:
    """Releases 1 and 3 of cells in candidate, 1 in production; 2 of dogs in both."""
    return usual.copied_to(tmp_path)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device" / "state"


@pytest.mark.parametrize("role", ["root", "release"])
def test_what_ecdsa_keys_sign_takes_cryptography(
    role: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("root", "targets", "online", "ci", "release")
    keys = {
        name: CryptoSigner.generate_ecdsa() if name == role else CryptoSigner.generate_ed25519()
        for name in names
    }
    root, targets, online, ci, release = (keys[name].public_key for name in names)
    store, signers = LayoutWriter(tmp_path / "registry"), Signers(keys.values())
    model = ModelKeys(ci, release)
    named = Keys(
        root=(root,), root_threshold=1, targets=targets, online=online, models={"cells": model}
    )
    pinned = initialize(store, named, signers)
    ref = ReleaseRef(1, Descriptor(OCI_INDEX, f"sha256:{'1' * 64}", 1))
    Repository(store, root=pinned, signers=signers).point("cells", "production", ref)

    def production(folder: Path) -> Channel | None:
        channels = TrustedChannels(LayoutStore(tmp_path / "registry"), root=pinned, state=folder)
        return channels.channel("cells", "production")

    found = production(state)
    assert found is not None
    assert found.release == ref
    monkeypatch.setattr("securesystemslib.signer._key.CRYPTO_IMPORT_ERROR", "no cryptography")
    monkeypatch.setattr("edgeline.registry.trust.find_spec", lambda name: None)
    with pytest.raises(TrustError, match=r"pip install 'edgeline\[ecdsa\]'"):
        production(state.with_name("without"))


class Watched:
    """A store that counts what is read from it, and fails when it is told to."""

    def __init__(self, store: ReadStore, fail: str | None = None) -> None:
        self._store = store
        self._fail = fail  # the name of the file with which the connection is lost
        self.read: dict[str, int] = {}  # bytes

    @property
    def location(self) -> str:
        return self._store.location

    def tags(self) -> list[str]:
        return self._store.tags()

    def read_tag(self, tag: str, *, limit: int) -> tuple[Descriptor, bytes]:
        if self._fail == tag:
            raise UnreachableError("the cable was pulled")
        descriptor, data = self._store.read_tag(tag, limit=limit)
        self.read[tag] = len(data)
        return descriptor, data

    def read_manifest(self, descriptor: Descriptor, *, limit: int) -> bytes:
        return self._store.read_manifest(descriptor, limit=limit)

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        name = descriptor.annotations["org.opencontainers.image.title"]
        if self._fail and name.endswith(self._fail):
            raise UnreachableError("the cable was pulled")
        data = self._store.read_blob(descriptor, limit=limit)
        self.read[name] = len(data)
        return data

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        return self._store.stream_blob(descriptor, offset=offset)


def watched(world: World, state: Path, fail: str | None = None) -> tuple[Watched, TrustedChannels]:
    store = Watched(LayoutStore(world.path), fail)
    return store, TrustedChannels(store, root=world.root, state=state)


def test_a_channel_is_what_was_signed(world: World, state: Path) -> None:
    channels = TrustedChannels(world.store, root=world.root, state=state)
    one, three = world.releases[1], world.releases[3]
    assert channels.channel("cells", "candidate") == Channel("cells", "candidate", three, (one,))
    assert channels.channel("cells", "production") == Channel("cells", "production", one)
    for model, channel in (("cells", "canary"), ("cells", "staging"), ("birds", "candidate")):
        assert channels.channel(model, channel) is None
    for model, channel in (("../x", "candidate"), ("cells", "../x"), ("", "")):
        with pytest.raises(RegistryError, match="is named by"):
            channels.channel(model, channel)


def test_all_channels_are_listed(world: World, state: Path) -> None:
    channels = TrustedChannels(world.store, root=world.root, state=state).channels()
    assert [(each.model, each.name, each.release.version) for each in channels] == [
        ("cells", "candidate", 3),
        ("cells", "production", 1),
        ("dogs", "candidate", 2),
        ("dogs", "production", 2),
    ]
    assert channels == world.repository().channels()


def test_a_channel_of_a_role_that_signed_nothing_yet_is_empty(world: World, state: Path) -> None:
    keys = ModelKeys(ci=world.key("stranger-1"), release=world.key("stranger-2"))
    world.repository().add_model("birds", keys)
    channels = TrustedChannels(world.store, root=world.root, state=state)
    assert channels.channel("birds", "candidate") is None
    assert len(channels.channels()) == 4


# What it costs.


def test_when_nothing_is_new_only_the_manifest_is_read(world: World, state: Path) -> None:
    store, channels = watched(world, state)
    channels.channel("cells", "candidate")
    assert set(store.read) == {
        "tuf", "timestamp.json", "6.snapshot.json", "1.targets.json", "2.cells-ci.json"
    }  # fmt: skip
    for _ in range(2):
        store, channels = watched(world, state)
        channels.channel("cells", "candidate")
        assert set(store.read) == {"tuf"}
    assert store.read["tuf"] < 5_000


def test_what_is_new_is_read_and_no_more(world: World, state: Path) -> None:
    watched(world, state)[1].channels()
    world.repository().rotate("root")
    world.publish(4)
    store, channels = watched(world, state)
    channels.channel("cells", "candidate")
    assert set(store.read) == {
        "tuf", "2.root.json", "timestamp.json", "7.snapshot.json", "3.cells-ci.json"
    }  # fmt: skip


def test_a_check_stays_small_when_releases_are_many(world: World, state: Path) -> None:
    repository = world.repository()
    for version in range(100, 150):
        index = Descriptor(OCI_INDEX, f"sha256:{version:064x}", 1000)
        repository.point("cells", "candidate", ReleaseRef(version, index))
    store, channels = watched(world, state)
    channels.channel("cells", "candidate")
    assert sum(store.read.values()) < 20_000


# The state.


def test_an_object_sees_what_was_published_once_it_refreshes(world: World, state: Path) -> None:
    channels = TrustedChannels(world.store, root=world.root, state=state)
    assert channels.channel("cells", "candidate") is not None
    world.publish(4)
    found = channels.channel("cells", "candidate")
    assert found is not None
    assert found.release.version == 3
    channels.refresh()
    found = channels.channel("cells", "candidate")
    assert found is not None
    assert found.release.version == 4


def _flip(data: bytes) -> bytes:
    return data.replace(b"signatures", b"signatureS", 1)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="emptied"),
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: data[: len(data) // 2] + b"\0" * 512, id="zeroed"),
        pytest.param(_flip, id="changed"),
        pytest.param(lambda data: data.replace(b'"format":1', b'"format":2'), id="another format"),
        pytest.param(lambda data: b'{"files":{},"format":1,"sha256":""}', id="without files"),
        pytest.param(lambda data: b"[]", id="a list"),
    ],
)
def test_a_damaged_state_is_not_silently_forgotten(
    damage: Callable[[bytes], bytes], world: World, state: Path
) -> None:
    device = world.device(state)
    device.visit()
    file = state / "trusted.json"
    good, damaged = file.read_bytes(), damage(file.read_bytes())
    assert damaged != good
    file.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(TrustError, match=r"trusted\.json is damaged .* delete it"):
            device.visit()
    assert file.read_bytes() == damaged
    file.write_bytes(good)
    device.visit()
    file.unlink()
    device.visit()


def test_a_state_that_another_process_uses_is_not_waited_for_without_end(
    world: World, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeline.registry.state.LOCK_SECONDS", 0.2)
    device = world.device(state)
    device.visit()
    with locked(state / "lock", 0), pytest.raises(ConflictError, match="Try again when it is"):
        device.visit()
    device.visit()


def test_a_state_does_not_name_files_elsewhere(world: World, state: Path) -> None:
    """A checksum keeps nobody from writing a state, who can write there anyway."""
    state.mkdir(parents=True)
    for name in ("../evil.json", "/evil.json", "root_history/../../evil.json", "a/b.json", "x"):
        (state / "trusted.json").write_bytes(pack(Kept({name: b"{}"})))
        with pytest.raises(TrustError, match="holds something else than metadata"):
            world.device(state).visit()


def test_the_state_of_another_registry_is_recognized(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    state = tmp_path / "state"
    other.device(state).visit()
    with pytest.raises(TrustError, match="belongs to another registry"):
        world.device(state).visit()
    other.device(state).visit()


def test_a_folder_that_cannot_hold_state_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(RegistryError, match="cannot be used"):
            world.device(state).visit()


def test_what_a_crash_left_is_overwritten(world: World, state: Path) -> None:
    state.mkdir(parents=True)
    (state / "trusted.json.part").write_bytes(b"half of it")
    world.device(state).visit()
    assert sorted(path.name for path in state.iterdir()) == ["lock", "trusted.json"]


def test_nothing_is_left_in_the_temporary_folder(
    world: World, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    world.device(state).visit()
    world.serve(world.recorded[0])
    with pytest.raises(TrustError):
        world.device(state).visit()
    # From Python 3.11 on, an error that a context manager translates belongs to a cycle.
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_several_processes_may_share_a_state(world: World, state: Path) -> None:
    failures: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(8):
                world.device(state).trusts()
        except BaseException as error:
            failures.append(error)

    # Threads with files of their own are to flock what processes are.
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4, 10):
        world.publish(number)
    for thread in threads:
        thread.join()
    assert failures == []
    assert world.device(state).trusts()["cells/candidate"] == 9


def test_a_lost_connection_changes_nothing_and_is_made_up_for(world: World, state: Path) -> None:
    world.device(state).visit()
    world.repository().rotate("root")
    world.publish(4)
    for name in ("tuf", "root.json", "timestamp.json", "snapshot.json", "cells-ci.json"):
        _, channels = watched(world, state, fail=name)
        with pytest.raises(UnreachableError, match="the cable was pulled"):
            channels.channel("cells", "candidate")
    assert world.device(state).trusts()["cells/candidate"] == 4


def test_what_was_verified_before_a_failure_counts(world: World, state: Path) -> None:
    world.publish(4)
    _, channels = watched(world, state, fail="snapshot.json")
    with pytest.raises(UnreachableError):
        channels.refresh()
    # The newer timestamp is known: the older copy is none any more.
    world.serve(world.recorded[-2])
    with pytest.raises(TrustError, match="New timestamp version"):
        world.device(state).visit()


def test_a_device_never_goes_back_to_an_older_root(world: World, state: Path) -> None:
    """Not even when it is given the first root again, and the registry hides those after."""
    first = world.root
    for _ in range(2):
        world.repository().rotate("root")
    world.root = world.repository().root()
    world.device(state).visit()
    files = world.files()
    world.serve({name: data for name, data in files.items() if name != "2.root.json"})
    channels = TrustedChannels(world.store, root=first, state=state)
    with pytest.raises(TrustError, match="does not lead from the given root"):
        channels.refresh()
    world.serve(files)
    channels.refresh()


# What goes wrong otherwise.


def test_a_store_that_is_no_registry_is_named(world: World, state: Path) -> None:
    world.store.remove(["tuf"])
    with pytest.raises(NotFoundError, match=r"no tag 'tuf'.*edgeline registry init"):
        world.device(state).visit()


@pytest.mark.parametrize("root", [b"", b"{}", b"null", b"\xff", b'{"signed": {"_type": "root"}}'])
def test_a_root_that_is_none_is_named(root: bytes, world: World, state: Path) -> None:
    world.root = root
    with pytest.raises(TrustError, match="is not the root metadata of a registry"):
        world.device(state).visit()


def test_metadata_that_is_no_root_is_no_root(world: World, state: Path) -> None:
    world.root = world.files()["timestamp.json"]
    with pytest.raises(TrustError, match="is not the root metadata of a registry"):
        world.device(state).visit()


@pytest.mark.parametrize(
    ("expiry", "role", "remedy"),
    [
        (Expiry(root=1), "root", "holders of the keys of root"),
        (Expiry(timestamp=1), "timestamp", "edgeline registry refresh"),
        (Expiry(snapshot=1), "snapshot", "edgeline registry refresh"),
        (Expiry(targets=1), "targets", "holders of the keys of targets"),
        (Expiry(delegated=1), "cells-ci", "holders of the keys of cells-ci"),
    ],
)
def test_an_expired_role_is_named_with_what_to_do(
    expiry: Expiry, role: str, remedy: str, tmp_path: Path
) -> None:
    world = World(tmp_path, expiry=expiry, days=-3)
    expired = datetime.now(timezone.utc) - timedelta(days=2)
    for _ in range(2):
        with pytest.raises(ExpiredError) as raised:
            world.device(tmp_path / "state").visit()
        message = str(raised.value)
        assert f"{role} expired on {expired:%Y-%m-%d}" in message
        assert "clock" in message
        assert remedy in message


def test_a_registry_that_stands_still_is_refused_in_time(world: World, state: Path) -> None:
    """A device that has seen it all goes on until signatures expire, and not beyond."""
    device = world.device(state)
    device.visit()
    for days, expired in ((29, False), (31, True)):
        now = datetime.now(timezone.utc) + timedelta(days=days)
        with mock.patch("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime") as clock:
            clock.now.return_value = now
            if not expired:
                device.trusts()
                continue
            with mock.patch("edgeline.registry.trust.datetime") as mine:
                mine.now.return_value = now
                with pytest.raises(ExpiredError, match="timestamp expired on"):
                    device.trusts()
    device.visit()


def test_a_time_that_has_passed_counts_when_the_clock_is_behind_it(
    world: World, state: Path
) -> None:
    store, now = LayoutStore(world.path), datetime.now(timezone.utc)
    for days, role in ((29, None), (31, "timestamp"), (400, "root")):
        channels = TrustedChannels(
            store, root=world.root, state=state, floor=TimeFloor(now + timedelta(days=days), root=1)
        )
        if role is None:
            channels.refresh()
            continue
        with pytest.raises(ExpiredError, match=f"{role} expired on .* Set the clock"):
            channels.refresh()


def test_the_roles_that_a_channel_rests_on_are_told(world: World, state: Path) -> None:
    channels = TrustedChannels(world.store, root=world.root, state=state)
    assert [role.name for role in channels.roles()] == ["root", "timestamp", "snapshot", "targets"]
    channels.channel("cells", "candidate")
    roles = {role.name: role for role in channels.roles()}
    assert list(roles) == ["root", "timestamp", "snapshot", "targets", "cells-ci"]
    published = {role.name: role.expires for role in world.repository().roles()}
    assert all(role.expires == published[name] for name, role in roles.items())
    signed = roles["root"].signed
    assert signed is not None
    assert roles["root"].expires - signed == timedelta(days=365)
    assert roles["timestamp"].signed is None  # who stole the online key could say anything


def test_a_newer_root_lets_go_of_a_time_that_had_not_passed(world: World, state: Path) -> None:
    floor = TimeFloor(datetime.now(timezone.utc) + timedelta(days=400), root=1)
    channels = TrustedChannels(world.store, root=world.root, state=state, floor=floor)
    with pytest.raises(ExpiredError, match=r"root expired on .* Set the clock"):
        channels.refresh()
    world.repository().rotate("root")
    channels.refresh()


def test_what_the_online_key_signed_for_a_century_lasts_as_long_as_root_lets_it(
    world: World, state: Path
) -> None:
    def century(document: Document) -> None:
        document["signed"]["expires"] = "2126-01-01T00:00:00Z"

    def after(days: int, root: int = 1) -> TrustedChannels:
        floor = TimeFloor(datetime.now(timezone.utc) + timedelta(days=days), root=root)
        return TrustedChannels(world.store, root=world.root, state=state, floor=floor)

    world.serve(world.forge(world.files(), change=century))
    timestamp = after(0).roles()[1]
    assert (timestamp.name, timestamp.says.year) == ("timestamp", 2126)
    assert timestamp.expires - datetime.now(timezone.utc) < timedelta(days=30)
    after(29).refresh()
    with pytest.raises(ExpiredError, match="timestamp expired on"):
        after(31).refresh()
    with pytest.raises(ExpiredError, match="timestamp expired on"):
        after(31).refresh()  # it is not seen for the first time again


def test_a_clock_that_is_behind_makes_no_signature_too_long(world: World, state: Path) -> None:
    """Once it is set, what was seen before is as good as what is seen then."""
    with world.clock(days=60):
        world.repository().refresh()
    roles = TrustedChannels(world.store, root=world.root, state=state).roles()
    assert roles[1].expires < roles[1].says
    floor = TimeFloor(datetime.now(timezone.utc) + timedelta(days=60), root=1)
    channels = TrustedChannels(world.store, root=world.root, state=state, floor=floor)
    assert [role.name for role in channels.roles() if role.expires < role.says] == []


# What the holder of the right key must not do either.


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(target: dict[str, Any]) -> None:
        target[key] = value

    return change


def _set_custom(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(target: dict[str, Any]) -> None:
        target["custom"][key] = value

    return change


_ENTRY = {"version": 1, "digest": f"sha256:{'0' * 64}", "size": 1}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda target: target.pop("custom"), id="nothing else"),
        pytest.param(_set("custom", []), id="a list"),
        pytest.param(_set("hashes", {"sha512": "0" * 128}), id="another hash"),
        pytest.param(_set("hashes", {"sha256": "0" * 64, "sha512": "0" * 128}), id="two hashes"),
        pytest.param(_set("hashes", {"sha256": "../../etc/passwd"}), id="a path for a hash"),
        pytest.param(_set("length", 0), id="no bytes"),
        pytest.param(_set("length", 1 << 40), id="too many bytes"),
        pytest.param(_set_custom("version", 0), id="version 0"),
        pytest.param(_set_custom("version", True), id="a version that is a boolean"),
        pytest.param(_set_custom("version", "7"), id="a version that is a string"),
        pytest.param(_set_custom("version", 10**100), id="a version of many digits"),
        pytest.param(_set_custom("history", None), id="no history"),
        pytest.param(_set_custom("history", [_ENTRY] * 11), id="a long history"),
        pytest.param(_set_custom("history", ["x"]), id="a history of strings"),
        pytest.param(_set_custom("history", [{**_ENTRY, "digest": "x"}]), id="a bad digest"),
        pytest.param(_set_custom("history", [{**_ENTRY, "size": -1}]), id="a negative size"),
        pytest.param(_set_custom("history", [{**_ENTRY, "size": 1 << 40}]), id="a huge size"),
        pytest.param(_set_custom("history", [{**_ENTRY, "version": None}]), id="no version"),
    ],
)
def test_a_signed_target_is_checked(
    change: Callable[[dict[str, Any]], object], world: World, state: Path
) -> None:
    files = world.files()
    document = read(files, "cells-ci")
    document["signed"]["version"] += 1
    change(document["signed"]["targets"]["cells/candidate"])
    world.serve(world.forge(files, {"cells-ci": world.sign(document, "cells-ci")}))
    with pytest.raises(IntegrityError):
        world.device(state).visit()
    with pytest.raises(IntegrityError):
        world.repository().channels()
    # Other channels are not affected.
    assert world.device(state).visit("production") == world.releases[1].index.digest


def test_targets_that_are_no_channels_are_passed_over(world: World, state: Path) -> None:
    files = world.files()
    document = read(files, "targets")
    document["signed"]["version"] += 1
    target = {"length": 1, "hashes": {"sha256": "0" * 64}}
    document["signed"]["targets"] = {"README": target, "../../x": target, "a/b/c": target}
    document["signed"]["delegations"]["roles"][0]["paths"].append("others/*")
    world.serve(world.forge(files, {"targets": world.sign(document, "targets")}))
    assert len(world.device(state).trusts()) == 4
    assert len(world.repository().channels()) == 4
    assert served_models(world) == ["cells", "dogs"]


def served_models(world: World) -> list[str]:
    return sorted({channel.model for channel in world.repository().channels()})


# Where it runs.


def test_the_default_state_is_per_registry_and_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = default_state("oci://../../etc", b"root")
    assert folder.parent == tmp_path / ".local" / "state" / "edgeline"
    assert len(folder.name) == 32
    assert default_state("registry", b"root") == default_state(f"{tmp_path}/registry", b"root")
    others = [("oci://other", b"root"), ("oci://../../etc", b"another"), ("registry", b"root")]
    assert len({folder, *(default_state(*other) for other in others)}) == 4
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert default_state("x", b"").parent == tmp_path / "xdg" / "edgeline"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state("x", b"").parent == tmp_path / ".local" / "state" / "edgeline"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(RegistryError, match="XDG_STATE_HOME"):
        default_state("registry", b"root")


_WITHOUT_CRYPTOGRAPHY = """\
import sys
sys.modules["cryptography"] = None
from pathlib import Path
from edgeline.registry.layout import LayoutStore
from edgeline.registry.state import pack
from edgeline.registry.trust import TrustedChannels
folder = Path(sys.argv[1])
root = Path(sys.argv[2]).read_bytes()
channels = TrustedChannels(LayoutStore(folder), root=root, state=Path(sys.argv[3]))
print(channels.channel("cells", "candidate").release.version)
"""


def test_a_device_needs_no_cryptography_library(
    world: World,
    state: Path,
    tmp_path: Path,
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(world.root)
    for _ in range(2):
        done = python("-c", _WITHOUT_CRYPTOGRAPHY, world.path, root, state)
        assert done.stdout == "3\n", done.stderr
    # It tells forgeries, too.
    files = world.files()
    document = json.loads(files["timestamp.json"])
    document["signed"]["version"] += 1
    world.serve({**files, "timestamp.json": json.dumps(document).encode()})
    done = python("-c", _WITHOUT_CRYPTOGRAPHY, world.path, root, state)
    assert "TrustError" in done.stderr
