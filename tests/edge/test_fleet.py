"""Reports: what a device says, whose word counts, and that no rollout is halted by bad luck."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from securesystemslib.signer import CryptoSigner, Signer

from benchmarks import fleet
from edgeline.cli import watch
from edgeline.device import reporting, update
from edgeline.device.reporting import Reporter, accept_enrolment, request_enrolment
from edgeline.device.shadow import Shadow, ShadowSettings
from edgeline.device.state import SHADOW_FILE, Rejection
from edgeline.device.watch import Watcher
from edgeline.drift import QUANTITIES, Shift
from edgeline.errors import DeviceError, IntegrityError, ModelError, RegistryError, TrustError
from edgeline.fleet.gather import Memory, gather
from edgeline.fleet.halting import Rules, judge, next_share
from edgeline.registry.format import Descriptor, ReleaseRef
from edgeline.registry.rollout import Rollout
from edgeline.telemetry.places import Place, open_place
from edgeline.telemetry.report import (
    LATENCY_BOUNDS,
    MAX_REPORT,
    REPORTS,
    Compared,
    Counts,
    Drift,
    Enrolment,
    Fleet,
    Served,
    parse_key,
    seal_enrolment,
    without_paths,
)
from tests.edge.devices import MODEL, device, release
from tests.edge.fleet import DAY, NEW, NOW, OLD, YEAR, Reporting, settled, well
from tests.edge.servers import RegistryServer

if TYPE_CHECKING:
    from tests.edge.conftest import Store

IDS = [f"{number:032x}" for number in range(1000)]
ROLLOUT = Rollout(1, ReleaseRef(2, Descriptor("application/vnd.oci", NEW, 100)), 500)


@pytest.fixture(scope="session")
def fleet_key() -> CryptoSigner:
    """What enrols devices."""
    return CryptoSigner.generate_ed25519()


@pytest.fixture
def mine(fleet_key: CryptoSigner) -> Reporting:
    """A device that is enrolled."""
    return Reporting(IDS[1], fleet_key)


def _open(mine: Reporting, data: bytes, **options: Any) -> Any:
    fleet = Fleet([mine.fleet.public_key], options.pop("revoked", ()))
    return REPORTS.open(data, fleet, at=NOW, **options)


def test_a_report_comes_back_as_it_was_signed(mine: Reporting) -> None:
    report = replace(
        well(mine.id),
        error="UnreachableError",
        rejected=Served(3, OLD, reason="int8: it crashed here (SIGSEGV)"),
        counts=Counts(since=NOW - DAY, predictions=3, labels={"cat": 2, "dog": 1}, crashes=1),
        shadow=Compared(NEW, predictions=3, agreed=2, seconds=0.1),
    )
    changes = {name: getattr(report, name) for name in ("error", "rejected", "counts", "shadow")}
    assert _open(mine, mine.report(**changes)) == report


def _resign(mine: Reporting, other: Reporting) -> bytes:
    """A report that another device signed, with this one's enrolment."""
    return Reporting(mine.id, mine.fleet, other.key).report(mine.enrolment())


FORGED: dict[str, Callable[[Reporting, Reporting], bytes]] = {
    "it is not enrolled": lambda mine, _: Reporting(
        mine.id, CryptoSigner.generate_ed25519(), mine.key
    ).report(),
    "it enrolled itself": lambda mine, _: Reporting(mine.id, mine.key, mine.key).report(),
    "its enrolment has ended": lambda mine, _: mine.report(mine.enrolment(expires=NOW - 1)),
    "its enrolment is for another model": lambda mine, _: mine.report(mine.enrolment(model="dogs")),
    "another device signed it": _resign,
    "it speaks for another device": lambda mine, other: mine.report(device=other.id),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_no_enrolled_device_says_counts_for_nothing(name: str, mine: Reporting) -> None:
    other = Reporting(IDS[2], mine.fleet)
    with pytest.raises(TrustError):
        _open(mine, FORGED[name](mine, other))


def test_a_device_that_was_revoked_counts_for_nothing(mine: Reporting) -> None:
    with pytest.raises(TrustError, match="no longer enrolled"):
        _open(mine, mine.report(), revoked=[mine.id])


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": -1},
        {"time": "yesterday"},
        {"time": -1.0},
        {"active": Served(2, "sha256:../../etc", "int8")},
        {"counts": Counts(latency=[1, 2])},
        {"counts": Counts(labels={str(each): 1 for each in range(200)})},
        {"counts": Counts(predictions=1 << 60)},
        {"model": "../pets"},
        {"shadow": Compared("sha256:x")},
        {"shadow": Compared(NEW, predictions=1, agreed=2)},
    ],
    ids=str,
)
def test_a_malformed_report_is_refused(change: dict[str, Any], mine: Reporting) -> None:
    with pytest.raises(IntegrityError, match="malformed"):
        _open(mine, mine.report(**change))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"report": 1, "enrolment": 2}', b"[" * 9999])
