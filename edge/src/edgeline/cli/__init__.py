"""The `edgeline` command.

Heavy imports wait until a command needs them, so that `--help` answers at once.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

from edgeline._distribution import DEVICE, REGISTRY, distribution, pip_install
from edgeline.cli.device import add_device_commands
from edgeline.cli.options import EXIT_CODES, Parser, add_group
from edgeline.cli.output import UsageError, note
from edgeline.cli.predict import add_predict
from edgeline.errors import EdgelineError

_DEVICE_LIBRARIES = ("PIL", "ai_edge_litert", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A label or a file name that the terminal's encoding lacks must not end a batch.
            stream.reconfigure(errors="backslashreplace")
    try:
        with redirect_stdout(cast("TextIO", _Output(sys.stdout))):
            try:
                options = _parser().parse_args(arguments)
                code: int = options.run(options)
            finally:
                sys.stdout.flush()
    except _OutputError as error:
        _drop_output()
        note(str(error))
        return error.exit_code
    except EdgelineError as error:
        note(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _DEVICE_LIBRARIES:
            raise
        if distribution() == REGISTRY:
            note(f"This command needs {error.name}, as a device does: {pip_install('device')}")
        else:
            note(f"{error.name} is missing, which this command needs. Install {DEVICE} anew")
        return EdgelineError.exit_code
    except (KeyboardInterrupt, EOFError):
        # Control-C, or Control-D where a passphrase was asked for.
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has enough.
        _drop_output()
        return 141
    return code


class _OutputError(EdgelineError):
    """What was printed cannot be written, as to a full disk."""


class _Output:
    """The standard output, which tells its own failures from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._translated():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._translated():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _OutputError(f"The output cannot be written: {error.strerror}") from None


def _open_streams() -> None:
    """Lead standard streams that are closed to nowhere, not to the next file that is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # what Python makes of a closed one
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends


def _drop_output() -> None:
    """Lead the output to nowhere: Python would fail once more flushing it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """Prints the version, which takes longer to find than everything else here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edgeline._distribution import edgeline_version

        print(f"edgeline {edgeline_version()}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="edgeline",
        description="Verify and run image classifiers from an edge model registry, and manage it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print edgeline's version")
    parser.add_commands = _add_commands
    return parser


def _add_commands(commands: Any) -> None:
    add_predict(commands)
    add_device_commands(commands)
    if distribution() == REGISTRY:
        from edgeline.cli.registry import add_registry

        add_registry(commands)
    else:
        summary = f"manage an edge model registry: in {REGISTRY}, not here"
        add_group(commands, "registry", _refuse, summary)


def _refuse(_: Any) -> None:
    """Say where the registry's commands are.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"`edgeline registry` is not in the distribution {DEVICE}, which is for devices. Where a "
        f"registry is looked after, pip uninstall {DEVICE} and install {REGISTRY} in its place "
        "(edge/registry of a checkout, or its wheel): it has the other commands, too"
    )
