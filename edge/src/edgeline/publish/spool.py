"""Files on their way into a directory: each gets its name once it is complete and on the disk.

A large file begins to be put on the disk as soon as it is written, while its user does other work.
Small ones wait for each other in memory, since a disk takes several in hardly more time than one.
"""

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

_WORKERS = 4
_HELD = 16 << 20  # bytes of small files that wait


class Spool:
    """Takes files into `folder`, of which it is the only user, and moves them to their places.

    What an earlier user left in the folder is removed, and so is what is left at the end. All
    methods raise OSError when the disk is full or fails. Any thread may write, move and drop files,
    while none settles or puts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clear()
        self._disk = ThreadPoolExecutor(_WORKERS)
        self._synced: dict[Path, Future[Path]] = {}  # files without a name
        self._moves: list[Future[Path]] = []
        self._puts: dict[Path, bytes] = {}  # by target
        self._held = 0  # bytes in them
        self._targets: set[Path] = set()
        self._numbers = itertools.count(1)

    def write(self, content: Iterable[bytes | memoryview]) -> Path:
        """Write a file that nobody else knows of yet, and begin to put it on the disk."""
        path = self._written(content)
        self._synced[path] = self._disk.submit(_synced, path)
        return path

    def move(self, path: Path, target: Path) -> None:
        """Give a file that was written its name, as soon as it is on the disk."""
        self._targets.add(target)
        self._moves.append(self._disk.submit(_placed, self._synced.pop(path), target))

    def drop(self, path: Path) -> None:
        """Remove a file that was written and is not wanted."""
        del self._synced[path]
        path.unlink()

    def put(self, content: bytes, target: Path) -> None:
        """Have `settle` write a small file of this name; it is called when there are many."""
        self._targets.add(target)
        self._puts[target] = content
        self._held += len(content)
        if self._held > _HELD:
            self.settle()

    def is_moving(self, target: Path) -> bool:
        """Tell whether a file is about to be there, by the next `settle` at the latest."""
        return target in self._targets

    def settle(self) -> None:
        """Wait until all files are in their places; raise what went wrong."""
        moves, puts = self._moves, self._puts
        self._moves, self._puts, self._held, self._targets = [], {}, 0, set()
        parts = [self._disk.submit(self._put, content) for content in puts.values()]
        wait([*moves, *parts])
        for move in moves:
            move.result()
        # Only now, since a disk that has names to write between contents takes longer.
        for path, target in zip([part.result() for part in parts], puts, strict=True):
            path.replace(target)

    def close(self) -> None:
        """Wait until nothing is written any more, whatever became of it."""
        self._disk.shutdown()
        with suppress(OSError):  # the next user will remove it
            self._clear()

    def _put(self, content: bytes) -> Path:
        return _synced(self._written([content]))

    def _written(self, content: Iterable[bytes | memoryview]) -> Path:
        path = self._folder / str(next(self._numbers))
        with path.open("xb") as file:
            file.writelines(content)
        return path

    def _clear(self) -> None:
        for left in list(self._folder.iterdir()):
            left.unlink()


def _synced(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def _placed(synced: Future[Path], target: Path) -> Path:
    return synced.result().replace(target)
