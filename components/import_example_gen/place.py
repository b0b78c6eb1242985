"""Puts files into a folder without reading them: by a hard link, or copied where that can't be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tfx.dsl.io import fileio


def place(files: Sequence[str], folder: str) -> None:
    """Puts files into a folder under their own names; a file is there whole or not at all.

    A link shares the bytes with the original: that takes no time and no room, and a dataset is
    replaced by a new one, never written in place. Another file system, or one without links, gets a
    copy, through a small buffer.

    Args:
        files: paths or URIs.
        folder: path or URI; made if it isn't there.

    Raises:
        OSError: a file can't be copied either.
    """
    if any("://" in each for each in (*files, folder)):
        fileio.makedirs(folder)
        for file in files:
            fileio.copy(file, f"{folder}/{Path(file).name}", overwrite=True)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        _link_or_copy(Path(file).resolve(), Path(folder) / Path(file).name)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # EXDEV, EPERM, EMLINK, ENOTSUP and others: whatever stands against it, a copy may go.
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    # Beside the folder, all of which readers take for examples.
    partial = target.parent.with_name(f".{target.parent.name}-{target.name}.partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
