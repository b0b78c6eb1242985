"""Bringing the fleet's reports together, and believing none that is not an enrolled device's.

What was read is remembered, by each device's number of its last report: an older report that
somebody files again counts for nothing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import Key

from edgeline._files import read_bounded, write_whole
from edgeline._json import dump_canonical, parse_object
from edgeline.errors import IntegrityError, RegistryError, TrustError
from edgeline.fleet.places import Place
from edgeline.fleet.report import Report, check_device, open_report

_MAX_MEMORY = 64 << 20  # bytes


@dataclass
class Memory:
    """The number of the last report of each device that was read."""

    sequences: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Return what was saved; nothing the first time.

        Raises:
            RegistryError: it cannot be read, or is damaged.
        """
        try:
            document = parse_object(read_bounded(path, _MAX_MEMORY))
            return cls({check_device(name): int(last) for name, last in document.items()})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, IntegrityError) as error:
            raise RegistryError(
                f"{path}, which remembers the reports that were read, cannot be used: {error}. "
                "Without it, an older report could pass for the newest; delete it to begin anew"
            ) from None

    def save(self, path: Path) -> None:
        """Keep it.

        Raises:
            RegistryError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, dump_canonical(self.sequences))
        except OSError as error:
            raise RegistryError(f"{path} cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class Gathered:
    """The reports that count, and what became of the others."""

    reports: tuple[Report, ...]  # the newest of each device, sorted by id
    refused: dict[str, str]  # why, by the id that it was filed under


def gather(
    places: Iterable[Place],
    *,
    model: str,
    channel: str,
    keys: Collection[Key],
    revoked: Collection[str],
    memory: Memory,
    at: float,
) -> Gathered:
    """Read the reports of a channel's devices, and remember in `memory` that they were read.

    Args:
        places: Where they are.
        model: The model.
        channel: The channel.
        keys: The model's fleet keys.
        revoked: Ids of devices that count no more.
        memory: What was read before.
        at: The time, in seconds since 1970.

    Raises:
        RegistryError: a place cannot be read.
    """
    newest: dict[str, Report] = {}
    refused: dict[str, str] = {}
    for place in places:
        for device, data in place.reports():
            try:
                report = open_report(data, keys, revoked, device=device, at=at)
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
    return Gathered(reports, {name: why for name, why in refused.items() if name not in newest})