def test_what_is_no_report_is_refused(data: bytes, mine: Reporting) -> None:
    with pytest.raises(IntegrityError):
        _open(mine, data)


def test_a_report_has_a_bounded_size(mine: Reporting) -> None:
    with pytest.raises(IntegrityError, match="at most"):
        mine.report(software="x" * MAX_REPORT)
    with pytest.raises(IntegrityError, match="at most"):
        _open(mine, b" " * (MAX_REPORT + 1))


@pytest.mark.parametrize(("length", "kept"), [(2, 100), (200, 13)])
def test_a_report_has_room_for_any_labels(length: int, kept: int, mine: Reporting) -> None:
    counts = Counts()
    for number in range(1000):
        counts.add_label(chr(0x4E00 + number) * length)
    shifts = {name: Shift(1 / 3, 1 / 3) for name in QUANTITIES}
    full: dict[str, Any] = {
        "counts": counts,
        "rejected": Served(3, OLD, reason="y" * 200),
        "error": "UnreachableError",
        "shadow": Compared(NEW, predictions=3, agreed=2, seconds=1 / 3, confidence=1 / 3),
        "drift": Drift(NEW, NOW, NOW, 500, shifts),
    }
    assert _open(mine, mine.report(**full)).counts.labels == counts.labels
    assert len(counts.labels) == kept + 1
    assert sum(counts.labels.values()) == 1000


def test_only_ed25519_keys_are_enrolled() -> None:
    key = CryptoSigner.generate_ecdsa().public_key
    with pytest.raises(ValueError, match="Ed25519"):
        parse_key({"id": key.keyid, **key.to_dict()})


