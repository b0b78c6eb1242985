"""Photographs that nobody took, each different from all others, and made fast."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COARSE = 6  # cells a side, from which a picture's large shapes are blown up
GRAIN = 12.0  # standard deviation, in grey levels, of what a sensor adds
GRAINS = 16  # different ones, which take longer to draw than to add
CHUNK = 64  # photos


@dataclass(frozen=True)
class Photos:
    """A set of photos; the same settings give the same bytes.

    Attributes:
        count: of photos.
        classes: of which each photo has one, in turn; a class has a hue of its own.
        width: in pixels.
        height: in pixels.
        quality: of the JPEGs. At 85, 64x64 pixels take 2 KB, and 400x300 take 40.
    """

    count: int
    classes: int = 2
    width: int = 64
    height: int = 64
    quality: int = 85

    def label(self, index: int) -> str:
        """The class of a photo."""
        return f"class-{index % self.classes:05d}"

    @property
    def labels(self) -> list[str]:
        """The classes in their order."""
        return [self.label(index) for index in range(self.classes)]

    def encoded(self, indices: Iterable[int]) -> Iterator[bytes]:
        """Makes photos by their numbers, as JPEGs."""
        grains = _grains(self.height, self.width)
        for index in indices:
            generator = np.random.default_rng(index)
            coarse = generator.integers(0, 256, (COARSE, COARSE, 3), np.uint8)
            hue = np.random.default_rng([self.classes, index % self.classes]).integers(0, 256, 3)
            coarse = ((coarse.astype(np.uint16) + hue.astype(np.uint16)) // 2).astype(np.uint8)
            picture = Image.fromarray(coarse).resize(
                (self.width, self.height), Image.Resampling.BICUBIC
            )
            grain = grains[generator.integers(GRAINS)]
            pixels = np.clip(np.asarray(picture, np.int16) + grain, 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
            yield file.getvalue()

    def all_encoded(self) -> Iterator[bytes]:
        """Makes all of them, in order, on every core."""
        starts = range(0, self.count, CHUNK)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            for made in pool.map(partial(_chunk, self), starts):
                yield from made


def write_photos(photos: Photos, folder: Path) -> Path:
    """Writes photos as JPEG files, in a folder for each class; returns the folder of these."""
    for label in photos.labels:
        (folder / label).mkdir(parents=True, exist_ok=True)
    starts = range(0, photos.count, CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_write, repeat(photos), repeat(folder), starts))
    return folder


def _write(photos: Photos, folder: Path, start: int) -> None:
    for index, image in enumerate(_chunk(photos, start), start):
        (folder / photos.label(index) / f"{index:07d}.jpg").write_bytes(image)


def _chunk(photos: Photos, start: int) -> list[bytes]:
    return list(photos.encoded(range(start, min(start + CHUNK, photos.count))))


def _grains(height: int, width: int) -> NDArray[np.int16]:
    noise = np.random.default_rng(0).normal(0, GRAIN, (GRAINS, height, width, 1))
    return noise.astype(np.int16)
