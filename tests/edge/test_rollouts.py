"""Rollouts: which devices get a release first, that they keep it, and that it can be taken back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.verdict import Deployed
from edgeline.cli import main
from edgeline.device import update
from edgeline.device.identity import device_id, known_id
from edgeline.device.update import Device
from edgeline.errors import NotFoundError, RegistryError
from edgeline.key_files import generate_key, read_public_key
from edgeline.publish.keys import Signers
from edgeline.publish.release import Published
from edgeline.publish.repository import Repository
from edgeline.publish.rollouts import advanced, begun, halted
from edgeline.publish.store import open_for_writing
from edgeline.registry.bundle import Channel, channel_of, custom_of
from edgeline.registry.format import MAX_HISTORY, Descriptor, ReleaseRef, halt_path
from edgeline.registry.rollout import WHOLE, Member, Rollout, place
from edgeline.telemetry.places import open_place
from edgeline.telemetry.report import Served
from tests.edge.devices import MODEL, device, serve, serving
from tests.edge.fleet import Reporting, signer_of
from tests.edge.judged import judged
from tests.edge.servers import RegistryServer
from tests.edge.terminal import Done

if TYPE_CHECKING:
    from tests.edge.conftest import Store


def _ref(number: int) -> ReleaseRef:
    digest = f"sha256:{number:064x}"
    return ReleaseRef(number, Descriptor("application/vnd.oci.image.index.v1+json", digest, 100))


FULL = Channel(MODEL, "production", _ref(1))
FLEET = [f"{number:032x}" for number in range(2000)]


def _members(channel: Channel, *groups: str) -> set[str]:
    return {each for each in FLEET if channel.seen_by(Member(each, groups)).release == _ref(2)}


def test_a_share_of_the_devices_is_in_and_stays_in_as_it_grows() -> None:
    channel = begun(_ref(2), 500)(FULL)
    before = _members(channel)
    assert 60 < len(before) < 140  # 100 of 2,000 are expected; three standard deviations are 29
    for share in (1000, 2500, 9999):
        channel = advanced(1, share)(channel)
        now = _members(channel)
        assert before < now
        before = now
    channel = advanced(1, WHOLE)(channel)
    assert channel.release == _ref(2)
    assert channel.history == (_ref(1),)
    assert channel.rollout is not None
    assert channel.rollout.state == "complete"


def test_other_devices_are_the_first_each_time() -> None:
    first = {each for each in FLEET if place(each, _ref(2).index.digest) < 500}
    then = {each for each in FLEET if place(each, _ref(3).index.digest) < 500}
    assert len(first & then) < len(first) / 2


def test_a_group_is_in_whatever_the_share() -> None:
    channel = begun(_ref(2), 0, ["lab"])(FULL)
    assert _members(channel) == set()
    assert _members(channel, "field") == set()
    assert _members(channel, "field", "lab") == set(FLEET)
    grown = advanced(1, 0, ["office"])(channel)
    assert grown.rollout is not None
    assert grown.rollout.groups == ("lab", "office")


def test_a_halt_takes_it_back_for_good() -> None:
    channel = halted(1)(begun(_ref(2), 5000, ["lab"])(FULL))
    assert _members(channel, "lab") == set()
    with pytest.raises(RegistryError, match="production is halted"):
        advanced(1, 6000)(channel)
    again = begun(_ref(2), 100)(channel)
    assert again.rollout is not None
    assert again.rollout.number == 2, "what is said of the first does not hold for the second"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(lambda: begun(_ref(1), 500)(FULL), "to all devices already", id="served"),
        pytest.param(lambda: begun(_ref(2), 0)(FULL), "above 0%", id="nobody"),
        pytest.param(lambda: begun(_ref(2), WHOLE)(FULL), "below 100%", id="everybody"),
        pytest.param(lambda: begun(_ref(2), 5, ["No Name"])(FULL), "A group is named", id="name"),
        pytest.param(
            lambda: begun(_ref(3), 5)(begun(_ref(2), 5)(FULL)), "is being rolled out", id="two"
        ),
        pytest.param(
            lambda: advanced(1, 4)(begun(_ref(2), 5)(FULL)), "no smaller", id="it shrinks"
        ),
        pytest.param(lambda: advanced(1, 4)(FULL), "had none yet", id="there is none"),
        pytest.param(lambda: halted(2)(begun(_ref(2), 5)(FULL)), "last one is 1", id="another one"),
        pytest.param(
            lambda: halted(1)(advanced(1, WHOLE)(begun(_ref(2), 5)(FULL))), "is complete", id="late"
        ),
    ],
)
def test_what_makes_no_sense_is_refused(edit: Callable[[], Channel], words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        edit()


@pytest.mark.parametrize(
    "rollout",
    [
        None,
        {},
        {"number": 0, "share": 5, "groups": []},
        {"number": 1, "share": 0.5, "groups": []},
        {"number": 1, "share": WHOLE + 1, "groups": []},
        {"number": 1, "share": -1, "groups": []},
        {"number": 1, "share": 5, "groups": "lab"},
        {"number": 1, "share": 5, "groups": ["../lab"]},
        {"number": 1, "share": 5, "groups": ["lab"] * 33},
        {"number": 1, "share": 5, "groups": [], "release": {"version": 2, "digest": "x"}},
    ],
)
def test_a_malformed_rollout_is_refused(rollout: dict[str, Any] | None) -> None:
    from tuf.api.metadata import TargetFile

    good = custom_of(begun(_ref(2), 5)(FULL))
    if rollout is not None:
        rollout = {"release": good["rollout"]["release"], **rollout}
    target = TargetFile(
        100, {"sha256": "0" * 64}, "pets/production", {"custom": {**good, "rollout": rollout}}
    )
    with pytest.raises(RegistryError, match=r"[Ee]xpected|named by"):
        channel_of("pets/production", target)


def test_a_device_in_the_share_keeps_a_history_of_bounded_length() -> None:
    long = Channel(MODEL, "production", _ref(1), tuple(map(_ref, range(3, 3 + MAX_HISTORY))))
    seen = begun(_ref(2), 0, ["lab"])(long).seen_by(Member("0" * 32, ["lab"]))
    assert seen.history[0] == _ref(1)
    assert len(seen.history) == MAX_HISTORY


@pytest.fixture(autouse=True)
def _no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every model as one that runs: a trial's process is another test's business."""
    monkeypatch.setattr(update, "try_model", lambda *_, **__: None)


