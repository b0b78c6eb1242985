"""Rollouts: a release that a part of the devices gets before its channel serves it to all.

A rollout is signed with its channel. Which devices are in it nobody has to tell them: each finds
out by a hash of its id and the release, so that other devices are the first each time, and a device
that is in stays in as the share grows. An edgeline of before that knows no rollouts sees what the
channel serves to all.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from edgeline.registry.format import ReleaseRef

WHOLE = 10_000  # the share of all devices; in signed metadata, numbers are whole
MAX_GROUPS = 32

_DEVICE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Member:
    """What a device is known by where it is decided who gets a release."""

    id: str  # made at random on the device: see `device.identity`
    groups: Collection[str] = ()  # that its user put it into


@dataclass(frozen=True)
class Rollout:
    """A release on its way to all devices of a channel."""

    number: int  # counts the channel's rollouts
    release: ReleaseRef
    share: int  # of WHOLE devices; with no share and no groups it was halted
    groups: tuple[str, ...] = ()  # whose devices get it whatever the share

    @property
    def is_active(self) -> bool:
        """Whether some devices are to have another release than all the others."""
        return 0 < self.share < WHOLE or bool(self.groups)

    @property
    def state(self) -> str:
        """In a word: "active", "complete" or "halted"."""
        if self.is_active:
            return "active"
        return "complete" if self.share == WHOLE else "halted"

    @property
    def id(self) -> str:
        """What tells it from other rollouts of the channel, as a device remembers it."""
        return f"{self.number}:{self.release.index.digest}"

    def includes(self, member: Member) -> bool:
        """Tell whether a device is to have the release."""
        if not self.is_active:
            return False
        return place(member.id, self.release.index.digest) < self.share or any(
            group in self.groups for group in member.groups
        )

    def ended(self, *, complete: bool = False) -> "Rollout":
        """Return it when no device is to have the release by it any more."""
        return replace(self, share=WHOLE if complete else 0, groups=())


def is_device_id(value: object) -> bool:
    """Tell whether `value` is an id as devices make them, and so safe as a file name and a tag."""
    return isinstance(value, str) and _DEVICE.fullmatch(value) is not None


def place(device: str, digest: str) -> float:
    """Return where a device stands when a release is rolled out: from 0, the first, to WHOLE."""
    drawn = hashlib.sha256(f"{digest}\n{device}".encode()).digest()[:8]
    return int.from_bytes(drawn, "big") / 2**64 * WHOLE
