"""What a person sees of a run: one line a step, while the libraries' chatter goes to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.local_step import Step


class Console:
    """Writes to the terminal, also while `chatter_to` keeps everybody else from it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()

    def say(self, text: str = "") -> None:
        """Writes a line, or several."""
        print(text, file=self._stream, flush=True)

    def step(self, step: Step) -> None:
        """Writes a step's line; on a terminal its end takes the place of its start."""
        line = f"  {step.name:<18} {step.state}"
        if step.state == "running":
            print(line, end="\r" if self._rewrites else "\n", file=self._stream, flush=True)
        else:
            print(f"{line:<30} {step.seconds:8.1f} s", file=self._stream, flush=True)


@contextmanager
def console(log: Path | None) -> Iterator[Console]:
    """Opens the console; with a log file, whatever else writes to stdout or stderr goes there.

    The redirection is of file descriptors: TensorFlow and its children write from C++.

    Args:
        log: of the libraries' output; None leaves it on the terminal.
    """
    if log is None:
        yield Console(sys.stdout)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    stdout, stderr = os.dup(1), os.dup(2)
    with log.open("ab") as file, os.fdopen(os.dup(1), "w") as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Console(terminal)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
