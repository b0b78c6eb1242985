"""`edgeline registry refresh`, `gc` and `copy`: keep a registry in order."""

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from edgeline.cli.access import required_root
from edgeline.cli.options import add_command, at_least
from edgeline.cli.output import Progress, answer, megabytes
from edgeline.cli.registry.access import existing_store, repository, store_to_read, store_to_write
from edgeline.cli.registry.options import add_reading, add_signing, add_store, version
from edgeline.cli.registry.output import day, role_json

_NAMED = 10  # of many things, those that a person is told by name
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def add_refresh(group: Any) -> None:
    parser = add_command(
        group, "refresh", _refresh, "sign anew before signatures expire (for cron)"
    )
    add_store(parser)
    add_signing(parser)


def add_gc(group: Any) -> None:
    parser = add_command(group, "gc", _gc, "remove what nothing needs any more")
    add_store(parser)
    parser.add_argument(
        "--keep",
        type=at_least(1),
        metavar="N",
        help="keep the newest N releases besides those that channels need; default: all",
    )
    parser.add_argument(
        "--grace",
        type=_period,
        default=timedelta(days=7),
        metavar="PERIOD",
        help="for how long stays what is not needed any more, as somebody may be reading or "
        "publishing it: 7d, 12h, 30m; default: 7d",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    add_reading(parser)


def add_copy(group: Any) -> None:
    parser = add_command(group, "copy", _copy, "copy releases and signatures to another store")
    add_store(parser, "source")
    add_store(parser, "target")
    parser.add_argument(
        "--version",
        action="append",
        type=version,
        dest="versions",
        metavar="VERSION",
        help="a release to copy besides those that channels serve, such as v7; repeatable; "
        "default: all",
    )
    add_reading(parser)


def _refresh(options: argparse.Namespace) -> int:
    """Sign snapshot and timestamp anew, and whatever else expires soon and can be signed
    with the keys at hand. Run it daily: devices refuse a registry whose signatures expired.

    Examples:
    edgeline registry refresh registry --root keys/root.json --key keys/online.pem
    30 3 * * *  EDGELINE_ROOT=... EDGELINE_KEYS=... edgeline registry refresh oci://...  # crontab
    """
    signed = repository(options).refresh()
    rows = [(role.name, str(role.version), day(role.expires)) for role in signed]
    document = {"signed": [role_json(role) for role in signed]}
    return answer(options, document, [("SIGNED", "VERSION", "EXPIRES"), *rows], right=(1,))


def _gc(options: argparse.Namespace) -> int:
    """Remove what no channel, no version and no grace period needs: with --keep, releases; and
    metadata that was superseded, tags that were left over, and blobs that nothing leads to.
    What a channel serves, or can be rolled back to, always stays.

    Examples:
    edgeline registry gc registry --root keys/root.json --keep 20 --dry-run
    edgeline registry gc registry --root keys/root.json --keep 20 --grace 30d
    edgeline registry gc registry --root keys/root.json  # removes leftovers, and no release
    """
    store = existing_store(options)
    root = required_root(options)
    from edgeline.publish.maintenance import gc
    from edgeline.registry.format import metadata_tag, version_tag

    swept = gc(
        store,
        root=root,
        grace=options.grace,
        keep=options.keep,
        dry_run=options.dry_run,
        notify=Progress(),
    )
    collected = swept.collected
    releases = list(map(version_tag, swept.versions))
    metadata = list(map(metadata_tag, swept.metadata))
    document = {
        "dry_run": options.dry_run,
        "releases": releases,
        "metadata": metadata,
        "tags": list(swept.tags),
        "manifests": collected.manifests if collected else None,
        "blobs": collected.blobs if collected else None,
        "bytes": collected.size if collected else None,
    }
    what = "Would remove" if options.dry_run else "Removed"
    lines = [
        f"{what} {_counted(releases, 'releases')}.",
        f"{what} {_counted(metadata, 'old sets of metadata')}.",
    ]
    if collected:
        size = megabytes(collected.size)
        lines.append(
            f"Removed {collected.manifests} manifests and {collected.blobs} blobs ({size})."
        )
    return answer(options, document, [(line,) for line in lines])


def _copy(options: argparse.Namespace) -> int:
    """Copy releases, with their digests and numbers, and the signed metadata to another store,
    such as a directory on a USB stick. What is there already is not sent again, and newer
    metadata is never replaced by older. A copy that was broken off is finished by another one.

    Examples:
    edgeline registry copy oci://registry.example/cells /media/usb/cells --root keys/root.json
    edgeline registry copy registry /media/usb/cells --version v7 --version v6
    """
    root = required_root(options)
    from edgeline.publish.copying import copy
    from edgeline.registry.format import version_tag

    copied = copy(
        store_to_read(options, options.source),
        store_to_write(options, options.target),
        options.versions,
        root=root,
        notify=Progress(),
    )
    releases = list(map(version_tag, copied.versions))
    document = {
        "copied": releases,
        "present": list(map(version_tag, copied.present)),
        "metadata": copied.metadata,
        "blobs": copied.blobs,
        "bytes": copied.size,
    }
    sent = (
        f"Copied {_counted(releases, 'releases')}; {len(copied.present)} were there already. "
        f"{copied.blobs} blobs were sent ({megabytes(copied.size)})."
    )
    then = (
        "The signed metadata was there already."
        if copied.metadata is None
        else "The target vouches for what the source does now; the same root is to be trusted."
    )
    return answer(options, document, [(sent,), (then,)])


def _counted(names: Sequence[str], what: str) -> str:
    """Return how many there are, and the names of some."""
    if not names:
        return f"no {what}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})"


def _period(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([dhm])", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a period such as 7d, 12h or 30m, got {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
