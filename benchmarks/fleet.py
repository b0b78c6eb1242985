"""Rollouts to a fleet of 200 devices: how soon a bad one is halted, and how many devices got it.

First, a fleet for each kind of release, through the device package itself: see
`benchmarks.whole_fleet`. Then 1,000 fleets for each kind, so that rates can be told: their devices
are arithmetic, without folders, keys and models. Real there are the channel and its rollout, who is
in it, and what the rules of `watch-rollout --advance` make of reports, twice a day for two weeks.
With the same chance, both come to the same end, which the first table checks.

One in five devices is offline at a time, and one in twenty has a clock that is years off. By a
clock that is ahead every signature has expired, so that such a device stays with what it has.

Promised: of good rollouts, whose devices fail at the tolerated rate, at most 2% are halted. Of a
release that is bad on a tenth of the devices, at most 5% go on beyond the first share and one step;
of one that is bad on all, none. It ends with 1 where that does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from components.intervals import share_interval
from edgeline.fleet.halting import Rules, judge, next_share
from edgeline.publish.rollouts import advanced, begun, halted
from edgeline.registry.bundle import Channel
from edgeline.registry.format import OCI_INDEX, Descriptor, ReleaseRef
from edgeline.registry.rollout import Member
from edgeline.telemetry.report import LATENCY_BOUNDS, Compared, Counts, Report, Served

DEVICES = 200
SIZES = (DEVICES, 2 * DEVICES)  # of fleets of which rates are told
FLEETS = 1000  # of each kind of release and size
STEPS = (500, 2500, 10_000)
HALF_DAYS = 28
HALF_A_DAY = 43_200.0  # seconds
YEAR = 365 * 86_400.0
PREDICTIONS = 100  # of a device in half a day
_ROW = "{:<22} {:>5} {:>7} {:>8} {:>6}  {:<20} {:<20} {:>4} {:>4}"
_HEADERS = (
    *("release", "fleet", "halted", "complete", "waits", "halted or beyond"),
    *("devices that got it", "days", "kept"),
)

RULES = Rules(max_latency=0.05, min_agreement=0.95)


@dataclass(frozen=True)
class Kind:
    """How a new release does on a fleet."""

    name: str
    rejects: float = RULES.tolerated  # probability that a device rejects it
    crashes: float = 0.0  # probability that a device's process crashes with it, each half day
    seconds: float = 0.02  # that a prediction takes
    agreement: float = 0.97  # probability that a label is the one of the model before
    is_good: bool = False


KINDS = (
    Kind("good", is_good=True),
    Kind("a tenth reject it", rejects=0.1),
    Kind("it crashes on a tenth", crashes=0.1),
    Kind("slow", seconds=0.08),
    Kind("it disagrees", agreement=0.8),
)


@dataclass(frozen=True)
class Fate:
    """What chance has in store for a device."""

    id: str
    skew: float  # seconds by which its clock is off
    rejects: bool
    crashes: bool
    agreed: int  # labels of `PREDICTIONS` that are those of the model before
    online: tuple[bool, ...]  # by half days


@dataclass(frozen=True)
class End:
    """What became of a rollout."""

    state: str  # "halted", "complete", or "active" when it waits for a person
    got: int  # devices that had the release, or tried it
    largest: int  # share that it reached, of 10,000
    days: float


def draw(kind: Kind, seed: int, devices: int = DEVICES) -> list[Fate]:
    """Return the fates of a fleet: the same devices, clocks and spells for each kind of release."""
    rng = np.random.default_rng(seed)
    return [
        Fate(
            id=rng.bytes(16).hex(),
            skew=(-3, 3)[rng.integers(2)] * YEAR * (number % 20 == 7),
            rejects=rng.random() < kind.rejects,
            crashes=rng.random() < kind.crashes,
            online=tuple((rng.random(HALF_DAYS) >= 0.2).tolist()),
            agreed=int((rng.random(PREDICTIONS) < kind.agreement).sum()),
        )
        for number in range(devices)
    ]


class _Device:
    def __init__(self, fate: Fate, kind: Kind) -> None:
        self._fate = fate
        self._kind = kind
        self._since: int | None = None  # half day at which it had the release, or tried it
        self.report: Report | None = None

    def is_in(self, channel: Channel) -> bool:
        """Whether it is to have the release that is rolled out, and can."""
        return self._fate.skew <= 0 and channel.seen_by(Member(self._fate.id)) != channel

    def live(self, half_day: int, channel: Channel, old: ReleaseRef, release: ReleaseRef) -> None:
        """Update and report, unless it is offline."""
        fate = self._fate
        if not fate.online[half_day]:
            return
        if self._since is None:
            self._since = half_day
        active = old if fate.rejects else release
        served = 0 if fate.rejects else half_day - self._since
        latency = [0] * (len(LATENCY_BOUNDS) + 1)
        latency[sum(self._kind.seconds > bound for bound in LATENCY_BOUNDS)] = served * PREDICTIONS
        now = half_day * HALF_A_DAY + YEAR
        self.report = Report(
            device=fate.id,
            model=channel.model,
            channel=channel.name,
            sequence=half_day,
            time=now,
            software="simulated",
            checked=now,
            error=None,
            active=Served(active.version, active.index.digest, "float32"),
            rejected=Served(release.version, release.index.digest) if fate.rejects else None,
            counts=Counts(
                since=now - served * HALF_A_DAY,
                predictions=served * PREDICTIONS,
                crashes=served * fate.crashes,
                latency=latency,
            ),
            shadow=Compared(release.index.digest, PREDICTIONS, fate.agreed) if served else None,
        )

    @property
    def got_it(self) -> bool:
        """Whether it had the new release, or tried it."""
        return self._since is not None


_RELEASES = tuple(
    ReleaseRef(number, Descriptor(OCI_INDEX, f"sha256:{number:064x}", 1000)) for number in (1, 2)
)


def roll_out(
    kind: Kind,
    seed: int,
    devices: int = DEVICES,
    steps: Sequence[int] = STEPS,
    releases: Sequence[ReleaseRef] = _RELEASES,
) -> End:
    """Roll the second release out to a fleet that has the first, and return what became of it."""
    old, new = releases
    channel = begun(new, steps[0])(Channel("cells", "production", old))
    fleet = [_Device(fate, kind) for fate in draw(kind, seed, devices)]
    concerned = [each for each in fleet if each.is_in(channel)]
    largest = steps[0]
    for half_day in range(HALF_DAYS):
        for each in concerned:
            each.live(half_day, channel, old, new)
        rollout = channel.active_rollout
        assert rollout is not None
        judged = judge(rollout, _reports(fleet), RULES)
        share = next_share(rollout, judged, steps)
        if judged.decision == "halt":
            channel = halted(rollout.number)(channel)
        elif share is not None:
            channel, largest = advanced(rollout.number, share)(channel), share
            concerned = [each for each in fleet if each.is_in(channel)]
        if channel.active_rollout is None:
            break
    assert channel.rollout is not None
    return End(
        channel.rollout.state, sum(each.got_it for each in fleet), largest, (half_day + 1) / 2
    )


def main() -> None:
    """Roll out to a whole fleet with every kind of release, then to many; print two tables."""
    from benchmarks import whole_fleet

    kept = whole_fleet.main()
    print(f"\n{FLEETS:,} fleets whose devices are arithmetic, for each release", flush=True)
    print(_ROW.format(*_HEADERS), flush=True)
    for devices in SIZES:
        for kind in KINDS:
            ends = [roll_out(kind, seed, devices) for seed in range(FLEETS)]
            keeps = _interval(kind, ends)[1] <= _most(kind)
            kept &= keeps
            print(_row(kind, devices, ends, keeps), flush=True)
    raise SystemExit(not kept)


def _undesired(kind: Kind, ends: list[End]) -> int:
    """Return how many good ones were halted, or bad ones went beyond the first share and a step."""
    if kind.is_good:
        return sum(end.state == "halted" for end in ends)
    return sum(end.largest > STEPS[1] for end in ends)


def _interval(kind: Kind, ends: list[End]) -> tuple[float, float]:
    return share_interval(_undesired(kind, ends) / len(ends), len(ends))


def _most(kind: Kind) -> float:
    return RULES.false_halts if kind.is_good else RULES.false_passes


def _row(kind: Kind, devices: int, ends: list[End], keeps: bool) -> str:
    states = Counter(end.state for end in ends)
    got = sorted(end.got for end in ends)
    low, high = _interval(kind, ends)
    share = _undesired(kind, ends) / len(ends)
    return _ROW.format(
        kind.name,
        devices,
        *(f"{states[state] / len(ends):.1%}" for state in ("halted", "complete", "active")),
        f"{share:.1%} ({low:.1%} to {high:.1%})",
        f"{median(got):g} ({got[0]} to {got[-1]})",
        f"{median(end.days for end in ends):g}",
        "yes" if keeps else "NO",
    )


def _reports(fleet: list[_Device]) -> Iterator[Report]:
    return (each.report for each in fleet if each.report is not None)


if __name__ == "__main__":
    main()
