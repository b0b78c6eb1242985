"""What the commands' options have in common: their help, their shared arguments, their syntax."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgeline.registry.format import MAX_EXPIRY_DAYS

_Number = TypeVar("_Number", int, float)

EXIT_CODES = """\
exit codes:
  0  all went well
  1  an image could not be read and the others were predicted; or you answered no
  2  the command line is wrong
  3  the registry, the release or the model cannot be used, or the request was refused
  4  content or signatures are not genuine, are damaged, or have expired
  5  the registry did not answer in time, or others kept changing it; try again later
"""


class Parser(argparse.ArgumentParser):
    """A parser that gets its commands once it is used: most starts need those of no group."""

    add_commands: Callable[[Any], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, as `argparse.ArgumentParser` does."""
        if self.add_commands is not None:
            add_commands, self.add_commands = self.add_commands, None
            add_commands(self.add_subparsers(metavar="command", required=True))
        return super().parse_known_args(args, namespace)


def add_command(
    commands: Any,
    name: str,
    *,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command that `run` carries out and gives the exit code of."""
    parser = _parser(commands, name, summary, description, examples)
    parser.set_defaults(run=run)
    return parser


def add_group(
    commands: Any,
    name: str,
    add_commands: Callable[[Any], None],
    *,
    summary: str,
    description: str,
    examples: str,
) -> None:
    """Add a command that consists of others, which `add_commands` adds to it."""
    _parser(commands, name, summary, description, examples).add_commands = add_commands


def _parser(commands: Any, name: str, summary: str, description: str, examples: str) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


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


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add how to reach a registry server. Credentials come from Docker's config.json."""
    group = parser.add_argument_group("connection, for oci:// only")
    group.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificates (PEM) to trust, not the system's"
    )
    group.add_argument(
        "--client-cert", type=Path, metavar="FILE", help="your certificate (PEM), for mutual TLS"
    )
    group.add_argument(
        "--client-key", type=Path, metavar="FILE", help="its key (PEM), unless it is in that file"
    )
    group.add_argument(
        "--insecure", action="store_true", help="allow plain HTTP to other hosts than this one"
    )
    group.add_argument(
        "--timeout",
        type=within(float, 0.001, 3600),
        default=60.0,
        metavar="SECONDS",
        help="for one request and its retries, default: 60",
    )


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add the trusted root; it is not required here, as it may come from the environment."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FILE",
        help="the trusted root.json that `edgeline registry init` made; default: $EDGELINE_ROOT",
    )


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add where trusted metadata is kept, which protects from being shown an older state."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="remembers which metadata was seen, so that an older one is refused; "
        "default: $EDGELINE_STATE, else below ~/.local/state/edgeline",
    )


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


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """Add the output for programs."""
    parser.add_argument("--json", action="store_true", help=f"print {what} instead of tables")


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


def at_least(least: int) -> Callable[[str], int]:
    """Return a type for whole numbers from `least` on."""
    return within(int, least, math.inf)


def within(kind: Callable[[str], _Number], least: float, most: float) -> Callable[[str], _Number]:
    """Return a type for numbers of a kind, from `least` to `most`."""

    def number(text: str) -> _Number:
        value = kind(text)
        if not least <= value <= most:
            bounds = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"expected {bounds}, got {text}")
        return value

    return number


def version(text: str) -> int:
    """Return the number of a release that is written "v7" or "7"."""
    digits = text.removeprefix("v")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 9 or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"expected a version such as v7, got {text!r}")
    return int(digits)
