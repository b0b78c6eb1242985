"""Runs the work of an ingest: on this machine's cores, on a Dask cluster, or by Beam.

The work comes in units, each named by a file in a folder that all workers share. A worker reads the
unit's file and leaves its outcome beside it, whole or not at all, so that

- nothing but names travels, and memory is flat in the number of images;
- a unit that a cluster does twice gives the same outcome twice;
- whoever goes on after a kill sees what is done.

One machine's processes and a Dask cluster are used in the same way, by the interface of
`concurrent.futures.Executor`; Beam, with Dataflow, Flink and Spark behind it, by a Map over units.
"""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError

_KEPT_BYTES = 24 * 2**20  # more than Pillow asks for at once, and less than glibc's limit of 32 MiB
UNITS_AHEAD = 2  # for each worker, so that none waits for its next
PROGRESS_SECONDS = 2.0


class WorkerLostError(UserError):
    """The work was ended from outside; what is done of it is kept for a rerun."""

    exit_code = 1


# What is done with a unit, by its name.
Function = Callable[[str], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """Where the work is done.

    Attributes:
        beam_args: Beam's own options; empty for no Beam.
        dask: address of a Dask cluster's scheduler; None for none.
    """

    beam_args: tuple[str, ...] = ()
    dask: str | None = None

    def __post_init__(self) -> None:
        """Checks that there is one.

        Raises:
            UserError: both Beam and Dask are asked for.
        """
        if self.beam_args and self.dask:
            raise UserError("expected --beam-arg or --dask, not both: one engine does the work")


THIS_MACHINE = Engine()


class Tally:
    """Counts images across workers: a file for each process, a byte for each image."""

    def __init__(self, folder: Path) -> None:
        """Counts from 0; `folder` is made."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def tick(self, images: int = 1) -> None:
        """Counts images of this process."""
        os.write(_tally_file(str(self._folder), os.getpid()), b"." * images)

    def count(self) -> int:
        """The images of all processes; what a cluster did twice is counted twice."""
        return sum(entry.stat().st_size for entry in os.scandir(self._folder))


@functools.lru_cache(maxsize=4)
def _tally_file(folder: str, process: int) -> int:
    path = os.path.join(folder, f"{os.uname().nodename}-{process}")  # noqa: PTH118
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class RunUnits(Protocol):
    """Runs a function on units."""

    def __call__(self, function: Function, names: Sequence[str]) -> Iterator[str]:
        """Runs a function on every unit; yields the names as they are done, in no certain order.

        Where there are worker processes, they begin at once.

        Args:
            function: picklable; what it raises ends the work.
            names: of the units.

        Raises:
            UserError: a worker was killed.
            Exception: what the function raised.
        """


@contextmanager
def workers(engine: Engine) -> Iterator[RunUnits]:
    """Has the workers of an engine ready until the end of the block.

    Raises:
        UserError: the cluster can't be reached.
    """
    if engine.beam_args:
        yield functools.partial(_by_beam, engine.beam_args)
    elif engine.dask:
        with _dask(engine.dask) as (executor, count):
            yield functools.partial(_by_executor, executor, count)
    else:
        with ExitStack() as stack:
            cores = os.cpu_count() or 1
            # Started by the first work that there is more than one unit of.
            start = functools.cache(lambda: stack.enter_context(_processes(cores)))
            yield functools.partial(_on_this_machine, start, cores)


def _on_this_machine(
    start: Callable[[], Executor], cores: int, function: Function, names: Sequence[str]
) -> Iterator[str]:
    if (count := min(cores, len(names))) > 1:
        return _by_executor(start(), count, function, names)
    return _one_by_one(function, names)


def _one_by_one(function: Function, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        function(name)
        yield name


def _by_executor(
    executor: Executor, count: int, function: Function, names: Sequence[str]
) -> Iterator[str]:
    waiting = iter(names)
    running = {
        executor.submit(function, name): name for name in islice(waiting, count * UNITS_AHEAD)
    }
    return _done(executor, function, running, waiting)


def _done(
    executor: Executor, function: Function, running: dict[Future[None], str], waiting: Iterator[str]
) -> Iterator[str]:
    """Yields units as they are done, and keeps as many running as there are, until all are."""
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                future.result()
                for following in islice(waiting, 1):
                    running[executor.submit(function, following)] = following
                yield name
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "a worker process was killed, perhaps for want of memory; a rerun picks up"
        ) from error
    finally:
        for future in running:
            future.cancel()


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    # Spawned, not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # glibc hands freed memory back to the system until it saw a block of this size freed. The pages
    # of every decoded image, some hundred, would be asked for anew, in 0.4 of a photo's time.
    bytes(_KEPT_BYTES)
    _end_with_the_parent()


def _end_with_the_parent() -> None:
    """Sees to it that a worker neither outlives its parent nor answers Ctrl-C with a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--dask: Dask is not installed: pip install distributed") from error
    try:
        client: Any = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: there is no scheduler: {error}") from error
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise UserError(f"--dask {address}: the cluster has no workers")
        # Units have outcomes of their own: what one worker did, no other has to keep.
        with client.get_executor(pure=False) as executor:
            yield executor, workers


def _by_beam(beam_args: Sequence[str], function: Function, names: Sequence[str]) -> Iterator[str]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    # Beam's default may be a runner that downloads itself.
    options = PipelineOptions(["--runner=FnApiRunner", *beam_args])
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(names) | beam.Reshuffle() | beam.Map(function)
    yield from names


@contextmanager
def reported(line: Callable[[], str], say: Say) -> Iterator[None]:
    """Says how far the work is, every two seconds and at its end."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(PROGRESS_SECONDS):
            say(line())

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    say(line())


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns errors of a full or read-only disk into one line.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error):
            raise UserError(
                f"{out}: the disk is full; nothing is left of this: free some space and run the "
                "same command again"
            ) from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR):
            file = getattr(error, "filename", None) or out
            reason = os.strerror(number)
            raise UserError(f"{out}: can't write {file}: {reason}") from error
        raise
