"""Rollouts to a fleet of 200 devices: how soon a bad one is halted, and how many devices got it.

Simulated are the devices: their clocks, what becomes of an update on them, and their predictions.
One in five is offline at a time, and one in twenty has a clock that is years off. Real are the
channel and its rollout, who is in it, the reports (but for their signatures), and what
`watch-rollout --advance` makes of them, twice a day for two weeks.

Promised: of good rollouts, whose devices fail at the tolerated rate, at most 2% are halted, and
none of the others reaches more than the first share and one step of the devices, but for one in
twenty of a release that fails on a tenth of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
from tabulate import tabulate

from edgeline.fleet.halting import Rules, judge, next_share
from edgeline.fleet.report import LATENCY_BOUNDS, Compared, Counts, Report, Served
from edgeline.publish.rollouts import advanced, begun, halted
from edgeline.registry.bundle import Channel
from edgeline.registry.format import OCI_INDEX, Descriptor, ReleaseRef
from edgeline.registry.rollout import Member

DEVICES = 200
FLEETS = 100  # of each kind of release
STEPS = (500, 2500, 10_000)
DAYS = 14
HALF_A_DAY = 43_200.0  # seconds
YEAR = 365 * 86_400.0
RULES = Rules(max_latency=0.05, min_agreement=0.95)


@dataclass(frozen=True)
class Kind:
    """How a new release does on a fleet."""

    name: str
    rejects: float = RULES.tolerated  # probability that a device rejects it
    crashes: float = 0.0  # probability that the process crashes daily on a device
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
class End:
    """What became of a rollout."""

    state: str  # "halted", "complete", or "active" when it waits for a person
    got: int  # devices that had the release, or tried it
    largest: int  # share that it reached, of 10,000
    days: float


class _Device:
    def __init__(self, number: int, kind: Kind, rng: np.random.Generator) -> None:
        self.id = bytes(rng.integers(0, 256, 16, np.uint8)).hex()
        self._kind = kind
        self._rng = rng
        self._skew = float(rng.choice([-3, 3])) * YEAR if number % 20 == 7 else 0.0
        self._rejects = rng.random() < kind.rejects
        self._crashes = rng.random() < kind.crashes
        self._since: float | None = None  # when it first had the release or tried it
        self.report: Report | None = None

    def live(self, channel: Channel, old: ReleaseRef, now: float) -> None:
        """Update and report, unless it is offline."""
        if self._rng.random() < 0.2:
            return
        release = channel.seen_by(Member(self.id)).release
        is_new = release != old
        if is_new and self._since is None:
            self._since = now
        since = self._since if is_new and self._since is not None else now - YEAR
        rejected = is_new and self._rejects
        active = old if rejected else release
        latency = [0] * (len(LATENCY_BOUNDS) + 1)
        seconds = self._kind.seconds if active == release and is_new else 0.02
        latency[sum(seconds > bound for bound in LATENCY_BOUNDS)] = 500
        crashes = int((now - since) / HALF_A_DAY) if is_new and self._crashes else 0
        self.report = Report(
            device=self.id,
            model=channel.model,
            channel=channel.name,
            sequence=1,
            time=now + self._skew,
            software="simulated",
            checked=now + self._skew,
            error=None,
            active=Served(active.version, active.index.digest, "int8"),
            rejected=Served(release.version, release.index.digest) if rejected else None,
            counts=Counts(
                since=since + self._skew, predictions=500, crashes=crashes, latency=latency
            ),
            shadow=self._compared(release) if is_new and not rejected else None,
        )

    def _compared(self, release: ReleaseRef) -> Compared:
        agreed = int(self._rng.binomial(500, self._kind.agreement))
        return Compared(release.index.digest, predictions=500, agreed=agreed)

    @property
    def got_it(self) -> bool:
        """Whether it had the new release, or tried it."""
        return self._since is not None


def roll_out(kind: Kind, seed: int, devices: int = DEVICES) -> End:
    """Roll a release out to a fleet, watch it, and return what became of it."""
    rng = np.random.default_rng(seed)
    old, new = _release(1), _release(2)
    channel = begun(new, STEPS[0])(Channel("cells", "production", old))
    fleet = [_Device(number, kind, rng) for number in range(devices)]
    largest, now, days = STEPS[0], 1_800_000_000.0, 0.0
    while days < DAYS:
        now, days = now + HALF_A_DAY, days + 0.5
        for each in fleet:
            each.live(channel, old, now)
        rollout = channel.active_rollout
        assert rollout is not None
        judged = judge(rollout, _reports(fleet), RULES)
        share = next_share(rollout, judged, STEPS)
        if judged.decision == "halt":
            channel = halted(rollout.number)(channel)
        elif share is not None:
            channel, largest = advanced(rollout.number, share)(channel), share
        if channel.active_rollout is None:
            break
    assert channel.rollout is not None
    got = sum(each.got_it for each in fleet)
    return End(channel.rollout.state, got, largest, days)


def main() -> None:
    """Simulate fleets with every kind of release, and print a table."""
    rows = [_row(kind, [roll_out(kind, seed) for seed in range(FLEETS)]) for kind in KINDS]
    headers = ("release", "halted", "complete", "waits", "devices that got it", "days", "kept")
    print(tabulate(rows, headers=headers))


def _row(kind: Kind, ends: list[End]) -> tuple[object, ...]:
    states = [end.state for end in ends]
    got = sorted(end.got for end in ends)
    kept = (
        states.count("halted") <= RULES.false_halts * len(ends)
        if kind.is_good
        else sum(end.largest > STEPS[1] for end in ends) <= len(ends) // 20
    )
    return (
        kind.name,
        states.count("halted"),
        states.count("complete"),
        states.count("active"),
        f"{median(got):g} ({got[0]} to {got[-1]}) of {DEVICES}",
        median(end.days for end in ends),
        kept,
    )


def _reports(fleet: list[_Device]) -> Iterator[Report]:
    return (each.report for each in fleet if each.report is not None)


def _release(number: int) -> ReleaseRef:
    return ReleaseRef(number, Descriptor(OCI_INDEX, f"sha256:{number:064x}", 1000))


if __name__ == "__main__":
    main()
