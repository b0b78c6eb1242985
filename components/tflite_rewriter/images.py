"""Images on their way to the conversion processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PIXELS_FILE = "pixels.npy"
LABEL_IDS_FILE = "label_ids.npy"


@dataclass(frozen=True, eq=False)
class Images:
    """Transformed images.

    Attributes:
        image_ids: SHA-256 of each original file, in hex.
        pixels: float32 `[images, height, width, 3]` in [0, 1].
        label_ids: int64 `[images]`.
    """

    image_ids: tuple[str, ...]
    pixels: NDArray[np.float32]
    label_ids: NDArray[np.int64]

    def save(self, folder: Path) -> None:
        """Writes pixels and label ids, for another process to memory-map."""
        folder.mkdir(parents=True)
        np.save(folder / PIXELS_FILE, self.pixels)
        np.save(folder / LABEL_IDS_FILE, self.label_ids)


def load_pixels(folder: Path) -> NDArray[np.float32]:
    """Reads what `Images.save` wrote, as far as it is needed."""
    pixels: NDArray[np.float32] = np.load(folder / PIXELS_FILE, mmap_mode="r", allow_pickle=False)
    return pixels


def load_label_ids(folder: Path) -> NDArray[np.int64]:
    """Reads what `Images.save` wrote."""
    label_ids: NDArray[np.int64] = np.load(folder / LABEL_IDS_FILE, allow_pickle=False)
    return label_ids
