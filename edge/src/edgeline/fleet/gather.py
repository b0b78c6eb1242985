"""Bringing the fleet's reports together, and believing none that is not an enrolled device's.

What was read is remembered, by each device's number of its last report: an older report that
somebody files again counts for nothing. So is how many devices served which release, once a day:
what was halted is on no device any more, and in no report.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from edgeline._files import read_bounded, write_named
from edgeline._json import dump_canonical, parse_object
from edgeline._records import read
from edgeline.errors import IntegrityError, RegistryError, TrustError
from edgeline.telemetry.places import Place
from edgeline.telemetry.report import REPORTS, DeviceId, Fleet, Report

MAX_DAYS = 400  # of which is remembered what a channel's devices served
MAX_RELEASES = 20  # of a day, the most common ones

_MAX_MEMORY = 64 << 20  # bytes
_DAY = 86_400.0


def _version(value: object) -> str:
    return str(int(read(str, value)))


@dataclass(frozen=True)
class Day:
    """What the devices of a channel served, when it was last looked at on a day."""

    time: float  # seconds since 1970
    devices: Mapping[Annotated[str, _version], int]  # how many, by the release's version


@dataclass
class Memory:
    """What is remembered of the reports that were read."""

    sequences: dict[DeviceId, int]  # each device's last report's number
    days: dict[str, list[Day]]  # by channel: "model/channel"

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Return what was saved; nothing the first time.

        Raises:
            RegistryError: it cannot be read, or is damaged.
        """
        try:
            return read(cls, parse_object(read_bounded(path, _MAX_MEMORY)))
        except FileNotFoundError:
            return cls({}, {})
        except (OSError, ValueError, IntegrityError) as error:
            raise RegistryError(
                f"{path}, which remembers the reports that were read, cannot be used: {error}. "
                "Without it, an older report could pass for the newest; delete it to begin anew"
            ) from None

    def save(self, path: Path) -> None:
        """Keep it.

        Raises:
            RegistryError: it cannot be written.
        """
        write_named(path, dump_canonical(asdict(self)))

    def add(self, channel: str, reports: Iterable[Report], *, at: float) -> tuple[Day, ...]:
        """Remember what devices serve in the place of what they did earlier that day.

        Args:
            channel: "model/channel".
            reports: The newest of each device.
            at: The time, in seconds since 1970.

        Returns:
            The days of the channel, oldest first.
        """
        serving = Counter(str(each.active.version) for each in reports if each.active)
        today = Day(at, dict(serving.most_common(MAX_RELEASES)))
        others = (day for day in self.days.get(channel, ()) if day.time // _DAY != at // _DAY)
        days = sorted((*others, today), key=lambda day: day.time)[-MAX_DAYS:]
        self.days[channel] = days
        return tuple(days)


@dataclass(frozen=True)
class Gathered:
    """The reports that count, and what became of the others."""

    reports: tuple[Report, ...]  # the newest of each device, sorted by id
    refused: dict[str, str]  # why, by the id that it was filed under
    days: tuple[Day, ...] = ()  # what devices served, oldest first, today included


def gather(
    places: Iterable[Place],
    *,
    model: str,
    channel: str,
    fleet: Fleet,
    memory: Memory,
    at: float,
) -> Gathered:
    """Read the reports of a channel's devices, and remember in `memory` that they were read.

    Args:
        places: Where they are.
        model: The model.
        channel: The channel.
        fleet: Whose reports on the model count.
        memory: What was read before.
        at: The time, in seconds since 1970.

    Raises:
        RegistryError: a place cannot be read.
    """
    newest: dict[str, Report] = {}
    refused: dict[str, str] = {}
    for place in places:
        for device, data in place.entries():
            try:
                report = REPORTS.open(data, fleet, at=at)
                if report.device != device:
                    raise TrustError(f"The report of {report.device} was filed as {device}'s")
                last = memory.sequences.get(device, 0)
                if report.sequence < last:
                    raise TrustError(
                        f"The report of {device} is number {report.sequence}, and {last} was read "
                        "before"
                    )
            except (IntegrityError, TrustError) as error:
                refused[device] = str(error)
                continue
            if (report.model, report.channel) != (model, channel):
                continue
            if device not in newest or newest[device].sequence < report.sequence:
                newest[device] = report
    memory.sequences.update({device: each.sequence for device, each in newest.items()})
    reports = tuple(newest[device] for device in sorted(newest))
    days = memory.add(f"{model}/{channel}", reports, at=at)
    refused = {name: why for name, why in refused.items() if name not in newest}
    return Gathered(reports, refused, days)
