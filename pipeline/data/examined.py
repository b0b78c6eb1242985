"""What is known of an image once it was read: a worker's answer, a row of the index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO


class Examined(NamedTuple):
    """An image that was found, and what reading it has shown.

    Attributes:
        source: names it in the dataset and in reports.
        label: as it was found.
        split: "train", "eval" or "test" where the data says so, else empty.
        group: of images that stay in one split; empty for none.
        slices: a value for each of the slice keys.
        reason: why it can't be used; empty if it can. Then what follows is known.
        image_id: SHA-256 of the encoded image as it was found, hex.
        pixels_digest: XXH3 (128 bits) of its decoded, upright, 8-bit pixels, hex.
        perceptual_hash: see `pipeline.data.perceptual_hash`, hex.
        format: as Pillow names it.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        bytes: of the encoded image as it was found.
        changes: why it was encoded anew; empty if it was not.
        file: where the bytes that become an example are: the photo itself, or a file of the
            workers'.
        offset: of those bytes in `file`.
        length: of those bytes.
    """

    source: str
    label: str
    split: str = ""
    group: str = ""
    slices: Sequence[str] = ()
    reason: str = ""
    image_id: str = ""
    pixels_digest: str = ""
    perceptual_hash: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    changes: Sequence[str] = ()
    file: str = ""
    offset: int = 0
    length: int = 0


def write_rows(file: TextIO, rows: Sequence[Examined]) -> None:
    """Writes some rows into a file, as one line: a line for each takes twice as long."""
    file.write(json.dumps(rows) + "\n")


def read_rows(path: Path) -> Iterator[Examined]:
    """Yields the rows of a file that `write_rows` filled."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield from map(Examined._make, json.loads(line))
