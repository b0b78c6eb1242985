"""What the options of the registry's commands have in common: shared arguments and syntax."""

import argparse
import re
from collections.abc import Sequence

from edgeline.cli.options import add_connection, add_json, add_root
from edgeline.registry.format import MAX_EXPIRY_DAYS


def add_store(parser: argparse.ArgumentParser, name: str = "store") -> None:
    """Add the store as the next positional argument."""
    parser.add_argument(
        name,
        metavar=name.upper(),
        help="a directory, or oci://host[:port]/repository",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the store, and the name of a model in it, as the next positional arguments."""
    add_store(parser)
    parser.add_argument("model", metavar="MODEL", help="the model's name in the registry")


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add what to sign with."""
    parser.add_argument(
        "--key",
        action="append",
        dest="keys",
        metavar="URI",
        help="sign with it: a PEM file, a folder of them, envvar:NAME, or <key id>=<URI> of a "
        "KMS or HSM; repeatable; default: $EDGELINE_KEYS, separated by spaces. A passphrase comes "
        "from $EDGELINE_PASSPHRASE, an HSM's PIN from $EDGELINE_PIN, or is asked for",
    )


def add_expires(parser: argparse.ArgumentParser, roles: Sequence[str], default: str) -> None:
    """Add for how long the signatures of some roles last: pairs of a role and days."""

    def expiry(text: str) -> tuple[str, int]:
        role, _, days = text.partition("=")
        number = int(days) if re.fullmatch(r"[0-9]{1,4}", days, re.ASCII) else 0
        if role not in roles or not 1 <= number <= MAX_EXPIRY_DAYS:
            raise argparse.ArgumentTypeError(
                f"expected ROLE=DAYS, a role of {', '.join(roles)} and 1 to {MAX_EXPIRY_DAYS} "
                f"days; got {text!r}"
            )
        return role, number

    parser.add_argument(
        "--expires",
        action="append",
        type=expiry,
        default=[],
        metavar="ROLE=DAYS",
        help=f"how long signatures of {', '.join(roles)} last; repeatable; default: {default}",
    )


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the consent that is otherwise asked for on a terminal."""
    parser.add_argument("--yes", action="store_true", help="do not ask; needed without a terminal")


def share(text: str) -> int:
    """Return how many of 10,000 devices a percentage is, such as "5%"."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%", text, re.ASCII)
    number = round(float(match[1]) * 100) if match else 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(
            f"expected a share from 0.01% to 100%, such as 5%, got {text!r}"
        )
    return number


def add_share(parser: argparse.ArgumentParser, what: str) -> None:
    """Add for which devices a release is; `share` is a number of 10,000, None if not given."""
    parser.add_argument("--share", type=share, metavar="SHARE", help=what)
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        dest="groups",
        metavar="NAME",
        help="and to the devices of this group, whatever the share; repeatable",
    )


def add_reading(parser: argparse.ArgumentParser, json: str = "one JSON object") -> None:
    """Add what commands take that look at signed metadata and print what they found."""
    add_root(parser)
    add_json(parser, json)
    add_connection(parser)


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Add what every command that changes signed metadata takes."""
    add_root(parser)
    add_keys(parser)
    add_json(parser)
    add_connection(parser)


def version(text: str) -> int:
    """Return the number of a release that is written "v7" or "7"."""
    digits = text.removeprefix("v")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 9 or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"expected a version such as v7, got {text!r}")
    return int(digits)
