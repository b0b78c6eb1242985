"""The `edgeline` command.

Heavy imports wait until a command needs them, so that `--help` answers at once.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from edgeline.cli.device import add_device_commands
from edgeline.cli.options import EXIT_CODES
from edgeline.cli.output import note
from edgeline.cli.predict import add_predict
from edgeline.cli.registry import add_registry
from edgeline.errors import EdgelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A label or a file name that the terminal's encoding lacks must not end a batch.
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except EdgelineError as error:
        note(str(error))
        return error.exit_code
    except (KeyboardInterrupt, EOFError):
        # Control-C, or Control-D where a passphrase was asked for.
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would fail once more flushing at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeline",
        description="Verify and run image classifiers from an edge model registry, and manage it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    add_predict(commands)
    add_device_commands(commands)
    add_registry(commands)
    return parser
