"""Rollouts: beginning one, having it reach more devices, and ending it.

    channel = repository.edit("cells", "production", begun(release, 500, ["lab"]))
    channel = repository.edit("cells", "production", advanced(channel.rollout.number, 2500))
    channel = repository.edit("cells", "production", halted(channel.rollout.number))

Each of these functions returns what is to become of a channel. A rollout only moves forward: its
share never shrinks, and one that was halted or is complete stays so.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from edgeline.errors import NotFoundError, RegistryError
from edgeline.registry.bundle import Channel
from edgeline.registry.format import MAX_HISTORY, ReleaseRef, check_group
from edgeline.registry.rollout import MAX_GROUPS, WHOLE, Rollout

Edit: TypeAlias = Callable[[Channel], Channel]


def begun(release: ReleaseRef, share: int, groups: Sequence[str] = ()) -> Edit:
    """Have a part of a channel's devices get a release before all others do.

    Args:
        release: The release.
        share: How many of `WHOLE` devices get it, fewer than all.
        groups: The groups whose devices get it besides.

    Raises:
        RegistryError: the share or a group makes no sense; from the edit, when the channel serves
            that release already, or another rollout is under way.
    """
    wanted = Rollout(1, release, share, _checked(groups))
    if not 0 <= share < WHOLE or not wanted.is_active:
        raise RegistryError("A rollout begins with a share above 0% and below 100%, or a group")

    def edit(channel: Channel) -> Channel:
        before = channel.rollout
        if channel.release == release:
            raise RegistryError(f"{channel.path} serves {release.tag} to all devices already")
        if before and before.is_active:
            raise RegistryError(
                f"{before.release.tag} is being rolled out to {channel.path}. "
                "Advance or halt that rollout first: `edgeline registry rollout --help`"
            )
        number = before.number + 1 if before else 1
        return replace(channel, rollout=replace(wanted, number=number))

    return edit


def advanced(number: int, share: int, groups: Sequence[str] = ()) -> Edit:
    """Have more devices get the release of a rollout; with all of them, it is complete.

    Args:
        number: Which rollout, so that no other one is advanced unseen.
        share: How many of `WHOLE` devices get it; no fewer than before.
        groups: The groups whose devices get it, too.

    Raises:
        RegistryError: a group makes no sense; from the edit, when that rollout is not under way, or
            would shrink.
    """
    added = _checked(groups)

    def edit(channel: Channel) -> Channel:
        rollout = _numbered(channel, number)
        if share == WHOLE and rollout.state == "complete":
            return channel
        if not rollout.is_active or not rollout.share <= share <= WHOLE:
            raise RegistryError(
                f"Rollout {number} of {channel.path} is {rollout.state}, with a share of "
                f"{percent(rollout.share)}. It can be advanced while it is active, to a share that "
                "is no smaller; halting it takes the release back"
            )
        if share == WHOLE:
            return pointed(channel, rollout.release)
        together = _checked((*rollout.groups, *added))
        return replace(channel, rollout=replace(rollout, share=share, groups=together))

    return edit


def halted(number: int) -> Edit:
    """End a rollout: devices that got its release go back to what the channel serves to all.

    Raises:
        RegistryError: from the edit, when there is no such rollout, or it is complete.
    """

    def edit(channel: Channel) -> Channel:
        rollout = _numbered(channel, number)
        if rollout.state == "complete":
            raise RegistryError(
                f"Rollout {number} of {channel.path} is complete: all devices have "
                f"{rollout.release.tag}. `edgeline registry rollback` takes it back"
            )
        return replace(channel, rollout=rollout.ended())

    return edit


def pointed(channel: Channel, release: ReleaseRef) -> Channel:
    """Return a channel that serves another release to all devices, which ends any rollout."""
    past = [ref for ref in (channel.release, *channel.history) if ref != release]
    rollout = channel.rollout
    if rollout:
        rollout = rollout.ended(complete=rollout.is_active and rollout.release == release)
    return replace(channel, release=release, history=tuple(past[:MAX_HISTORY]), rollout=rollout)


def rolled_back(channel: Channel, to: int | None) -> Channel:
    """Return a channel that serves what it served before, or version `to` of its history.

    Raises:
        NotFoundError: its history has no such release.
        RegistryError: a rollout is under way.
    """
    rollout = channel.rollout
    if rollout and rollout.is_active:
        raise RegistryError(
            f"{rollout.release.tag} is being rolled out to {channel.path}. Halt "
            "that first: `edgeline registry rollout halt`. All devices then have "
            f"{channel.release.tag}, which a rollback takes back"
        )
    for place, release in enumerate(channel.history):
        if to is None or release.version == to:
            return replace(
                channel,
                release=release,
                history=channel.history[place + 1 :],
                rollout=rollout and rollout.ended(),
            )
    versions = ", ".join(release.tag for release in channel.history) or "nothing"
    wanted = "anything else" if to is None else f"v{to}"
    raise NotFoundError(
        f"{channel.name} of {channel.model} did not serve {wanted} before "
        f"{channel.release.tag}; its history has {versions}. Promote a release instead"
    )


def percent(share: int) -> str:
    """Return a share for people: 250 -> "2.5%"."""
    return f"{share * 100 / WHOLE:g}%"


def _numbered(channel: Channel, number: int) -> Rollout:
    rollout = channel.rollout
    if rollout is None or rollout.number != number:
        last = f"its last one is {rollout.number}" if rollout else "it had none yet"
        raise NotFoundError(f"{channel.path} has no rollout {number}; {last}")
    return rollout


def _checked(groups: Sequence[str]) -> tuple[str, ...]:
    named = tuple(sorted(set(map(check_group, groups))))
    if len(named) > MAX_GROUPS:
        raise RegistryError(f"A rollout has at most {MAX_GROUPS} groups; got {len(named)}")
    return named
