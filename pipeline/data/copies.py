"""Finds images that are there more than once, exactly or nearly, among all that were read.

The same pixels are one image: one copy is kept, or none where their labels differ. What only looks
alike is kept, and grouped, so that it lies in one split.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from pipeline.data import near_duplicates
from pipeline.data.index import Index
from pipeline.data.perceptual_hash import HASH_BYTES


def leave_out_copies(index: Index) -> int:
    """Leaves out images whose pixels another has: all of them where their labels differ.

    Returns:
        How many are left out since another with the same label is kept.
    """
    copies = "SELECT pixels_digest FROM images WHERE reason = '' GROUP BY 1 HAVING COUNT(*) > 1"
    query = (
        "SELECT pixels_digest, id, source, label, given_split FROM images WHERE reason = ''"
        f" AND pixels_digest IN ({copies}) ORDER BY pixels_digest, id"
    )
    duplicates = 0
    for _, rows in groupby(index.select(query), key=itemgetter(0)):
        same = list(rows)
        if len({label for *_, label, _ in same}) > 1:
            _leave_out_conflict(index, [(row, source, label) for _, row, source, label, _ in same])
            continue
        # Where the data has splits of its own, the copy that is held out stays.
        kept = min(same, key=lambda row: ("test", "eval", "", "train").index(row[4]))
        others = [row for row in same if row is not kept]
        duplicates += len(others)
        index.change(
            "UPDATE images SET duplicate_of = ?, reason = ? WHERE id = ?",
            [(kept[2], f"the same image as {kept[2]}", row[1]) for row in others],
        )
    return duplicates


def _leave_out_conflict(index: Index, images: Sequence[tuple[int, str, str]]) -> None:
    """Leaves images out that are the same picture under several labels; each names the others."""
    labels = " and ".join(repr(label) for label in sorted({label for _, _, label in images}))
    for row, source, label in images:
        other = next(other for _, other, of_other in images if of_other != label)
        index.change(
            "UPDATE images SET reason = ? WHERE id = ?",
            [(f"same image under labels {labels}: {source} and {other}", row)],
        )


def group_near_duplicates(index: Index) -> tuple[int, list[str]]:
    """Notes which images look alike.

    Even what looks like a copy is kept where its label differs: of solar cells that a person can
    tell apart, one in a thousand looks like a copy of another.

    Returns:
        How many images look like another, and what to say of it, a line each.
    """
    found = near_duplicates.find(_hashes(index))
    _give_memory_back()
    (rows,) = index.numbers("SELECT id FROM images WHERE reason = '' ORDER BY id", tuple, columns=1)
    grouped = found.of_image >= 0
    index.change(
        "UPDATE images SET cluster = ? WHERE id = ?",
        zip(found.of_image[grouped].tolist(), rows[grouped].tolist(), strict=True),
    )
    notes = []
    if found.distance == near_duplicates.ALIKE_DISTANCE:
        notes = [
            "the pictures are so alike that only copies and nearly equal shots can be told from "
            "others: name what belongs together by ingest.group or ingest.group_pattern"
        ]
    return int(grouped.sum()), notes


def _give_memory_back() -> None:
    # The search takes 0.3 KB an image. glibc would keep it, beneath what comes after.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _hashes(index: Index) -> NDArray[np.uint8]:
    """The perceptual hashes of the usable images, uint8 `[images, HASH_BYTES]`."""
    hashes = bytearray()
    query = "SELECT perceptual_hash FROM images WHERE reason = '' ORDER BY id"
    for (text,) in index.select(query):
        hashes += bytes.fromhex(text)
    return np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES)
