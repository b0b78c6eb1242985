"""Time on a device whose clock may be wrong: many have no battery, and start in the past.

A time that has passed stays passed. The latest one that is known, from the clock at a check that
found the registry genuine or from when its root was signed, is kept as the floor: signatures that
had expired by then have expired, whatever the clock says.

Nothing that the online key signs raises the floor, as its thief could move it into the far future.
A clock that was ahead may have; so the floor holds for the root under which it was found, and falls
to when the next one was signed.
"""

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from edgeline._text import in_utc

if TYPE_CHECKING:
    from edgeline.device.state import State
    from edgeline.registry.trust import TrustedRole

_TOLERANCE = 60.0  # seconds that clocks of machines in order differ, and are set back now and then


def as_time(seconds: float) -> datetime:
    """Return the time that is so many seconds after 1970 began, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def complaint(now: float, floor: float) -> str | None:
    """Return what is wrong with a clock that says `now`, None if nothing is known to be."""
    if now >= floor - _TOLERANCE:
        return None
    return (
        f"this device's clock says {in_utc(as_time(now))}, though it was "
        f"{in_utc(as_time(floor))} before. Set it (`timedatectl` shows whether NTP is "
        "on); until then, signatures are checked by the later time"
    )


def floor_under(root: "TrustedRole", state: "State") -> float:
    """Return the floor that a state remembers, 0 where a newer root has let it go."""
    return state.floor if root.version <= state.floor_root else 0.0


def raised_floor(floor: float, now: float, root: "TrustedRole") -> float:
    """Return the floor after a check that found the registry genuine and nothing in it expired.

    A clock that is ahead raises it no further than to where the first signature expires.
    """
    return max(floor, now, root.signed.timestamp() if root.signed else 0.0)
