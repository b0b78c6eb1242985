"""The folder in which a training keeps what a rerun needs, if this run is killed.

Its name is a digest of everything that decides the outcome. So a rerun of the same training finds
it under whatever execution id, and one with other settings, data or code begins anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipeline.errors import TrainingError

FORGOTTEN = 14 * 24 * 3600.0  # seconds after which an unfinished training is thrown away
READ_BYTES = 2**20


@contextmanager
def state_folder(root: Path, settings: Mapping[str, Any], files: Sequence[str]) -> Iterator[Path]:
    """Opens the folder of a training, and removes it when the training is over.

    Args:
        root: where such folders are.
        settings: all that decides the outcome; plain values.
        files: what is read, as paths that TensorFlow opens; their content counts.

    Raises:
        TrainingError: another process is at the same training.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / state_digest(settings, files)
    with (root / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{folder}: another run is at this very training; wait for it, or stop it"
            ) from error
        _forget_old(root, folder)
        folder.mkdir(exist_ok=True)
        yield folder
        # Only here: what raised may be run again.
        shutil.rmtree(folder)
        Path(lock.name).unlink()


def state_digest(settings: Mapping[str, Any], files: Sequence[str]) -> str:
    """A name for all that decides a training's outcome, of 16 hex digits.

    Args:
        settings: plain values.
        files: what is read; their content counts.
    """
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    digest = hashlib.sha256(json.dumps([settings, versions], sort_keys=True).encode())
    for name in sorted(files):
        with tf.io.gfile.GFile(name, "rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _forget_old(root: Path, current: Path) -> None:
    for folder in root.iterdir():
        if folder.is_dir() and folder != current:
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > FORGOTTEN:
                shutil.rmtree(folder, ignore_errors=True)
