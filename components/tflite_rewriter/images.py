"""Images on their way to the conversion processes, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

PIXELS_FILE = "pixels.npy"
LABEL_IDS_FILE = "label_ids.npy"


@dataclass(frozen=True, eq=False)
class Images:
    """Transformed images.

    Attributes:
        image_ids: SHA-256 of each original file, in hex.
        batches: their pixels, float32 `[batch, height, width, 3]` in [0, 1], and their label ids,
            int64 `[batch]`; may be made as they are asked for.
    """

    image_ids: tuple[str, ...]
    batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]

    def save(self, folder: Path) -> None:
        """Writes pixels and label ids, for another process to read."""
        folder.mkdir(parents=True, exist_ok=True)
        found: list[NDArray[np.int64]] = []
        with (folder / PIXELS_FILE).open("wb") as file:
            for pixels, label_ids in self.batches:
                if not found:
                    shape = (len(self.image_ids), *pixels.shape[1:])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(pixels, "<f4").data)
                found.append(label_ids)
        np.save(folder / LABEL_IDS_FILE, np.concatenate(found))


class StoredPixels:
    """What `Images.save` wrote, read as it is asked for.

    Not mapped: what was touched of a mapped file counts as memory of the process.

    Attributes:
        shape: `(images, height, width, 3)`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / PIXELS_FILE
        header = np.load(self._file, mmap_mode="r", allow_pickle=False)
        self.shape: tuple[int, ...] = header.shape
        self._offset = header.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yields each image, float32 `[height, width, 3]`."""
        for index in range(len(self)):
            yield self.read(index, index + 1)[0]

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Yields so many images at a time, float32 `[size, height, width, 3]`; the last, fewer."""
        for start in range(0, len(self), size):
            yield self.read(start, start + size)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Reads images by their numbers, as far as there are so many."""
        _, *shape = self.shape
        values = int(np.prod(shape))
        images = min(stop, len(self)) - start
        offset = self._offset + start * values * np.dtype(np.float32).itemsize
        pixels: NDArray[np.float32] = np.fromfile(
            self._file, np.float32, images * values, offset=offset
        )
        return pixels.reshape(images, *shape)


def load_label_ids(folder: Path) -> NDArray[np.int64]:
    """Reads what `Images.save` wrote."""
    label_ids: NDArray[np.int64] = np.load(folder / LABEL_IDS_FILE, allow_pickle=False)
    return label_ids
