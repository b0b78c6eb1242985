"""`edgeline registry rollout`: how far a release has come, further, and back."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_command, add_group
from edgeline.cli.output import UsageError, answer, note
from edgeline.cli.registry.access import repository, repository_to_read
from edgeline.cli.registry.options import add_model, add_reading, add_share, add_signing, add_yes
from edgeline.cli.registry.output import confirmed
from edgeline.errors import NotFoundError

if TYPE_CHECKING:
    from edgeline.publish.repository import Repository
    from edgeline.publish.rollouts import Edit
    from edgeline.registry.bundle import Channel
    from edgeline.registry.rollout import Rollout


def add_rollout(group: Any) -> None:
    add_group(group, "rollout", _add_commands, "have a release reach more devices, or take it back")


def _add_commands(commands: Any) -> None:
    """Have a release that was promoted to a share of the devices reach more of
    them, or take it back. `promote --share` begins a rollout.

    Examples:
    edgeline registry rollout status registry solar-cells --root keys/root.json
    edgeline registry rollout advance registry solar-cells --share 25%
    edgeline registry rollout halt registry solar-cells --yes
    """
    status = add_command(commands, "status", _status, "say how far a release has come")
    add_channel(status)
    add_reading(status)
    advance = add_command(commands, "advance", _advance, "have more devices get the release")
    add_channel(advance)
    add_share(advance, "of the devices, no smaller than before, such as 25%%")
    add_yes(advance)
    add_signing(advance)
    halt = add_command(commands, "halt", _halt, "take the release back")
    add_channel(halt)
    add_yes(halt)
    add_signing(halt)


def add_channel(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--channel", default="production", metavar="CHANNEL", help="default: %(default)s"
    )


def _status(options: argparse.Namespace) -> int:
    """Say how far a release has come.

    Examples:
    edgeline registry rollout status registry solar-cells --root keys/root.json
    edgeline registry rollout status registry solar-cells --json | jq .share
    """
    channel, _ = _last(options, repository_to_read(options))
    return _report(options, channel)


def _advance(options: argparse.Namespace) -> int:
    r"""Have more devices get the release; with 100% all have it, and the rollout
    is complete. Devices that have it keep it.

    Examples:
    edgeline registry rollout advance registry solar-cells --share 25% \
        --root keys/root.json --key keys/solar-cells-release.pem --key keys/online.pem
    edgeline registry rollout advance registry solar-cells --share 100% --yes
    """
    from edgeline.publish.rollouts import advanced, percent

    if options.share is None and not options.groups:
        raise UsageError("Expected --share, such as --share 25%, or --group")

    def advance(channel: "Channel", rollout: "Rollout") -> "tuple[Edit, str]":
        share = rollout.share if options.share is None else options.share
        whom = " and ".join([f"{percent(share)} of its devices", *options.groups])
        question = f"Sign that {channel.path} serves {rollout.release.tag} to {whom}?"
        return advanced(rollout.number, share, options.groups), question

    return _change(options, advance)


def _halt(options: argparse.Namespace) -> int:
    r"""Take the release back: devices that got it return to what the channel serves
    to all. To them it is one more signed change; the rollout can't be resumed.

    Examples:
    edgeline registry rollout halt registry solar-cells \
        --root keys/root.json --key keys/solar-cells-release.pem --key keys/online.pem
    """
    from edgeline.publish.rollouts import halted

    def halt(channel: "Channel", rollout: "Rollout") -> "tuple[Edit, str]":
        question = f"Sign that {channel.path} serves {rollout.release.tag} to no device?"
        return halted(rollout.number), question

    return _change(options, halt)


def _change(
    options: argparse.Namespace, propose: "Callable[[Channel, Rollout], tuple[Edit, str]]"
) -> int:
    """Ask whether to sign what is proposed, and sign it."""
    trusted = repository(options)
    channel, rollout = _last(options, trusted)
    edit, question = propose(channel, rollout)
    if edit(channel) != channel:  # what makes no sense is refused before anybody is asked
        if not confirmed(question, yes=options.yes):
            note(f"nothing was signed; {channel.path} is as it was")
            return 1
        channel = trusted.edit(channel.model, channel.name, edit)
    return _report(options, channel)


def _last(options: argparse.Namespace, trusted: "Repository") -> "tuple[Channel, Rollout]":
    channel = trusted.channel(options.model, options.channel)
    if channel is None or channel.rollout is None:
        raise NotFoundError(
            f"{options.model}/{options.channel} had no rollout yet. "
            "`edgeline registry promote --share` begins one"
        )
    return channel, channel.rollout


def _report(options: argparse.Namespace, channel: "Channel") -> int:
    from edgeline.publish.rollouts import percent
    from edgeline.registry.rollout import WHOLE

    rollout = channel.rollout
    assert rollout is not None  # `_last` saw to it
    serves = channel.release.tag
    document = {
        "model": channel.model,
        "channel": channel.name,
        "number": rollout.number,
        "state": rollout.state,
        "tag": rollout.release.tag,
        "digest": rollout.release.index.digest,
        "share": rollout.share / WHOLE,
        "groups": list(rollout.groups),
        "serves": {"tag": serves, "digest": channel.release.index.digest},
    }
    rows = [
        ("rollout", f"{rollout.number} of {channel.path}, {rollout.state}"),
        ("release", f"{rollout.release.tag} {rollout.release.index.digest[:19]}"),
        ("share", percent(rollout.share)),
        ("groups", ", ".join(rollout.groups) or "none"),
        ("others have", serves),
    ]
    return answer(options, document, rows)