def test_a_reason_names_no_path() -> None:
    said = without_paths("int8: /home/ada/.cache/x.so: cannot open /var/lib/y\x1b[31m" + "z" * 999)
    assert "ada" not in said
    assert "/var" not in said
    assert said.isprintable()
    assert len(said) < 250


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where reports go."""
    if request.param == "folder":
        return str(tmp_path / "reports")
    server: RegistryServer = request.getfixturevalue("server")
    return f"oci://{server.host}/{tmp_path.name.lower()}"


def _gather(place: str, fleet: Signer, memory: Memory | None = None, **options: Any) -> Any:
    return _gather_all([open_place(place)], fleet, memory, **options)


def _gather_all(
    places: list[Place], fleet: Signer, memory: Memory | None = None, **options: Any
) -> Any:
    return gather(
        places,
        model=MODEL,
        channel="production",
        fleet=Fleet([fleet.public_key], options.pop("revoked", ())),
        memory=memory or Memory({}, {}),
        at=options.pop("at", NOW),
    )


def test_a_report_that_is_filed_as_another_devices_counts_for_nothing(
    mine: Reporting, tmp_path: Path
) -> None:
    open_place(str(tmp_path)).put(IDS[2], mine.report())
    found = _gather(str(tmp_path), mine.fleet)
    assert not found.reports
    assert f"was filed as {IDS[2]}'s" in found.refused[IDS[2]]


def test_a_place_has_one_report_a_device(place: str, fleet_key: CryptoSigner) -> None:
    devices = [Reporting(each, fleet_key) for each in IDS[:3]]
    for number in (10, 11):
        for each in devices:
            open_place(place).put(each.id, each.report(sequence=number))
    found = _gather(place, fleet_key)
    assert [each.device for each in found.reports] == IDS[:3]
    assert {each.sequence for each in found.reports} == {11}
    assert len([*open_place(place).entries()]) == 3


def test_an_older_report_counts_for_nothing(place: str, mine: Reporting, tmp_path: Path) -> None:
    memory, old = Memory({}, {}), mine.report(sequence=10)
    open_place(place).put(mine.id, mine.report(sequence=11))
    assert len(_gather(place, mine.fleet, memory).reports) == 1
    memory.save(tmp_path / "memory.json")
    open_place(place).put(mine.id, old)
    found = _gather(place, mine.fleet, Memory.load(tmp_path / "memory.json"))
    assert found.reports == ()
    assert "11 was read" in found.refused[mine.id]


def test_what_devices_served_is_remembered_day_by_day(
    mine: Reporting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, file = str(tmp_path / "reports"), tmp_path / "memory.json"
    for number, version in enumerate((1, 2, 2, 1)):  # two looks a day
        active = Served(version, NEW if version == 2 else OLD, "int8")
        open_place(place).put(mine.id, mine.report(sequence=number, active=active))
        memory = Memory.load(file)
        found = _gather(place, mine.fleet, memory, at=NOW + number * DAY / 2)
        memory.save(file)
    served = [(NOW + DAY / 2, {"2": 1}), (NOW + 1.5 * DAY, {"1": 1})]
    assert [(day.time, day.devices) for day in found.days] == served
    kept = Memory.load(file)
    monkeypatch.setattr("edgeline.fleet.gather.MAX_DAYS", 2)
    monkeypatch.setattr("edgeline.fleet.gather.MAX_RELEASES", 1)
    reports = [replace(well(each), active=Served(int(each) // 2, NEW)) for each in IDS[:4]]
    days = kept.add(f"{MODEL}/production", [*reports, well(IDS[5])], at=NOW + 9 * DAY)
    assert [len(day.devices) for day in days] == [1, 1], "two days, and a release of each"
    assert kept.add(f"{MODEL}/candidate", [], at=NOW)[0].devices == {}, "another channel's"


@pytest.mark.parametrize("order", [(10, 11), (11, 10)])
def test_of_two_places_the_newer_report_counts(
    order: tuple[int, int], mine: Reporting, tmp_path: Path
) -> None:
    places = [open_place(str(tmp_path / str(number))) for number in order]
    for each, number in zip(places, order, strict=True):
        each.put(mine.id, mine.report(sequence=number))
    (report,) = _gather_all(places, mine.fleet).reports
    assert report.sequence == 11


def test_of_a_place_so_much_is_read_and_no_more(
    place: str, mine: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in IDS[:3]:
        open_place(place).put(name, mine.report())
    monkeypatch.setattr("edgeline.telemetry.places.MAX_ENTRIES", 2)
    assert [name for name, _ in open_place(place).entries()] == IDS[:2]
    small = replace(REPORTS, limit=len(mine.report()) - 1)
    assert [*open_place(place, kind=small).entries()] == [], "each is larger than its kind"


@pytest.mark.parametrize("kept", ["{", "{}", '{"sequences": [], "days": {}}', '{"days": 1}'])
def test_a_damaged_memory_is_not_taken_for_none(kept: str, tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(kept)
    with pytest.raises(RegistryError, match="an older report could pass"):
        Memory.load(tmp_path / "memory.json")


def test_what_lies_about_among_reports_is_passed_over(mine: Reporting, tmp_path: Path) -> None:
    folder = open_place(str(tmp_path))
    folder.put(mine.id, mine.report())
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / f"{IDS[2]}.json").symlink_to(tmp_path / f"{mine.id}.json")
    (tmp_path / f"{IDS[3]}.json").write_bytes(b" " * (MAX_REPORT + 1))
    (tmp_path / f"{IDS[4]}.json").write_bytes(b"{}")
    found = _gather(str(tmp_path), mine.fleet)
    assert [each.device for each in found.reports] == [mine.id]
    assert [*found.refused] == [IDS[4]]
    with pytest.raises(IntegrityError, match="device's id"):
        folder.put("../etc/passwd", b"")


def _failing(device: str) -> Any:
    return replace(
        well(device, OLD), rejected=Served(2, NEW, reason="int8: it crashed here (SIGSEGV)")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({}, None, id="well"),
        pytest.param({"rejected": Served(2, NEW, reason="no")}, "rejected: no", id="rejected"),
        pytest.param({"rejected": Served(1, OLD, reason="no")}, None, id="another one rejected"),
        pytest.param({"counts": Counts(crashes=2)}, "2 crashes", id="crashes"),
        pytest.param({"counts": Counts(crashes=1)}, None, id="a power failure"),
        pytest.param(
            {"counts": Counts(predictions=900, model_errors=100)}, "100 of 1000", id="errors"
        ),
        pytest.param({"counts": Counts(predictions=1, model_errors=1)}, None, id="one error"),
        pytest.param(
            {"counts": Counts(predictions=200, latency=[0] * 6 + [200] + [0] * 7)},
            "slow",
            id="slow",
        ),
        pytest.param({"active": Served(1, OLD, "int8")}, None, id="it has another release"),
    ],
)
def test_when_a_device_has_failed(change: dict[str, Any], reason: str | None) -> None:
    rules = Rules(max_latency=0.05)
    judged = judge(ROLLOUT, [replace(well(IDS[0]), **change)], rules)
    assert [*judged.failed] == ([IDS[0]] if reason else [])
    assert (reason or "") in "".join(judged.failed.values())


@pytest.mark.parametrize(
    ("agreed", "predictions", "fails"),
    [(950, 1000, False), (940, 1000, False), (900, 1000, True), (0, 2, False), (0, 5, True)],
)
def test_a_model_that_disagrees_in_the_shadow_has_failed(
    agreed: int, predictions: int, fails: bool
) -> None:
    compared = Compared(NEW, predictions=predictions, agreed=agreed)
    report = replace(well(IDS[0], OLD), shadow=compared)
    judged = judge(ROLLOUT, [report], Rules(min_agreement=0.95))
    assert (judged.heard, judged.well) == (1, 0), "it does not serve it yet"
    expected = f"{agreed} of {predictions} labels as before"
    assert judged.failed == ({IDS[0]: expected} if fails else {})
    assert judge(ROLLOUT, [report], Rules()).failed == {}, "nothing was promised"


def test_one_stolen_key_halts_nothing() -> None:
    for failed in (1, 2):
        reports = [_failing(each) for each in IDS[:failed]]
        judged = judge(ROLLOUT, reports, Rules())
        assert judged.decision == "wait", "whatever the evidence"
    assert judge(ROLLOUT, map(_failing, IDS[:3]), Rules()).decision == "halt"


def test_devices_that_are_not_in_the_rollout_say_nothing_of_it() -> None:
    judged = judge(ROLLOUT, [well(each, OLD) for each in IDS[:100]], Rules())
    assert (judged.heard, judged.decision) == (0, "wait")
    assert next_share(ROLLOUT, judged, (500, 2500)) is None


def test_a_rollout_goes_on_one_step_without_proof_and_then_with_it() -> None:
    steps, second = (500, 2500, 10_000), replace(ROLLOUT, share=2500)
    few = judge(ROLLOUT, map(well, IDS[:10]), Rules())
    assert few.decision == "wait"
    assert next_share(ROLLOUT, few, steps) == 2500
    assert next_share(second, few, steps) is None
    many = judge(second, map(well, IDS[:50]), Rules())
    assert many.decision == "pass"
    assert next_share(second, many, steps) == 10_000
    fresh = replace(well(IDS[0]), counts=Counts(since=NOW - 60))
    rest = replace(fresh, device=IDS[-1])
    some = judge(second, [rest, *map(well, IDS[:50])], Rules())
    assert some.decision == "wait", "the one that is left may fail"
    large = judge(second, [rest, *map(well, IDS[:100])], Rules())
    assert large.decision == "pass", "whatever the one that is left does"
    harmed = judge(ROLLOUT, map(_failing, IDS[:2]), Rules())
    assert next_share(ROLLOUT, harmed, steps) is None, "too few to halt it, and no good sign"
    soaking = judge(ROLLOUT, [fresh, *map(well, IDS[1:10])], Rules())
    assert next_share(ROLLOUT, soaking, steps) is None, "one has not served it for long enough"


@pytest.mark.parametrize(("well_ones", "decision"), [(50, "halt"), (51, "wait")])
def test_it_takes_evidence_to_halt_a_rollout(well_ones: int, decision: str) -> None:
    reports = [*map(_failing, IDS[:3]), *map(well, IDS[3 : 3 + well_ones])]
    judged = judge(ROLLOUT, reports, Rules())
    expected = 3 * math.log(0.1 / 0.005) + well_ones * math.log(0.9 / 0.995)
    assert judged.evidence == pytest.approx(expected)
    assert judged.limit == pytest.approx(math.log(50)), "at most 2% of the good ones"
    assert judged.decision == decision


def _share_halted(fails: NDArray[np.bool_]) -> float:
    """The share of rollouts `[rollouts, devices]` that are ever halted, whenever one looks."""
    failing, others = [*map(_failing, IDS[:500])], [*map(well, IDS[500:])]
    halted = 0
    for rollout in fails:
        # The evidence against a release only grows when a device has failed.
        looks = enumerate(np.flatnonzero(rollout), 1)
        halted += any(
            judge(ROLLOUT, failing[:failed] + others[: place + 1 - failed], Rules()).decision
            == "halt"
            for failed, place in looks
        )
    return halted / len(fails)


def test_false_halts_of_good_rollouts_are_rare_however_often_one_looks() -> None:
    """1,000 rollouts whose devices fail at the tolerated rate, looked at after each report."""
    fails = np.random.default_rng(20).random((1000, 500)) < Rules().tolerated
    assert 0 < _share_halted(fails) <= 0.02


def test_bad_rollouts_are_halted_within_two_steps() -> None:
    """1,000 rollouts of a release that fails on a tenth of 200 devices, with 50 of them in it."""
    rng = np.random.default_rng(21)
    fails = np.array([rng.permutation(200)[:50] < 20 for _ in range(1000)])
    assert _share_halted(fails) >= 0.9


@pytest.mark.parametrize("kind", fleet.KINDS, ids=lambda kind: kind.name)
def test_a_fleet_halts_what_is_bad_in_time(kind: fleet.Kind) -> None:
    ends = [fleet.roll_out(kind, seed) for seed in range(4)]
    if kind.is_good:
        assert "halted" not in {end.state for end in ends}
        assert "complete" in {end.state for end in ends}
    else:
        assert "halted" in {end.state for end in ends}
        assert max(end.largest for end in ends) <= fleet.STEPS[1]
        assert max(end.got for end in ends) < fleet.DEVICES / 2


def test_quantiles_come_from_the_histogram() -> None:
    assert Counts().latency_quantile(0.95) is None
    counts = Counts(latency=[95, 5, *[0] * 12])
    assert counts.latency_quantile(0.95) == LATENCY_BOUNDS[0]
    assert counts.latency_quantile(0.96) == LATENCY_BOUNDS[1]
    assert Counts(latency=[*[0] * 13, 1]).latency_quantile(0.5) == math.inf


# On a device.


@pytest.fixture
def enrolled(
    store: Store,
    models: Path,
    tmp_path: Path,
    fleet_key: CryptoSigner,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A device that serves v1 and is enrolled."""
    monkeypatch.setattr(update, "try_model", lambda *_, **__: None)  # another test's business
    release(store, models, 1)
    pets = device(store, tmp_path / "device")
    pets.update()
    request = request_enrolment(pets)
    assert request_enrolment(pets) == request, "its key is made once"
    enrolment = Enrolment(request["device"], MODEL, parse_key(request["key"]), NOW + 10 * YEAR)
    accept_enrolment(pets, seal_enrolment(enrolment, fleet_key))
    return pets