def _publish(store: Store, number: int, channel: str = "production") -> Published:
    return store.publish({"float32": b"weights %d" % number}, model=MODEL, channel=channel)


def _edit(store: Store, edit: Callable[[Channel], Channel], *keys: str) -> Channel:
    writer = open_for_writing(store.location)
    signers = store.authority.signers_of(*(keys or ("release", "online")))
    return Repository(writer, root=store.root, signers=signers).edit(MODEL, "production", edit)


def _rollout(store: Store) -> Rollout:
    channel = store.repository().channel(MODEL, "production")
    assert channel is not None
    assert channel.rollout is not None
    return channel.rollout


def test_devices_follow_a_rollout_and_its_halt(store: Store, tmp_path: Path) -> None:
    _publish(store, 1)
    candidate = _publish(store, 2, "candidate")
    lab = device(store, tmp_path / "lab", groups=["lab"])
    other = device(store, tmp_path / "other")
    for each in (lab, other):
        each.update()
    assert known_id(lab.folder.base) is None, "made when it is first needed"
    _edit(store, begun(ReleaseRef(candidate.version, candidate.index), 0, ["lab"]))
    assert lab.update().action == "updated"
    assert other.update().action == "current"
    assert (serving(lab), serving(other)) == (2, 1)
    # What does not say a group does not leave it.
    again = device(store, tmp_path / "lab")
    assert again.update().action == "current"
    assert serving(again) == 2
    name = device_id(lab.folder.base)
    _edit(store, halted(1))
    assert again.update().action == "updated"
    assert serving(again) == 1
    with pytest.raises(NotFoundError):
        again.rollback()  # to what was halted
    assert device_id(lab.folder.base) == name


def test_a_device_in_the_share_is_told_by_its_id(store: Store, tmp_path: Path) -> None:
    _publish(store, 1)
    candidate = _publish(store, 2, "candidate")
    pets = device(store, tmp_path / "device")
    mine = place(device_id(pets.folder.base), candidate.index.digest)
    below, above = int(mine), int(mine) + 1
    if below:
        _edit(store, begun(ReleaseRef(2, candidate.index), below))
        pets.update()
        assert serving(pets) == 1
        _edit(store, advanced(1, above))
    else:
        _edit(store, begun(ReleaseRef(2, candidate.index), above))
    pets.update()
    assert serving(pets) == 2
    _edit(store, advanced(1, WHOLE))
    assert pets.update().action == "current"


