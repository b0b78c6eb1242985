"""`edgeline registry list`: which releases a registry holds, and which channels serve them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeline.cli.options import add_command, at_least
from edgeline.cli.output import Progress, megabytes, note, print_json, print_table
from edgeline.cli.registry.access import repository_to_read
from edgeline.cli.registry.options import add_reading, add_store
from edgeline.cli.registry.output import note_expired

if TYPE_CHECKING:
    from edgeline.registry.reader import Release


def add_list(group: Any) -> None:
    parser = add_command(group, "list", _list, "list releases and the channels that serve them")
    add_store(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--limit", type=at_least(1), default=20, metavar="N", help="the newest N, default: 20"
    )
    shown.add_argument("--all", action="store_true", help="list every release")
    add_reading(parser, "a line of JSON per release")


def _list(options: argparse.Namespace) -> int:
    """List the releases of a registry, newest first.

    Examples:
    edgeline registry list registry --root keys/root.json
    edgeline registry list oci://registry.example/cells --all
    edgeline registry list registry --json | jq .tag
    """
    from edgeline.publish.rollouts import percent
    from edgeline.registry.reader import RegistryReader
    from edgeline.registry.rollout import WHOLE

    repository = repository_to_read(options)
    channels = repository.channels()
    note_expired(repository.roles())
    reader, progress = RegistryReader(repository.store), Progress()
    versions = reader.versions()[::-1]
    shown = versions if options.all else versions[: options.limit]
    rows: list[tuple[str, ...]] = [("RELEASE", "MODEL", "CHANNELS", "VARIANTS")]
    for position, version in enumerate(shown):
        progress(f"read {position} of {len(shown)} releases")
        release = reader.open_version(version)
        serving = [each.name for each in channels if each.release.index.digest == release.digest]
        parts = {
            each.name: each.active_rollout.share
            for each in channels
            if each.active_rollout and each.active_rollout.release.index.digest == release.digest
        }
        if options.json:
            shares = {name: share / WHOLE for name, share in parts.items()}
            print_json({**release_json(release, serving), "rollouts": shares})
        else:
            named = [f"{name} ({percent(share)})" for name, share in parts.items()]
            rows.append(_release_row(release, [*serving, *named]))
    if not options.json:
        print_table(rows)
        if len(shown) < len(versions):
            note(f"{len(versions) - len(shown)} older ones are not shown; --all lists them")
    return 0


def _release_row(release: "Release", serving: Sequence[str]) -> tuple[str, ...]:
    variants = (f"{each.name} ({megabytes(each.model.size)})" for each in release.variants)
    return release.tag, release.model, ", ".join(serving) or "-", ", ".join(variants)


def release_json(release: "Release", serving: Sequence[str]) -> dict[str, Any]:
    """Return a release, and the channels that serve it, for programs."""
    return {
        "tag": release.tag,
        "version": release.version,
        "model": release.model,
        "digest": release.digest,
        "channels": list(serving),
        "variants": {each.name: each.model.size for each in release.variants},
    }