def test_a_device_reports_what_it_does(
    enrolled: Any, tmp_path: Path, fleet_key: CryptoSigner
) -> None:
    place = str(tmp_path / "reports")
    image = np.zeros((8, 8, 3), np.uint8)
    with Watcher(enrolled, reporter=Reporter(enrolled, place)) as watcher:
        for _ in range(3):
            watcher.predict(image)
        with pytest.raises(Exception, match="image"):
            watcher.predict(b"no image")
        watcher.check()
    # Without its thread, which reports by the clock.
    reporter = Reporter(enrolled, place)
    Watcher(enrolled, reporter=reporter)._follow()
    state = enrolled.folder.read()
    reporter.report(state, now=NOW + YEAR)
    assert not reporter.report(state, now=NOW + YEAR + 60), "once an hour at most"
    rejected = Rejection(NEW, 2, "int8: it hangs here", (), "")
    changed = replace(state, rejected=rejected)
    assert not reporter.report(changed, now=NOW + YEAR + 60)
    assert reporter.report(changed, now=NOW + YEAR + 1000), "sooner, when something changed"
    assert reporter.report(changed, now=NOW), "a clock that was set back silences nobody"
    reporter.close()
    (report,) = _gather(place, fleet_key).reports
    assert report.active is not None
    assert (report.active.version, report.active.variant) == (1, "float32")
    assert report.rejected == Served(2, NEW, reason="int8: it hangs here")
    assert report.counts.predictions == sum(report.counts.latency) == 3
    assert sum(report.counts.labels.values()) == 3
    assert 1 / 3 <= report.counts.confidence <= 1
    assert 0 <= report.counts.entropy <= math.log(3) + 1e-6
    assert report.counts.image_errors == 1
    assert report.counts.crashes == 0, "both were told to end"
    assert report.sequence > NOW + YEAR, "it never falls back"


