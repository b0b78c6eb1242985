"""What a device is known by: an id that it makes up for itself, once.

The id is 32 hexadecimal digits drawn at random. It says nothing of the machine, its network or
whose it is, and stays the same as long as the state folder does. Cards that are copied after that
share an id: make images of cards that have never checked a registry, or remove the file.
"""

import errno
import secrets
from pathlib import Path

from edgeline._files import locked, read_bounded, write_whole
from edgeline.registry.rollout import is_device_id

ID_FILE = "device-id"

_LOCK_SECONDS = 10.0


def device_id(base: Path) -> str:
    """Return the id of the device with this state folder; made when it is first needed.

    Raises:
        OSError: the folder cannot be read or written.
    """
    path = base / ID_FILE
    base.mkdir(parents=True, exist_ok=True)
    try:
        with locked(base / f"{ID_FILE}.lock", _LOCK_SECONDS):
            found = _read(path)
            if found is None:
                found = secrets.token_hex(16)
                write_whole(path, found.encode())
            return found
    except BlockingIOError:
        raise OSError(errno.EBUSY, f"another process holds {ID_FILE}.lock") from None


def known_id(base: Path) -> str | None:
    """Return the device's id if it has one already."""
    return _read(base / ID_FILE)


def _read(path: Path) -> str | None:
    """Return the id in a file; None when there is none, or it was damaged."""
    try:
        text = read_bounded(path, 100).decode("ascii", "replace")
    except (FileNotFoundError, ValueError):
        return None
    return text if is_device_id(text) else None
