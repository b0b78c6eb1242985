"""Blobs on their way to the device: what is missing, resumed where it broke off, verified.

A blob is written to `<hex>.part`, which stays when the connection breaks or the power fails, and
becomes `<hex>` once its length and its SHA-256 are right. The space is checked before anything is
written, so that a device never fills its disk with a model that it cannot hold.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._files import sha256_of, sync_folder
from edgeline.device.state import State, StateFolder
from edgeline.errors import DeviceError, IntegrityError, UnreachableError

if TYPE_CHECKING:
    from edgeline.registry.format import Descriptor
    from edgeline.registry.store import ReadStore

SPARE = 16 << 20  # bytes to leave free for everything else on the disk

_CHUNK = 1 << 20  # bytes
_PAUSE = 0.25  # seconds before a broken connection is made anew; doubled while little comes
_LONGEST_PAUSE = 60.0  # seconds

Progress = Callable[[str], None]


class Downloads:
    """Brings blobs of a store into a state folder, whose lock is held.

    Args:
        folder: Where they go.
        state: What is installed; a blob that is there already is copied and not downloaded.
        store: Where they come from.
        end: The monotonic time by which to stop; the rest is left to the next check.
        progress: Told now and then how far a large one has come.
    """

    def __init__(
        self,
        folder: StateFolder,
        state: State,
        store: "ReadStore",
        *,
        end: float,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._store = store
        self._end = end
        self._progress = progress
        self._installed = {
            file.digest: folder.file(model_id, name)
            for model_id, installed in folder.models(state).items()
            for name, file in installed.files.items()
        }

    def path(self, blob: "Descriptor") -> Path:
        """Return where a blob will be."""
        return self._folder.downloads / _hex(blob)

    def keep_only(self, blobs: Iterable["Descriptor"]) -> None:
        """Remove what was downloaded and is not among these blobs."""
        self._folder.clear_downloads(frozenset(map(_hex, blobs)))

    def check_space(self, blobs: Iterable["Descriptor"]) -> None:
        """Check that there is room for what is missing of these blobs.

        Raises:
            DeviceError: there is not.
        """
        wanted = {blob.digest: blob for blob in blobs if not self.path(blob).exists()}
        missing = sum(blob.size - _size(self._part(blob)) for blob in wanted.values())
        with self._folder.translated():
            free = shutil.disk_usage(self._folder.downloads).free
        if missing and free < missing + SPARE:
            raise DeviceError(
                f"The release needs {missing / 1e6:.1f} MB on the disk of {self._folder.path}, and "
                f"{free / 1e6:.1f} MB are free, of which {SPARE / 1e6:.0f} are left alone. Free "
                "some space, or name fewer variants with --variant"
            )

    def missing(self, blobs: Iterable["Descriptor"]) -> bool:
        """Tell whether any of these blobs has to come from the store."""
        return any(
            _size(self.path(blob)) != blob.size and not self._is_installed(blob) for blob in blobs
        )

    def get(self, blob: "Descriptor") -> Path:
        """Return the path of a blob's verified content, having brought here what is missing.

        Raises:
            IntegrityError: the store has something else under the blob's digest.
            UnreachableError: the connection broke, or the time is over. What has come is kept.
            DeviceError: it cannot be written.
        """
        path, part = self.path(blob), self._part(blob)
        if _size(path) == blob.size and sha256_of(path) == _hex(blob):
            return path
        if _size(part) > blob.size:
            part.unlink()
        with self._folder.translated():
            self._fill(blob, part)
            if sha256_of(part) != _hex(blob):
                part.unlink()
                raise IntegrityError(
                    f"Blob {blob.digest} of {self._store.location} was changed or damaged on its "
                    "way here. Nothing of it is used; the next check downloads it again"
                )
            part.replace(path)
            sync_folder(path.parent)
        return path

    def _is_installed(self, blob: "Descriptor") -> bool:
        """Tell whether an installed model has a blob, which may have rotted on the card."""
        path = self._installed.get(blob.digest)
        return path is not None and _size(path) == blob.size and sha256_of(path) == _hex(blob)

    def _part(self, blob: "Descriptor") -> Path:
        return self._folder.downloads / f"{_hex(blob)}.part"

    def _fill(self, blob: "Descriptor", part: Path) -> None:
        """Append to the part until it has the blob's size, trying again while that helps."""
        pause = _PAUSE
        while (before := _size(part)) < blob.size:
            try:
                self._append(blob, part, before)
            except UnreachableError:
                # The store itself has tried several times to get an answer.
                came = _size(part) - before
                pause = _PAUSE if came >= _CHUNK else min(2 * pause, _LONGEST_PAUSE)
                if came == 0 or time.monotonic() + pause > self._end:
                    raise
                time.sleep(random.uniform(pause / 2, pause))
        # Of a blob without a byte, too.
        with part.open("ab") as file:
            os.fsync(file.fileno())

    def _append(self, blob: "Descriptor", part: Path, offset: int) -> None:
        is_installed = self._is_installed(blob)
        if is_installed:
            chunks = _read(self._installed[blob.digest], offset)
        else:
            chunks = self._store.stream_blob(blob, offset=offset)
        with part.open("ab") as file, closing(chunks):  # type: ignore[type-var]
            for chunk in chunks:
                offset += len(chunk)
                if offset > blob.size:
                    raise IntegrityError(
                        f"Blob {blob.digest} of {self._store.location} is longer than the "
                        f"{blob.size} bytes that it should have"
                    )
                file.write(chunk)
                if not is_installed:
                    self._progress(f"{offset / 1e6:.1f} of {blob.size / 1e6:.1f} MB downloaded")
                if time.monotonic() > self._end:
                    raise UnreachableError(
                        f"{self._store.location} is too slow: {offset} of {blob.size} bytes came "
                        "in the time for a check. They are kept, and the next check goes on there"
                    )


def _read(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk


def _hex(blob: "Descriptor") -> str:
    return blob.digest.partition(":")[2]


def _size(path: Path) -> int:
    """Return a file's size, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