class _Saying:
    """A classifier that says what it is given."""

    def predict(self, image: Any) -> Any:
        if image is None:
            raise ModelError("it fails here")
        return SimpleNamespace(label=image, probability=0.5)


def test_a_shadow_is_compared_and_keeps_to_its_budget(store: Store, enrolled: Any) -> None:
    time_now = [0.0]
    installed = enrolled.folder.load_active().installed
    settings = ShadowSettings(predictions=3, seconds=100.0, budget=0.25)
    shadow = Shadow(cast("Any", _Saying()), installed, settings, clock=lambda: time_now[0])
    served: Any = SimpleNamespace(label="cat", probability=0.7)
    for tried, image in enumerate(("cat", "dog", None), 1):
        assert not shadow.is_done
        shadow.offer(cast("Any", image), served, 0.02)
        settled(shadow, tried)
    assert shadow.is_done
    shadow.offer("cat", served, 0.02)
    shadow.close()
    compared = shadow.compared
    assert (compared.predictions, compared.agreed, compared.errors) == (2, 1, 1)
    assert (compared.confidence, compared.served_confidence) == (0.5, 0.7)
    late = Shadow(cast("Any", _Saying()), installed, settings, clock=lambda: time_now[0])
    late._spent = 10.0
    time_now[0] = 39.0
    late.offer("cat", served, 0.02)
    assert late._jobs.empty(), "a quarter of its time is over"
    time_now[0] = 100.0
    assert late.is_done
    late.close()


