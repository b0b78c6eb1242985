"""`edgeline registry verify`: check everything in a registry."""

import argparse
from typing import Any

from edgeline.cli.options import add_command
from edgeline.cli.output import Progress, megabytes, print_json, print_table
from edgeline.cli.registry.access import repository_to_read
from edgeline.cli.registry.options import add_reading, add_store
from edgeline.errors import IntegrityError


def add_verify(group: Any) -> None:
    parser = add_command(group, "verify", _verify, "check everything in a registry")
    add_store(parser)
    add_reading(parser)


def _verify(options: argparse.Namespace) -> int:
    """Read every release wholly and check every digest, every channel's signature, when
    each signature expires, and that no tag is left over. Exit code 4 when something is wrong,
    0 when there are only warnings.

    Examples:
    edgeline registry verify registry --root keys/root.json
    edgeline registry verify oci://registry.example/cells --json | jq '.findings[].text'
    """
    repository = repository_to_read(options)
    from edgeline.publish.verify import verify

    found = verify(repository, notify=Progress())
    if options.json:
        print_json(
            {
                "passed": found.passed,
                "releases": found.releases,
                "channels": found.channels,
                "roles": found.roles,
                "bytes": found.size,
                "findings": [vars(each) for each in found.findings],
            }
        )
    else:
        if found.findings:
            print_table([(each.level, each.subject, each.text) for each in found.findings])
        errors = sum(each.level == "error" for each in found.findings)
        print(
            f"Checked {found.releases} releases ({megabytes(found.size)}), {found.channels} "
            f"channels and {found.roles} roles: {errors} errors, "
            f"{len(found.findings) - errors} warnings."
        )
    return 0 if found.passed else IntegrityError.exit_code
