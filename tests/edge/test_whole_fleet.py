"""A fleet through the device package itself: updates, trials, reports, the watcher, and back.

Ten devices with folders, ids and keys of their own follow a rollout in a registry; their clocks
are set, and two of them wrongly. What is made up is the outcome of a trial, and the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from edgeline.cli import main
from edgeline.cli.registry_fleet import HALTED
from edgeline.device import update
from edgeline.device.child import ChildError
from edgeline.device.identity import ID_FILE
from edgeline.device.reporting import Reporter, accept_enrolment, request_enrolment
from edgeline.device.state import MODEL_FILE
from edgeline.device.watch import Watcher
from edgeline.fleet.report import Enrolment, parse_key, seal_enrolment
from edgeline.publish.keys import Signers, generate_key
from edgeline.registry.rollout import place
from tests.edge.devices import MODEL, device
from tests.edge.fleet import DAY, YEAR
from tests.edge.judged import judged

if TYPE_CHECKING:
    from tests.edge.conftest import Store

HALF_A_DAY = DAY / 2
SHARE = 2500  # of the first step, of 10,000
INSIDE, OUTSIDE = 5, 5  # devices that are in it, and that are not


@contextmanager
def clock_at(seconds: float) -> Iterator[None]:
    """Have a device's, or the watcher's, clock say this."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(seconds, tz)

    with (
        mock.patch("time.time", return_value=seconds),
        mock.patch("edgeline.registry.trust.datetime", Clock),
        mock.patch("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime", Clock),
        mock.patch(
            "edgeline.publish.signatures.now",
            return_value=datetime.fromtimestamp(seconds, timezone.utc),
        ),
    ):
        yield


@dataclass
class Fleet:
    """Devices, and who watches them.

    Attributes:
        watchers: by device.
        rejects: devices on which the new release fails its trial.
        offline: devices that are not there now.
        skew: seconds by which a device's clock is off.
    """

    store: Store
    keys: Path
    reports: Path
    watchers: dict[str, Watcher]
    rejects: set[str] = field(default_factory=set)
    offline: set[str] = field(default_factory=set)
    skew: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    trying: str = ""

    def pass_half_a_day(self) -> int:
        """Have the devices check and report, then the watcher look; return its exit code."""
        self.now += HALF_A_DAY
        for name, watcher in self.watchers.items():
            if name not in self.offline:
                self.trying = name
                with clock_at(self.now + self.skew.get(name, 0.0)):
                    watcher.check()
        return self.watch()

    def watch(self) -> int:
        """Halt or advance the rollout by what is reported."""
        with clock_at(self.now):
            places = ["--reports", str(self.reports), "--memory", str(self.keys / "seen.json")]
            watch = ["registry", "watch-rollout", self.store.location, MODEL, *places, "--json"]
            return main([*watch, "--advance", "--steps", "25%,100%"])

    def serving(self, *names: str) -> set[int]:
        """The versions that devices serve."""
        folders = (self.watchers[name].device.folder for name in names or self.watchers)
        return {folder.load_active().installed.version for folder in folders}


def _some_devices(digest: str) -> tuple[list[str], list[str]]:
    """Ids of devices that are in the first share of a release, and that are not."""
    ids = [f"{number:032x}" for number in range(200)]
    inside = [each for each in ids if place(each, digest) < SHARE]
    outside = [each for each in ids if place(each, digest) >= SHARE]
    return inside[:INSIDE], outside[:OUTSIDE]


@pytest.fixture
def fleet(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Fleet, list[str], list[str]]]:
    """A fleet that serves v1, with v2 rolled out to a quarter of it."""
    root = store.files / "root.json"
    root.write_bytes(store.root)
    keys = tmp_path / "keys"
    fleet_key, halt_key = (generate_key(keys / f"{name}.pem", None) for name in ("fleet", "halt"))
    monkeypatch.setenv("EDGELINE_ROOT", str(root))
    monkeypatch.setenv("EDGELINE_KEYS", f"{keys} {store.authority.files}")
    store.repository().add_fleet(MODEL, fleet_key, halt_key)
    releases = []
    for content, channel in ((b"first", "production"), (b"second", "candidate")):
        variants = {"float32": content}
        releases.append(store.publish(variants, verdict=judged(variants), channel=channel))
    inside, outside = _some_devices(releases[1].digest)

    made = Fleet(store, keys, tmp_path / "reports", {}, now=time.time())

    def try_model(files: Any, **_: Any) -> None:
        is_new = files[MODEL_FILE].read_bytes() == b"second"
        if is_new and made.trying in made.rejects:
            raise ChildError("it crashed here (SIGSEGV)")

    monkeypatch.setattr(update, "try_model", try_model)
    signers = Signers.load([str(keys / "fleet.pem")])
    signer = signers.for_key(fleet_key)
    assert signer is not None
    for name in (*inside, *outside):
        state = tmp_path / "devices" / name
        state.mkdir(parents=True)
        (state / ID_FILE).write_text(name)
        each = device(store, state)
        each.update()
        request = request_enrolment(each)
        enrolment = Enrolment(name, MODEL, parse_key(request["key"]), time.time() + 10 * YEAR)
        accept_enrolment(each, seal_enrolment(enrolment, signer))
        reporter = Reporter(each, str(made.reports))
        made.watchers[name] = Watcher(each, predicts=False, reporter=reporter)
    promote = ["registry", "promote", store.location, MODEL, "--from", "candidate"]
    assert main([*promote, "--to", "production", "--share", "25%", "--yes"]) == 0
    yield made, inside, outside
    for watcher in made.watchers.values():
        watcher._close()


Parts = tuple[Fleet, list[str], list[str]]


def test_a_good_release_reaches_all(fleet: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    made, inside, outside = fleet
    slow, ahead, away = inside[0], outside[0], outside[1]
    made.skew = {slow: -3 * YEAR, ahead: 3 * YEAR}
    made.offline = {away}
    for _ in range(2):
        assert made.pass_half_a_day() == 0
    assert made.serving(*inside) == {2}
    assert made.serving(*outside) == {1}
    made.pass_half_a_day()
    assert '"action": "advanced"' in capsys.readouterr().out
    made.offline = set()
    made.pass_half_a_day()
    assert made.serving(*inside, *outside[1:]) == {2}, "also the one that was away"
    assert made.serving(ahead) == {1}, "by its clock, every signature has expired"


def test_a_bad_release_is_halted_and_taken_back(
    fleet: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    made, inside, outside = fleet
    made.skew = {inside[3]: -3 * YEAR}
    made.rejects, made.offline = set(inside[:3]), {inside[2]}
    assert made.pass_half_a_day() == 0, "two failures halt nothing"
    assert made.serving(*inside[3:]) == {2}
    assert made.serving(*inside[:3], *outside) == {1}
    made.offline = set()
    assert made.pass_half_a_day() == HALTED
    assert '"action": "halted"' in capsys.readouterr().out
    made.pass_half_a_day()
    assert made.serving() == {1}, "all devices are back"
    assert "no rollout under way" in capsys.readouterr().err
