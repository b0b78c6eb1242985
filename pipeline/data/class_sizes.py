"""Tells which classes have too few images, all at once, with what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.config import IngestConfig
from pipeline.data.dataset import SPLITS
from pipeline.data.index import Index
from pipeline.errors import UserError

NAMED = 20  # in an error that lists some

REMEDY = (
    "add images, merge such classes or remove their folders, or leave a split out "
    "(--set ingest.eval=0 with other shares)"
)


def class_counts(index: Index, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images by split and class."""
    counts = {split: dict.fromkeys(labels, 0) for split in SPLITS}
    query = "SELECT split, label, COUNT(*) FROM images WHERE split IS NOT NULL GROUP BY 1, 2"
    for split, label, count in index.select(query):
        counts[split][label] = count
    return counts


def _wanted(options: IngestConfig) -> list[str]:
    return [split for split in SPLITS if getattr(options, split) > 0]


def check_sizes(sizes: Mapping[str, int], options: IngestConfig) -> None:
    """Raises UserError for classes that have too few files for every split, before reading any."""
    wanted = _wanted(options)
    small = [f"{label!r} ({n})" for label, n in sorted(sizes.items()) if n < len(wanted)]
    if small:
        raise UserError(
            f"too few images of {named(small)}: expected {len(wanted)} or more of each class, for "
            f"{', '.join(wanted)}; {REMEDY}"
        )


def check_classes(
    index: Index, counts: Mapping[str, Mapping[str, int]], options: IngestConfig
) -> None:
    """Raises UserError if a class has no usable image, or none in some split; names all at once."""
    lacking = []
    for label in counts["train"]:
        without = [split for split in _wanted(options) if not counts[split][label]]
        if without:
            total = sum(counts[split][label] for split in SPLITS)
            lacking.append(f"{label!r} ({total} usable, none in {', '.join(without)})")
            if not total:
                _say_why_unusable(index, label)
    if lacking:
        raise UserError(
            f"not every split has images of {named(lacking)}: expected "
            f"{len(_wanted(options))} or more of each class, in as many groups; {REMEDY}"
        )


def _say_why_unusable(index: Index, label: str) -> None:
    query = "FROM images WHERE label = ? AND reason != ''"
    refused = index.value(f"SELECT COUNT(*) {query}", label)
    first = index.select(f"SELECT source, reason {query} ORDER BY id LIMIT 3", label)
    reasons = "; ".join(f"{source}: {reason}" for source, reason in first)
    raise UserError(
        f"the class {label!r} has no usable image: all {refused} were refused "
        f"({reasons}{'; ...' if refused > 3 else ''})"
    )


def named(items: Sequence[str]) -> str:
    """Lists some items in one line."""
    rest = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + rest
