"""A hash that pictures share which look the same.

A hash is 255 signs: of the picture's cosine coefficients (DCT-II) of up to 15 half-waves a side,
without the mean, as in pHash (Zauner 2010) and PDQ (Facebook 2019). Its first bit tells whether
there is enough in the picture to compare: a flat one is near to nothing, not even to another flat
one.

All sums are of whole numbers that a float64 holds, so they are exact in any order, and a hash is
the same on every processor. Hashes made by a floating-point transform are not: where a coefficient
is zero, as half of them are in a picture that is its own mirror image, its sign is that of a
rounding error.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BYTES = 32

_SIDE = 16  # frequencies a side, the mean's included
_GRID = 64  # pixels a side, at least, that coefficients are made of, where a picture has as many
_UNIT = 2**20  # what 1 is in a basis of whole numbers
_CONTENT_LEVEL = 0.1  # grey levels: what is below comes from noise and compression
_CONTENT_SIGNS = 96  # coefficients above it, of a picture that has content


def perceptual_hash(image: Image.Image) -> bytes:
    """Returns the hash, `HASH_BYTES` long, of a decoded, upright picture of mode L or RGB.

    Raises:
        ValueError: the picture has another mode.
    """
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"expected a picture of mode L or RGB, got {image.mode}")
    grey = image.convert("L")
    across, down = (max(1, side // _GRID) for side in grey.size)
    # Unlike Pillow's resize, its reduce has no floating-point weights.
    small = np.asarray(grey.reduce((across, down)), np.float64)
    found = _basis(grey.height, down) @ small @ _basis(grey.width, across).T
    coefficients = found.ravel()[_low_to_high()]
    bits = coefficients > 0
    strong = np.abs(coefficients[1:]) >= _CONTENT_LEVEL * _UNIT**2
    bits[0] = min(grey.size) >= _SIDE and np.count_nonzero(strong) >= _CONTENT_SIGNS
    return np.packbits(bits).tobytes()


@lru_cache(maxsize=256)
def _basis(side: int, step: int) -> NDArray[np.float64]:
    """Whole numbers, float64 [frequencies, cells]: the cosines' means over cells of `step` pixels.

    The picture is taken as constant within a cell, and the last cell may be narrower. A row of
    cosines has a mean square of 1.
    """
    edges = np.minimum(np.arange(0, side + step, step), side) / side
    frequency = np.arange(1, _SIDE)[:, None]
    waves = np.diff(np.sin(np.pi * frequency * edges)) * np.sqrt(2) / (np.pi * frequency)
    return np.rint(np.concatenate([np.diff(edges)[None], waves]) * _UNIT)


@lru_cache(maxsize=1)
def _low_to_high() -> NDArray[np.int64]:
    """The order of the coefficients by frequency, the mean first."""
    frequency = np.arange(_SIDE)
    return np.argsort((frequency[:, None] ** 2 + frequency**2).ravel(), kind="stable")
