"""Gives every usable image its split: remembered, given by the data, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import IngestConfig
from pipeline.data import splits
from pipeline.data.dataset import SPLITS
from pipeline.data.index import Index


def assign_splits(index: Index, labels: Sequence[str], options: IngestConfig) -> list[str]:
    """Gives every usable image its split; returns what to say of it, a line each."""
    index.change(
        "UPDATE images SET split = COALESCE("
        " (SELECT split FROM remembered r WHERE r.image_id = images.image_id LIMIT 1),"
        " (SELECT split FROM remembered r WHERE r.pixels_digest = images.pixels_digest LIMIT 1))"
        " WHERE reason = '' AND EXISTS (SELECT 1 FROM remembered)"
    )
    kept = _Kept.of(index, labels)
    shares = {split: getattr(options, split) for split in SPLITS}
    settled = np.where(kept.given != splits.FREE, kept.given, kept.remembered)
    notes = []
    if absent := _absent_splits(kept, shares):
        settled, taken = _taken_from_train(kept, settled, absent, shares)
        notes += [
            f"no {split} split is given: {count:,} images of train are taken for it"
            for split, count in taken.items()
        ]
    drawn = splits.draw(kept.labels, kept.groups, kept.keys, settled, shares)
    index.change(
        "UPDATE images SET split = ? WHERE id = ?",
        (
            (SPLITS[split], row)
            for split, row in zip(drawn.tolist(), kept.rows.tolist(), strict=True)
        ),
    )
    return notes


@dataclass(frozen=True)
class _Kept:
    """The usable images, `[images]` each: rows, classes, splits by number, groups, draw order."""

    rows: splits.Ints
    labels: splits.Ints
    given: splits.Ints
    remembered: splits.Ints
    groups: splits.Ints
    keys: splits.Ints

    @classmethod
    def of(cls, index: Index, labels: Sequence[str]) -> _Kept:
        label_ids = {label: number for number, label in enumerate(labels)}
        numbers = {split: number for number, split in enumerate(SPLITS)}
        users: dict[str, int] = {}
        columns = index.numbers(
            "SELECT id, label, given_split, split, user_group, COALESCE(cluster, -1),"
            " SUBSTR(image_id, 1, 16) FROM images WHERE reason = '' ORDER BY id",
            lambda row: (
                row[0],
                label_ids[row[1]],
                numbers.get(row[2], splits.FREE),
                numbers.get(row[3], splits.FREE),
                users.setdefault(row[4], len(users)) if row[4] else splits.ALONE,
                row[5],
                # Signed, as all are: which order it is does not matter.
                int(row[6], 16) - 2**63,
            ),
            columns=7,
        )
        rows, label_column, given, remembered, user_groups, clusters, keys = columns
        groups = splits.joined(user_groups, clusters)
        return cls(rows, label_column, given, remembered, groups, keys)


def _absent_splits(kept: _Kept, shares: Mapping[str, float]) -> list[str]:
    """The held-out splits that data with splits of its own lacks."""
    if not len(kept.given) or (kept.given == splits.FREE).any():
        return []
    present = set(kept.given.tolist())
    return [
        split for split in ("eval", "test") if shares[split] and SPLITS.index(split) not in present
    ]


def _taken_from_train(
    kept: _Kept, settled: splits.Ints, absent: Sequence[str], shares: Mapping[str, float]
) -> tuple[splits.Ints, dict[str, int]]:
    """Draws the splits that are not given from the images that are given to train on."""
    part = kept.given == SPLITS.index("train")
    earlier = np.isin(kept.remembered, [SPLITS.index(split) for split in ("train", *absent)])
    free = np.where(earlier, kept.remembered, splits.FREE)[part]
    shares = {split: shares[split] if split in absent else 0.0 for split in SPLITS}
    shares["train"] = 1 - sum(shares.values())
    drawn = splits.draw(kept.labels[part], kept.groups[part], kept.keys[part], free, shares)
    settled = settled.copy()
    settled[part] = drawn
    return settled, {split: int((drawn == SPLITS.index(split)).sum()) for split in absent}