def test_an_id_is_made_anew_when_it_was_damaged(tmp_path: Path) -> None:
    first = device_id(tmp_path)
    assert device_id(tmp_path) == first
    (tmp_path / "device-id").write_text("../../etc/passwd")
    assert known_id(tmp_path) is None
    assert device_id(tmp_path) != first


def test_the_ci_key_rolls_nothing_out(store: Store) -> None:
    _publish(store, 1)
    candidate = _publish(store, 2, "candidate")
    with pytest.raises(RegistryError, match="'pets-release' is signed by"):
        _edit(store, begun(ReleaseRef(2, candidate.index), 500), "ci", "online")


@pytest.fixture
def run(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Give a command on a registry with v1 in production and v2 in candidate."""
    root = store.files / "root.json"
    root.write_bytes(store.root)
    monkeypatch.setenv("EDGELINE_ROOT", str(root))
    monkeypatch.setenv("EDGELINE_KEYS", str(store.authority.files))
    deployed = None
    for content, channel in ((b"first", "production"), (b"second", "candidate")):
        variants = {"float32": content}
        published = store.publish(
            variants, verdict=judged(variants, deployed=deployed), channel=channel
        )
        deployed = Deployed(published.tag, published.digest)

    def give(command: str, *arguments: str) -> Done:
        try:
            code = main(["registry", *command.split(), store.location, *arguments])
        except SystemExit as wrong:
            code = int(str(wrong.code))
        out, error = capsys.readouterr()
        return Done(code, out, error)

    return give


PROMOTE = ("pets", "--from", "candidate", "--to", "production", "--yes")


def test_a_rollout_by_commands(run: Callable[..., Done], store: Store) -> None:
    assert run("rollout status", "pets").code == 3
    done = run("promote", *PROMOTE, "--share", "5%", "--group", "lab")
    assert done.code == 0, done.error
    assert "pets/production serves v2 to 5% of its devices and lab (" in done.out
    assert "candidate, production (5%)" in run("list").out
    assert run("list", "--json").documents[0]["rollouts"] == {"production": 0.05}
    assert run("promote", *PROMOTE, "--share", "10%").code == 3
    assert "Halt that first" in run("rollback", "pets", "--channel", "production", "--yes").error
    assert run("verify").code == 0
    done = run("rollout advance", "pets", "--share", "25%", "--yes", "--json")
    expected = {"number": 1, "state": "active", "tag": "v2", "share": 0.25, "groups": ["lab"]}
    assert {name: done.document[name] for name in expected} == expected
    # What a part of the devices runs is needed, and is copied with the rest.
    assert run("gc", "--keep", "1", "--dry-run", "--json").document["releases"] == []
    copied = run("copy", f"{store.location}-copy", "--version", "v1", "--json").document
    assert copied["copied"] == ["v1", "v2"]
    assert run("rollout advance", "pets", "--share", "20%", "--yes").code == 3
    assert run("rollout halt", "pets", "--yes", "--json").document["state"] == "halted"
    assert run("rollout halt", "pets", "--yes").code == 0, "it is halted already"
    assert run("rollout advance", "pets", "--share", "30%", "--yes").code == 3


def test_a_complete_rollout_is_what_all_have(run: Callable[..., Done]) -> None:
    assert run("promote", *PROMOTE, "--share", "0.5%").code == 0
    done = run("rollout advance", "pets", "--share", "100%", "--yes", "--json")
    assert done.document["state"] == "complete"
    assert done.document["serves"]["tag"] == "v2"
    assert "is complete" in run("rollout halt", "pets", "--yes").error
    assert run("rollback", "pets", "--channel", "production", "--yes").code == 0
    assert run("rollout status", "pets", "--json").document["state"] == "halted"


def test_promoting_to_all_ends_a_rollout(run: Callable[..., Done], store: Store) -> None:
    run("promote", *PROMOTE, "--group", "lab")
    variants = {"float32": b"third"}
    store.publish(variants, verdict=judged(variants))
    done = run("promote", *PROMOTE)
    assert "this ends the rollout of v2" in done.error
    assert run("rollout status", "pets", "--json").document["state"] == "halted"


@pytest.mark.parametrize("share", ["5", "0%", "101%", "5.125%", "-1%", "five%"])
def test_a_share_is_a_percentage(run: Callable[..., Done], share: str) -> None:
    done = run("promote", *PROMOTE, f"--share={share}")
    assert done.code == 2
    assert "from 0.01% to 100%, such as 5%" in done.error


def test_a_rollout_is_its_own_word() -> None:
    assert Rollout(1, _ref(2), 0).state == "halted"
    assert Rollout(1, _ref(2), 0, ("lab",)).state == "active"
    assert Rollout(1, _ref(2), WHOLE).state == "complete"


# With keys of the fleet's own.


@pytest.fixture
def fleet(store: Store, tmp_path: Path) -> Path:
    """The keys of a fleet, which may enrol devices and halt rollouts of pets."""
    names = ("fleet", "halt")
    keys = [generate_key(tmp_path / "fleet" / f"{name}.pem", None) for name in names]
    store.repository().add_fleet(MODEL, *keys)
    return tmp_path / "fleet"


def _watcher(store: Store, fleet: Path) -> Repository:
    """The registry to who has the halt key and the online key."""
    keys = [str(fleet / "halt.pem"), str(store.authority.files / "online.pem")]
    writer = open_for_writing(store.location)
    return Repository(writer, root=store.root, signers=Signers.load(keys))


def test_the_halt_key_halts_for_good_and_does_no_more(
    store: Store, tmp_path: Path, fleet: Path
) -> None:
    _publish(store, 1)
    candidate = _publish(store, 2, "candidate")
    lab = device(store, tmp_path / "lab", groups=["lab"])
    wanted = ReleaseRef(2, candidate.index)
    _edit(store, begun(wanted, 0, ["lab"]))
    lab.update()
    assert serving(lab) == 2
    watcher = _watcher(store, fleet)
    with pytest.raises(RegistryError, match="'pets-release' is signed by"):
        watcher.edit(MODEL, "production", advanced(1, 5000))
    with pytest.raises(RegistryError, match="'pets-release' is signed by"):
        watcher.point(MODEL, "production", wanted)
    with pytest.raises(RegistryError, match="'pets-fleet' is signed by"):
        watcher.revoke(MODEL, ["0" * 32])
    with pytest.raises(NotFoundError, match="no rollout 2"):
        watcher.stop(MODEL, "production", 2)
    watcher.stop(MODEL, "production", 1)
    watcher.stop(MODEL, "production", 1)
    assert _rollout(store).state == "halted"
    lab.update()
    assert serving(lab) == 1
    # Whoever stole the halt key takes back what it said.
    watcher._update(lambda metadata: metadata.set_note(halt_path(MODEL), {"halted": {}}))
    assert lab.update().action == "current"
    assert serving(lab) == 1
    # Another rollout of the same release is another rollout.
    _edit(store, halted(1))
    _edit(store, begun(wanted, 0, ["lab"]))
    lab.update()
    assert serving(lab) == 2


def test_a_check_in_a_rollout_is_one_request(store: Store, tmp_path: Path, fleet: Path) -> None:
    _publish(store, 1)
    candidate = _publish(store, 2, "candidate")
    _edit(store, begun(ReleaseRef(2, candidate.index), 0, ["lab"]))
    watcher = _watcher(store, fleet)
    with RegistryServer() as own:
        serve(store, own)
        lab = Device(own.location, MODEL, root=store.root, state=tmp_path / "lab", groups=["lab"])
        lab.update()
        own.log.clear()
        assert lab.update().action == "current"
        assert len(own.log) == 1
        watcher.stop(MODEL, "production", 1)
        serve(store, own)
        own.log.clear()
        lab.update()
        metadata = [each.path for each in own.log if "/blobs/" in each.path]
        assert len(metadata) <= 4 + 1, "timestamp, snapshot, the halt, and the release's contract"


def test_a_fleets_keys_are_apart(store: Store, fleet: Path) -> None:
    halt = read_public_key(fleet / "halt.pub")
    with pytest.raises(RegistryError, match="is there already"):
        store.repository().add_fleet(MODEL, halt, halt)
    with pytest.raises(RegistryError, match="must not share a key"):
        store.repository().add_fleet("cats", halt, halt)
    with pytest.raises(RegistryError, match="no model 'birds'"):
        store.repository().add_fleet("birds", halt, halt)
    with pytest.raises(NotFoundError, match="fleet init"):
        store.repository().fleet("cats")


def test_a_fleet_by_commands(
    run: Callable[..., Done], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    for name in ("fleet", "halt"):
        generate_key(keys / f"{name}.pem", None)
    options = ("--fleet-key", str(keys / "fleet.pub"), "--halt-key", str(keys / "halt.pub"))
    assert run("fleet init", "pets", *options).code == 0
    watch = (
        "pets",
        "--reports",
        str(tmp_path / "reports"),
        "--memory",
        str(tmp_path / "seen.json"),
    )
    signing = ("--key", str(keys / "halt.pem"), "--key", str(store.authority.files / "online.pem"))
    assert "no rollout under way" in run("watch-rollout", *watch).error
    run("promote", *PROMOTE, "--share", "5%")
    assert "no folder" in run("watch-rollout", *watch).error
    digest = _rollout(store).release.index.digest
    signer = signer_of(keys / "fleet.pem")
    devices = [Reporting(f"{number:032x}", signer) for number in range(5)]
    expires = time.time() + 3600
    for number, each in enumerate(devices):
        served = Served(2, digest, None if number < 3 else "float32", "hangs")
        changes = {"rejected": served, "active": None} if number < 3 else {"active": served}
        report = each.report(each.enrolment(expires=expires), **changes)
        open_place(str(tmp_path / "reports")).put(each.id, report)
    listed = run("fleet list", *watch)
    assert listed.out.count("v2: hangs") == 3
    page = tmp_path / "fleet.html"
    assert "5 devices" in run("fleet report", *watch, "--output", str(page)).out
    assert "rejected v2: hangs" in page.read_text()
    missing = run("fleet report", *watch, "--output", str(tmp_path / "no" / "fleet.html"))
    assert (missing.code, "cannot be written" in missing.error) == (3, True)
    assert run("fleet revoke", "pets", devices[0].id).code == 3, "its key is not at hand"
    done = run("watch-rollout", *watch, *signing, "--json", "--least-failed", "4")
    assert (done.code, done.document["action"], done.document["heard"]) == (0, "waits", 5)
    done = run("watch-rollout", *watch, *signing, "--json")
    assert (done.code, done.document["action"]) == (3, "halted")
    assert done.document["failed"] == {each.id: "rejected: hangs" for each in devices[:3]}
    assert done.document["min_agreement"] == 0.95, "as the verdict promised"
    assert run("rollout status", "pets", "--json").document["state"] == "halted"
    assert run("verify").code == 0
    monkeypatch.setenv("EDGELINE_KEYS", f"{keys} {store.authority.files}")
    assert run("fleet revoke", "pets", devices[0].id).code == 0
    assert f"Device {devices[0].id} is no longer enrolled" in run("fleet list", *watch).error


def test_a_rollout_advances_by_command(
    run: Callable[..., Done], store: Store, tmp_path: Path, fleet: Path
) -> None:
    run("promote", *PROMOTE, "--share", "5%")
    digest, signer = _rollout(store).release.index.digest, signer_of(fleet / "fleet.pem")
    for number in range(50):
        each = Reporting(f"{number:032x}", signer)
        served = Served(2, digest, "float32")
        report = each.report(each.enrolment(expires=time.time() + 3600), active=served)
        open_place(str(tmp_path / "reports")).put(each.id, report)
    watch = ("pets", "--reports", str(tmp_path / "reports"), "--json")
    assert run("watch-rollout", *watch).document["action"] == "waits", "nobody said --advance"
    advance = ("watch-rollout", *watch, "--advance")
    first = run(*advance)
    assert (first.code, first.document["action"], first.document["share"]) == (0, "advanced", 0.25)
    strict = run(*advance, "--false-passes", "0.001")
    assert strict.document["action"] == "waits", "50 devices are too few for that"
    last = run(*advance)
    assert (last.code, last.document["action"], last.document["share"]) == (0, "advanced", 1)
    assert run("rollout status", "pets", "--json").document["state"] == "complete"


def test_a_device_is_enrolled_by_commands(
    store: Store, tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = store.files / "root.json"
    root.write_bytes(store.root)
    files = {name: tmp_path / f"{name}.json" for name in ("request", "enrolment")}
    on_device = ["enrol", "--registry", store.location, "--model", MODEL]
    on_device += ["--root", str(root), "--state", str(tmp_path / "device")]
    assert main([*on_device, "--output", str(files["request"])]) == 0
    capsys.readouterr()
    enrol = ["registry", "fleet", "enrol", store.location, MODEL, str(files["request"])]
    enrol += ["--output", str(files["enrolment"]), "--root", str(root), "--key"]
    assert main([*enrol, str(fleet / "halt.pem")]) == 3, "it may only halt"
    assert main([*enrol, str(fleet / "fleet.pem")]) == 0
    assert main([*on_device, "--accept", str(files["enrolment"])]) == 0
    assert main([*on_device, "--accept", str(files["request"])]) == 4
    files["request"].write_text("{}")
    assert main([*enrol, str(fleet / "fleet.pem")]) == 3
    assert "Traceback" not in capsys.readouterr().err
