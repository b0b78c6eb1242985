"""Files that are either whole or not there, whenever the process ends or the power fails."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file whole, so that power may fail at any moment."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what was renamed and removed in a folder last."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
