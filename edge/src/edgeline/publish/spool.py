"""Files on their way into a directory: each gets its name once it is complete and on the disk.

Writing is mostly waiting for the disk, so that goes on in the background, for several files at
once, while the next ones are written.
"""

import os
from collections.abc import Iterator
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
    the disk is full or fails.
    """

    def __init__(self, folder: Path) -> None:
        for left in list(folder.iterdir()):
            left.unlink()
        self._folder = folder
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._moving: dict[Path, Future[None]] = {}
        self._opened = 0

    @contextmanager
    def open(self) -> Iterator[Incoming]:
        """Open a file to be written; unless it is then moved, it is removed."""
        self._opened += 1
        incoming = Incoming(self._folder / str(self._opened))
        try:
            yield incoming
        finally:
            if not incoming.moving:
                incoming.drop()

    def move(self, incoming: Incoming, target: Path) -> None:
        """Begin to give a file its name."""
        incoming.moving = True
        self._moving[target] = self._pool.submit(incoming.move, target)

    def is_moving(self, target: Path) -> bool:
        """Tell whether a file is about to be there."""
        return target in self._moving

    def settle(self) -> None:
        """Wait until all files are in their places; raise what went wrong."""
        moving = list(self._moving.values())
        self._moving.clear()
        wait(moving)
        for each in moving:
            each.result()

    def close(self) -> None:
        """Wait until nothing is written any more, whatever became of it."""
        self._pool.shutdown()
