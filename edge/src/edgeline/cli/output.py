"""What the commands print: tables for people, JSON for programs, and progress."""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from edgeline.errors import EdgelineError, RegistryError

_REMARK = b"Created TensorFlow Lite XNNPACK delegate"
_PATIENCE = 2.0  # seconds before progress is told, and between two lines of it


class UsageError(EdgelineError):
    """The command line does not say what is needed."""

    exit_code = 2


class Progress:
    """Tells on stderr how far something has come, once it takes longer than one likes to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + _PATIENCE

    def __call__(self, text: str) -> None:
        """Tell it, unless it is too soon."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _PATIENCE
            note(text)


def write_file(path: Path, data: bytes, *, anew: bool = False) -> None:
    """Write a file that the command line names, whole; `anew`, one that must not be there yet.

    Raises:
        RegistryError: it cannot be written.
    """
    from edgeline._files import create_whole, write_whole

    try:
        if path.exists() and not path.is_file() and not anew:
            path.write_bytes(data)  # such as /dev/stdout, which must not be replaced
        else:
            (create_whole if anew else write_whole)(path, data)
    except OSError as error:
        raise RegistryError(f"{path} cannot be written: {error.strerror}") from None


def note(text: str) -> None:
    """Print a remark on stderr, where it is in no program's way."""
    print(f"edgeline: {printable(text)}", file=sys.stderr, flush=True)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Drop LiteRT's remark on stderr that it uses XNNPACK, which nothing else turns off.

    What else native code says is passed on at the end; what Python says, at once.
    """
    import tempfile

    with ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        if leads_to(sys.stderr, 2):
            own = stack.enter_context(os.fdopen(os.dup(2), "w", 1, errors="backslashreplace"))
            stack.enter_context(redirect_stderr(own))
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            said.seek(0)
            os.write(2, b"".join(line for line in said if _REMARK not in line))


def leads_to(stream: TextIO, descriptor: int) -> bool:
    """Whether a stream of Python's writes to a file descriptor."""
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):  # it is none of the operating system's
        return False


def print_json(document: Mapping[str, Any]) -> None:
    """Print one line of JSON; a number that is not finite becomes null."""
    print(json.dumps(_finite(document), allow_nan=False))


def answer(
    options: argparse.Namespace,
    document: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    shown: str | Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
) -> int:
    """Print what a command came to, as `--json` asks, and return the exit code of success.

    Args:
        options: The command line.
        document: For programs; several are a line of JSON each.
        shown: For people: a line of text, or the rows of a table.
        right: The columns of the table that are right-aligned.
    """
    if options.json:
        for each in [document] if isinstance(document, Mapping) else document:
            print_json(each)
    else:
        print_table([[shown]] if isinstance(shown, str) else shown, right=right)
    return 0


def print_table(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), error: bool = False
) -> None:
    """Print rows as columns, of which those in `right` are right-aligned; on stderr if `error`."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        aligned = (
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(aligned).rstrip(), file=sys.stderr if error else sys.stdout)


def printable(text: str) -> str:
    """Escape what is not printable: on a terminal, a control character is a command."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 1e6:.1f} MB"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