def test_a_new_model_is_compared_before_it_takes_over(
    enrolled: Any, store: Store, models: Path, tmp_path: Path, fleet_key: CryptoSigner
) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    reporter = Reporter(enrolled, str(tmp_path / "reports"))
    settings = ShadowSettings(predictions=2, budget=1e9)
    with Watcher(enrolled, reporter=reporter, shadow=settings) as watcher:
        published = release(store, models, 2)
        watcher.check()
        assert watcher.classify(image)[0].version == 1
        shadow = watcher._shadow
        assert shadow is not None
        settled(shadow, 1)
        watcher.check()
        assert watcher.classify(image)[0].version == 1
        settled(shadow, 2)
        watcher.check()
        assert watcher.classify(image)[0].version == 2
        assert watcher._shadow is None
        reporter.report(enrolled.folder.read(), now=NOW + YEAR)
    (report,) = _gather(str(tmp_path / "reports"), fleet_key).reports
    assert report.shadow is not None
    found = (report.shadow.digest, report.shadow.predictions, report.shadow.agreed)
    assert found == (published.digest, 2, 2)


def test_a_restart_goes_on_with_a_comparison(enrolled: Any, store: Store, models: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    settings = ShadowSettings(predictions=3, budget=1e9)
    with Watcher(enrolled, shadow=settings) as watcher:
        release(store, models, 2)
        watcher.check()
        watcher.predict(image)
        settled(watcher._shadow, 1)
    with Watcher(enrolled, shadow=settings) as watcher:
        assert watcher.classify(image)[0].version == 1, "the comparison has two to go"
        settled(watcher._shadow, 2)
        watcher.check()
        # As when power fails: nothing is said any more.
        kept = (enrolled.folder.path / SHADOW_FILE).read_bytes()
    (enrolled.folder.path / SHADOW_FILE).write_bytes(kept)
    with Watcher(enrolled, shadow=settings) as watcher:
        assert watcher.classify(image)[0].version == 1
        settled(watcher._shadow, 3)
        watcher.check()
        assert watcher.classify(image)[0].version == 2
        assert not (enrolled.folder.path / SHADOW_FILE).exists()
    with Watcher(enrolled, shadow=settings) as watcher:
        assert watcher.classify(image)[0].version == 2


@pytest.mark.parametrize("kept", ["{", '{"model": 1}', "nothing"])
def test_without_a_comparison_to_go_on_with_the_new_model_is_served(
    kept: str, enrolled: Any, store: Store, models: Path
) -> None:
    settings = ShadowSettings(predictions=3, budget=1e9)
    with Watcher(enrolled, shadow=settings) as watcher:
        release(store, models, 2)
        watcher.check()
    if kept == "nothing":
        (enrolled.folder.path / SHADOW_FILE).unlink()
    else:
        (enrolled.folder.path / SHADOW_FILE).write_text(kept)
    with Watcher(enrolled, shadow=settings) as watcher:
        assert watcher.classify(np.zeros((8, 8, 3), np.uint8))[0].version == 2


def test_a_process_that_ends_by_itself_is_a_crash(enrolled: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "reports")
    for expected in (0, 1, 2):
        reporter = Reporter(enrolled, place)
        active = enrolled.folder.load_active().installed
        reporter.serves(active, now=NOW)
        assert reporter._kept.counts.crashes == expected
    reporter.close()
    assert Reporter(enrolled, place)._kept.counts.crashes == 2


def test_a_place_that_is_away_keeps_nothing_from_predicting(
    enrolled: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with Watcher(enrolled, reporter=Reporter(enrolled, str(tmp_path / "file" / "no"))) as watcher:
        watcher.check()
        watcher.predict(np.zeros((8, 8, 3), np.uint8))
    assert "not reported" in caplog.text


def test_nothing_is_reported_until_one_setting_says_where(
    enrolled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(report=None)
    monkeypatch.delenv(watch.REPORTS_VARIABLE, raising=False)
    assert watch._reporter(options, enrolled) is None
    with Watcher(enrolled) as watcher:
        watcher.check()
    assert not [*enrolled.folder.path.glob("counts*")]
    monkeypatch.setenv(watch.REPORTS_VARIABLE, str(tmp_path / "reports"))
    assert isinstance(watch._reporter(options, enrolled), Reporter)


def test_who_is_not_enrolled_is_told_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="edgeline enrol"):
        Reporter(device(store, tmp_path / "device"), str(tmp_path))


def test_another_devices_enrolment_is_refused(
    enrolled: Any, fleet_key: CryptoSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Reporting(IDS[5], fleet_key)
    with pytest.raises(TrustError, match="expected one of"):
        accept_enrolment(enrolled, other.enrolment())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DeviceError, match=r"edgeline\[reports\]"):
        reporting._need_cryptography()


def test_a_key_is_its_owners_only(enrolled: Any) -> None:
    key = enrolled.folder.base / reporting.KEY_FILE
    assert key.stat().st_mode & 0o077 == 0
    report = json.dumps(request_enrolment(enrolled))
    assert "PRIVATE" not in report
