"""What a person sees of a run: one line a step, while the libraries' chatter goes to a log file.

Steps that take long say how far they are through Python's `logging`, under the names of our own
packages; the console shows those lines and no others. Where nothing is said for a while, it says
for how long the step has been at work.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import BinaryIO, TextIO

from edgeline.cli.output import leads_to
from pipeline.errors import UserError
from pipeline.orchestration.local_step import Step

OUR_LOGGERS = ("components", "pipeline")
QUIET_SECONDS = 8.0  # after which it says that work goes on; then after twice as many, and so on
LONGEST_QUIET = 60.0


class Console(logging.Handler):
    """Writes to the terminal, also while `console` keeps everybody else from it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.INFO)
        self._stream = stream
        self._lost = ""
        self._busy = ""  # with what
        self._since = self._said = time.monotonic()
        self._patience = QUIET_SECONDS

    def say(self, text: str = "") -> None:
        """Writes a line, or several.

        Where that fails, as when `| head` has read enough, nothing more is written: who loses the
        reader of its progress loses nothing of its work.
        """
        self._said, self._patience = time.monotonic(), QUIET_SECONDS
        self._write(text)

    def _write(self, text: str) -> None:
        if self._lost:
            return
        try:
            self._stream.write(f"{text}\n")  # at once: two threads write
            self._stream.flush()
        except OSError as error:
            self._lost = error.strerror or str(error)
            # Python writes what is left in the buffers at its end, and would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    @property
    def lost(self) -> str:
        """Why what was said did not reach its reader; empty if it did."""
        return self._lost

    def step(self, step: Step) -> None:
        """Writes a line on where a step is."""
        self.busy(step.name if step.state == "running" else "")
        seconds = "" if step.state == "running" else f"{step.seconds:8.1f} s"
        self.say(f"  {step.name:<18} {step.state:<9}{seconds}".rstrip())

    def busy(self, what: str) -> None:
        """Notes what goes on from now, for `tell_of_silence`; empty for nothing that takes long."""
        self._busy, self._since = what, time.monotonic()

    def tell_of_silence(self, ended: threading.Event) -> None:
        """Says, where nothing else does, that work goes on and for how long; in a thread."""
        while not ended.wait(QUIET_SECONDS / 8):
            now = time.monotonic()
            if self._busy and now - self._said >= self._patience:
                self._said, self._patience = now, min(2 * self._patience, LONGEST_QUIET)
                self._write(f"      {self._busy}: at work for {now - self._since:.0f} s")

    def emit(self, record: logging.LogRecord) -> None:
        """Writes how far a step is; see `logging.Handler`."""
        self.say(f"      {record.getMessage()}")


@contextmanager
def console(log: Path | None) -> Iterator[Console]:
    """Opens the console; with a log file, whatever else writes to stdout or stderr goes there.

    The redirection is of file descriptors: TensorFlow and its children write from C++. In a
    notebook, what Python writes goes to the page and passes by them: it is redirected, too.

    Args:
        log: of the libraries' output; None leaves it on the terminal.

    Raises:
        UserError: the log can't be written.
    """
    if log is None:
        with _progress_on(Console(sys.stdout)) as screen:
            yield screen
        return
    sys.stdout.flush()
    sys.stderr.flush()
    stdout, stderr = os.dup(1), os.dup(2)
    with ExitStack() as stack:
        file = stack.enter_context(_opened(log))
        shown = _shown(stack)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield stack.enter_context(_progress_on(Console(shown)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)


def _shown(stack: ExitStack) -> TextIO:
    """Where a person reads, while descriptor 1 leads elsewhere."""
    if leads_to(sys.stdout, 1):
        return stack.enter_context(os.fdopen(os.dup(1), "w"))
    page = sys.stdout
    # Never closed: a library's log may hold on to what was stderr when it was loaded.
    stack.enter_context(redirect_stdout(os.fdopen(1, "w", 1, closefd=False)))
    stack.enter_context(redirect_stderr(os.fdopen(2, "w", 1, closefd=False)))
    if "IPython" in sys.modules:
        from IPython.utils.capture import capture_output

        # Beam loads scripts from the network into the page.
        stack.enter_context(capture_output(stdout=False, stderr=False))
    return page


def _opened(log: Path) -> BinaryIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as error:
        raise UserError(f"{log}: can't write the log: {error.strerror}") from error


@contextmanager
def _progress_on(screen: Console) -> Iterator[Console]:
    """Shows what our own packages log, from INFO up, and that work goes on where they don't."""
    loggers = [logging.getLogger(name) for name in OUR_LOGGERS]
    ended = threading.Event()
    watch = threading.Thread(target=screen.tell_of_silence, args=(ended,), daemon=True)
    watch.start()
    for logger in loggers:
        logger.addHandler(screen)
        logger.setLevel(logging.INFO)
    try:
        yield screen
    finally:
        ended.set()
        watch.join()
        for logger in loggers:
            logger.removeHandler(screen)
