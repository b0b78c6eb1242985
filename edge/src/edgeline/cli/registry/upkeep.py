"""`edgeline registry refresh`, `gc` and `copy`: keep a registry in order."""

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from edgeline.cli.access import required_root
from edgeline.cli.options import add_command, at_least
from edgeline.cli.output import Progress, megabytes, print_json, print_table
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
    store = existing_store(options)
    signed = repository(options, store).refresh()
    if options.json:
        print_json({"signed": [role_json(role) for role in signed]})
    else:
        rows = [(role.name, str(role.version), day(role.expires)) for role in signed]
        print_table([("SIGNED", "VERSION", "EXPIRES"), *rows], right=(1,))
    return 0


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
    if options.json:
        collected = swept.collected
        print_json(
            {
                "dry_run": options.dry_run,
                "releases": list(map(version_tag, swept.versions)),
                "metadata": list(map(metadata_tag, swept.metadata)),
                "tags": list(swept.tags),
                "manifests": collected.manifests if collected else None,
                "blobs": collected.blobs if collected else None,
                "bytes": collected.size if collected else None,
            }
        )
        return 0
    what = "Would remove" if options.dry_run else "Removed"
    print(f"{what} {_counted(list(map(version_tag, swept.versions)), 'releases')}.")
    print(f"{what} {_counted(list(map(metadata_tag, swept.metadata)), 'old sets of metadata')}.")
    if swept.collected:
        print(
            f"Removed {swept.collected.manifests} manifests and {swept.collected.blobs} blobs "
            f"({megabytes(swept.collected.size)})."
        )
    return 0


def _copy(options: argparse.Namespace) -> int:
    """Copy releases, with their digests and numbers, and the signed metadata to another store,
    such as a directory on a USB stick. What is there already is not sent again, and newer
    metadata is never replaced by older. A copy that was broken off is finished by another one.

    Examples:
    edgeline registry copy oci://registry.example/cells /media/usb/cells --root keys/root.json
    edgeline registry copy registry /media/usb/cells --version v7 --version v6
    """
    root = required_root(options)
    from edgeline.publish.maintenance import copy
    from edgeline.registry.format import version_tag

    copied = copy(
        store_to_read(options, options.source),
        store_to_write(options, options.target),
        options.versions,
        root=root,
        notify=Progress(),
    )
    if options.json:
        print_json(
            {
                "copied": list(map(version_tag, copied.versions)),
                "present": list(map(version_tag, copied.present)),
                "metadata": copied.metadata,
                "blobs": copied.blobs,
                "bytes": copied.size,
            }
        )
        return 0
    print(
        f"Copied {_counted(list(map(version_tag, copied.versions)), 'releases')}; "
        f"{len(copied.present)} were there already. {copied.blobs} blobs were sent "
        f"({megabytes(copied.size)})."
    )
    if copied.metadata is None:
        print("The signed metadata was there already.")
    else:
        print("The target vouches for what the source does now; the same root is to be trusted.")
    return 0


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
