"""Files that are either whole or not there, whenever the process ends or the power fails.

And no larger than they should be, where somebody else wrote them.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeline.errors import RegistryError

_LOCK_POLL = 0.01  # seconds


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than the {limit} bytes expected")
    return data


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file whole, so that power may fail at any moment."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def write_named(path: Path, data: bytes) -> None:
    """Replace a file whole that a user named, in a folder that is made when it is missing.

    Raises:
        RegistryError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise RegistryError(f"{path} cannot be written: {error.strerror}") from None


def create_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that must not be there yet, and have it last.

    Raises:
        FileExistsError: it is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what was renamed and removed in a folder last."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path, wait: float, *, mode: int = 0o644) -> Iterator[None]:
    """Keep other processes and threads out, by a file that is made when it is first needed.

    Args:
        path: The file.
        wait: For how many seconds to wait for who holds it.
        mode: The permissions that it is made with.

    Raises:
        BlockingIOError: it is held for longer.
        OSError: the file cannot be used.
    """
    end = time.monotonic() + wait
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
            time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(lock)
