"""What the commands' options have in common: their help, their shared arguments, their syntax."""

import argparse
import inspect
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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

_EXAMPLES = "\n\nExamples:\n"  # in a docstring


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
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    """Add a command that `run` carries out and gives the exit code of.

    Its help is the docstring of `run`: what the command does, and then examples.
    """
    parser = _parser(commands, name, run, summary)
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Any, name: str, add_commands: Callable[[Any], None], summary: str) -> None:
    """Add a command that consists of others, which `add_commands` adds, whose docstring is help."""
    _parser(commands, name, add_commands, summary).add_commands = add_commands


def _parser(commands: Any, name: str, described: Callable[..., object], summary: str) -> Parser:
    description, _, examples = inspect.cleandoc(described.__doc__ or "").partition(_EXAMPLES)
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{textwrap.indent(examples, '  ')}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


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


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    """Add the output for programs."""
    parser.add_argument("--json", action="store_true", help=f"print {what} instead of tables")


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
