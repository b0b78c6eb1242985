"""`edgeline registry refresh`, `gc` and `copy`: keep a registry in order."""

import argparse
from typing import Any

from edgeline.cli.access import (
    existing_store,
    repository,
)
from edgeline.cli.options import (
    add_command,
    add_connection,
    add_json,
    add_keys,
    add_root,
    add_store,
)
from edgeline.cli.output import day, print_json, print_table

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def add_refresh(group: Any) -> None:
    """Add `refresh` to the parser."""
    parser = add_command(
        group,
        "refresh",
        run=_refresh,
        summary="sign anew before signatures expire (for cron)",
        description="Sign snapshot and timestamp anew, and whatever else expires soon and can be "
        "signed\nwith the keys at hand. Run it daily: devices refuse a registry whose signatures "
        "expired.",
        examples="""\
  edgeline registry refresh registry --root keys/root.json --key keys/online.pem
  30 3 * * *  EDGELINE_ROOT=... EDGELINE_KEYS=... edgeline registry refresh oci://...  # crontab
""",
    )
    add_store(parser)
    add_root(parser)
    add_keys(parser)
    add_json(parser)
    add_connection(parser)


def _refresh(options: argparse.Namespace) -> int:
    store = existing_store(options)
    signed = repository(options, store).refresh()
    if options.json:
        roles = [
            {
                "role": role.name,
                "version": role.version,
                "expires": role.expires.isoformat() if role.expires else None,
            }
            for role in signed
        ]
        print_json({"signed": roles})
    else:
        rows = [(role.name, str(role.version), day(role.expires)) for role in signed]
        print_table([("SIGNED", "VERSION", "EXPIRES"), *rows], right=(1,))
    return 0
