"""Makes the dataset of images that were read: the second half of an ingest.

It loads what the first half has no use for (SciPy, pyarrow, the page's libraries).
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import IngestConfig
from pipeline.data.advice import advise
from pipeline.data.assignment import assign_splits
from pipeline.data.class_sizes import check_classes, class_counts
from pipeline.data.copies import group_near_duplicates, leave_out_copies
from pipeline.data.dataset import LABELS_FILE, LISTED, SPLITS, IngestReport, file_sizes
from pipeline.data.image_table import ImageTable
from pipeline.data.index import Index, texts_in
from pipeline.data.labels import check_labels, normal_label
from pipeline.data.listing import Listing
from pipeline.data.page import write_page
from pipeline.data.schema import write_schema
from pipeline.data.shards import plan_shards, read_outcomes, write_shard
from pipeline.data.tables import write_assignments, write_table
from pipeline.data.work import RunUnits, Say, Tally, reported
from pipeline.data.workshop import Workshop


def assemble(
    photos: Path,
    options: IngestConfig,
    run: RunUnits,
    workshop: Workshop,
    index: Index,
    listing: Listing,
    say: Say,
) -> IngestReport:
    """Writes the dataset into the workshop; returns its report, which is written, too.

    Args:
        photos: what the dataset is made from, to be named in it.
        options: how images become a dataset.
        run: does the writing.
        workshop: in which the dataset is made.
        index: of all images that were read, and of the splits of an earlier dataset.
        listing: what was found beside them.
        say: is given what the user should know.

    Raises:
        UserError: a class has too few images, or labels can't be told apart.
    """
    folder = workshop.dataset
    labels = _settle_labels(index)
    duplicates = leave_out_copies(index)
    similar, notes = 0, list[str]()
    if options.near_duplicates == "group":
        similar, notes = group_near_duplicates(index)
    notes += assign_splits(index, labels, options)
    for note in notes:
        say(note)
    digests = _write(run, workshop, index, listing, options, say)
    counts = class_counts(index, labels)
    check_classes(index, counts, options)

    (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    schema = write_schema(folder, labels, listing.slice_keys)
    write_table(index, folder, listing.slice_keys)
    write_assignments(index, folder)
    table = ImageTable.read(folder, labels)
    warnings = advise(table)
    write_page(folder, table, source=str(photos), warnings=warnings)
    left_out = index.value("SELECT COUNT(*) FROM images WHERE reason != ''") - duplicates
    report = IngestReport(
        source=str(photos),
        options=options.model_dump(mode="json"),
        labels=labels,
        schema=schema,
        slice_keys=listing.slice_keys,
        counts=counts,
        found=index.value("SELECT COUNT(*) FROM images"),
        left_out=left_out + len(listing.no_images),
        quarantined=tuple(_quarantined(index, listing)),
        duplicates=duplicates,
        near_duplicates=similar,
        ignored=listing.ignored,
        re_encoded=_re_encoded(index),
        notes=(*listing.notes, *notes),
        warnings=warnings,
        files=file_sizes(folder),
        fingerprint=listing.fingerprint,
        digest=_dataset_digest(folder, digests, schema),
    )
    report.write(folder)
    return report


def _write(
    run: RunUnits,
    workshop: Workshop,
    index: Index,
    listing: Listing,
    options: IngestConfig,
    say: Say,
) -> dict[str, str]:
    """Writes the shards; returns their digests by their paths."""
    shards = plan_shards(index, workshop, options.shard_mb * 10**6)
    total = index.value("SELECT COUNT(*) FROM images WHERE split IS NOT NULL")
    tally = Tally(workshop.write_tally)
    write = functools.partial(write_shard, workshop=workshop, slice_keys=listing.slice_keys)
    with reported(lambda: f"written {min(tally.count(), total):,} of {total:,}", say):
        for _ in run(write, shards):
            pass
    digests = read_outcomes(index, workshop, shards)
    wanted = {workshop.dataset / name for name in digests}
    for split in SPLITS:
        for file in (workshop.dataset / split).iterdir():
            if file not in wanted:  # of an ended ingest that cut its shards in another way
                file.unlink()
    return digests


def _settle_labels(index: Index) -> tuple[str, ...]:
    """Checks the labels' spellings, makes them normal, and returns the classes in order."""
    # A record that can't be read has no label.
    query = "SELECT DISTINCT label FROM images WHERE reason = '' OR label != ''"
    spellings = [row[0] for row in index.select(query)]
    check_labels(spellings)
    index.change(
        "UPDATE images SET label = ? WHERE label = ?",
        [(normal_label(label), label) for label in spellings if normal_label(label) != label],
    )
    return tuple(sorted({normal_label(label) for label in spellings}))


# The report


def _quarantined(index: Index, listing: Listing) -> list[dict[str, str]]:
    """The first of the files that are left out, copies aside."""
    query = (
        "SELECT source, reason FROM images WHERE reason != '' AND duplicate_of IS NULL"
        " ORDER BY source LIMIT ?"
    )
    first = sorted([*listing.no_images, *index.select(query, LISTED)])[:LISTED]
    return [{"source": source, "reason": reason} for source, reason in first]


def _re_encoded(index: Index) -> dict[str, int]:
    """Images by the reason why they were encoded anew."""
    counts: Counter[str] = Counter()
    query = "SELECT changes, COUNT(*) FROM images WHERE split IS NOT NULL GROUP BY changes"
    for changes, count in index.select(query):
        counts.update(dict.fromkeys(texts_in(changes), count))
    return dict(sorted(counts.items()))


def _dataset_digest(folder: Path, shards: Mapping[str, str], schema: str) -> str:
    """The SHA-256, in hex, over the names and contents of all that the pipeline reads."""
    others = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (LABELS_FILE, schema)
    }
    lines = (f"{name}\0{digest}\n" for name, digest in sorted({**shards, **others}.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
