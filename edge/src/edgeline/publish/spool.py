"""Files on their way into a directory: each gets its name once it is complete and on the disk.

Writing is mostly waiting for the disk, so that goes on in the background, for several files at
once, while the next ones are written.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

_WORKERS = 4


class Incoming:
    """A file that has no name yet but one that nobody reads it by."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self.write = self._file.write
        self.moving = False

    def move(self, target: Path) -> None:
        """Put the file on the disk, and then give it its name."""
        try:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())
            self._path.replace(target)
        except OSError:
            self.drop()
            raise

    def drop(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # of what is not wanted anyway
            self._file.close()


class Spool:
    """Takes files into `folder`, of which it is the only user, and moves them to their places.

    What an earlier user left in the folder is removed. All methods but `close` raise OSError when
    the disk is full or fails. Any thread may open and move files, while none settles.
    """

    def __init__(self, folder: Path) -> None:
        for left in list(folder.iterdir()):
            left.unlink()
        self._folder = folder
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._moves: list[Future[None]] = []
        self._targets: set[Path] = set()
        self._numbers = itertools.count(1)

    @contextmanager
    def open(self) -> Iterator[Incoming]:
        """Open a file to be written; unless it is then moved, it is removed."""
        incoming = Incoming(self._folder / str(next(self._numbers)))
        try:
            yield incoming
        finally:
            if not incoming.moving:
                incoming.drop()

    def move(self, incoming: Incoming, target: Path) -> None:
        """Begin to give a file its name."""
        incoming.moving = True
        self._begin(target, incoming.move, target)

    def write(self, content: bytes, target: Path) -> None:
        """Begin to write a file of this name, all of it in the background."""
        self._begin(target, self._write, content, target)

    def is_moving(self, target: Path) -> bool:
        """Tell whether a file is about to be there."""
        return target in self._targets

    def settle(self) -> None:
        """Wait until all files are in their places; raise what went wrong."""
        moves, self._moves = self._moves, []
        self._targets.clear()
        wait(moves)
        for move in moves:
            move.result()

    def _begin(self, target: Path, work: Callable[..., None], *arguments: object) -> None:
        self._targets.add(target)
        self._moves.append(self._pool.submit(work, *arguments))

    def _write(self, content: bytes, target: Path) -> None:
        with self.open() as incoming:
            incoming.write(content)
            incoming.moving = True
            incoming.move(target)

    def close(self) -> None:
        """Wait until nothing is written any more, whatever became of it."""
        self._pool.shutdown()
