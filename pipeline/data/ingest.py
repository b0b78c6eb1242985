"""Turns labelled images into a dataset folder of TFRecords: what the pipeline's first step reads.

`ingest(photos, out)` goes through these steps, each in a module of its own:

1. find the images and their labels, opening none (`photos`, `record_sources`, `labels`);
2. read each once, on all cores or a cluster (`work`, `reading`): what it is, what it looks like,
   and bytes that are fit for training (`image_files`);
3. look at all of them at once (`index`): leave out copies and group what looks alike (`copies`),
   give each image its split (`assignment`);
4. write the shards (`shards`), the tables (`tables`) and the page (`page`).

A file that cannot be used is left out and reported, never fatal; a class with too few images is.
OUT appears whole or not at all: it is made beside its place (`workshop`) and renamed into it. An
ingest that was killed is gone on with. Memory is flat in the number of images.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL

from pipeline.config import IngestConfig
from pipeline.content_digest import source_digest
from pipeline.data.advice import advise
from pipeline.data.assignment import assign_splits
from pipeline.data.class_sizes import check_classes, check_sizes, class_counts, named
from pipeline.data.copies import group_near_duplicates, leave_out_copies
from pipeline.data.dataset import (
    LABELS_FILE,
    LISTED,
    REPORT_VERSION,
    SPLITS,
    IngestReport,
    listed_files,
)
from pipeline.data.examined import read_rows
from pipeline.data.image_table import ImageTable
from pipeline.data.index import Index
from pipeline.data.labels import check_labels, normal_label
from pipeline.data.page import write_page
from pipeline.data.photos import Photo, Photos
from pipeline.data.reading import Limits, read_photos, read_records, shown, write_photo_units
from pipeline.data.record_sources import RecordSource, find_records
from pipeline.data.schema import write_schema
from pipeline.data.shards import plan_shards, read_outcomes, write_shard
from pipeline.data.tables import remember_assignments, write_assignments, write_table
from pipeline.data.work import (
    PROGRESS_SECONDS,
    THIS_MACHINE,
    Engine,
    Function,
    Run,
    Say,
    Tally,
    disk_errors,
    reported,
    workers,
)
from pipeline.data.workshop import Workshop, keep_times, open_workshop, take_place
from pipeline.errors import UserError

DEFAULTS = IngestConfig()


def ingest(
    photos: Path,
    out: Path,
    options: IngestConfig = DEFAULTS,
    engine: Engine = THIS_MACHINE,
    progress: Say | None = None,
) -> IngestReport:
    """Writes the dataset folder `out` from the labelled images in `photos`.

    The folder holds `train/`, `eval/` and `test/` with TFRecords of tf.Examples, whose features are
    one bytes value each: image, label, image_id, source and the slice keys; further `labels.txt`,
    `schema-<digest>.pbtxt`, `images.parquet`, `splits.parquet`, `data.html` and
    `ingest_report.json`. Equal input gives equal bytes, wherever the work is done.
    If `out` is an earlier dataset, it is replaced, and its images keep their splits; if it is up to
    date, nothing is done and the report says `reused`.

    Args:
        photos: A folder, a CSV file, or TFRecord or Parquet files, in one of the layouts of
            `pipeline.data.photos` and `pipeline.data.record_sources`.
        out: The dataset folder to write, outside `photos`.
        options: How images become a dataset.
        engine: What does the work; by default all of this machine's cores.
        progress: Called with a line of text, about every two seconds.

    Raises:
        UserError: The images are not in a known layout, a class has too few usable ones, `out`
            holds what ingest did not write, or the disk is full. `out` is then as it was.
    """
    say = progress or (lambda text: None)
    photos, out = Path(photos), Path(out).resolve()
    is_there = _is_dataset(out, photos)
    earlier = IngestReport.read(out) if is_there else None
    with disk_errors(out), open_workshop(out) as workshop, disk_errors(out):
        listing = _find(photos, options, workshop, say)
        current = earlier and earlier.fingerprint == listing.fingerprint
        if earlier and current and not earlier.damage(out):
            return replace(earlier, reused=True)
        workshop.go_on(_work_key(listing.fingerprint))
        index = Index(workshop.index)
        try:
            if is_there:
                remember_assignments(index, out)
            report = _make(photos, options, engine, workshop, index, listing, say)
        finally:
            index.close()
        if earlier and earlier.digest == report.digest:
            keep_times(workshop, out)
        take_place(workshop, out)
    return report


@dataclass(frozen=True)
class _Listing:
    """What was found, before any image is opened.

    Attributes:
        total: how many images, None where only reading tells.
        read: reads a unit of them.
        slice_keys: names of the slices' values.
        fingerprint: of all that the dataset is made from, files by size and time of change.
        left_out: files that can be no images, as (source, reason).
        ignored: how many files and folders of systems were passed over, by name.
        notes: how the data is read, a line each.
    """

    total: int | None
    read: Function
    slice_keys: tuple[str, ...]
    fingerprint: str
    left_out: Sequence[tuple[str, str]]
    ignored: Mapping[str, int]
    notes: tuple[str, ...]


# Finding


def _find(photos: Path, options: IngestConfig, workshop: Workshop, say: Say) -> _Listing:
    if not photos.exists():
        raise UserError(f"{photos}: no such file or folder")
    features = {str(key): name for key, name in options.features.items()}
    records = find_records(photos, features, options.labels)
    if records is not None:
        return _list_records(records, options, workshop)
    return _list_photos(photos, options, workshop, say)


def _list_photos(photos: Path, options: IngestConfig, workshop: Workshop, say: Say) -> _Listing:
    layout = Photos(photos, options)
    digest = hashlib.sha256()
    labels: Counter[str] = Counter()
    for photo in _counted(write_photo_units(layout, workshop), say):
        digest.update(json.dumps(photo[1:]).encode() + b"\n")
        labels[photo.label] += 1
    found = layout.found
    if found.empty:
        raise UserError(
            f"no image in {named(found.empty)}: add some to each class folder, or remove it"
        )
    check_labels(labels)
    say(f"{labels.total():,} images found in {len(labels):,} classes")
    check_sizes({normal_label(label): count for label, count in labels.items()}, options)
    for note in found.notes:
        say(note)
    left_out = [(shown(source), reason) for source, reason in found.left_out]
    return _Listing(
        total=labels.total(),
        read=functools.partial(read_photos, workshop=workshop, limits=_limits(options)),
        slice_keys=layout.slice_keys,
        fingerprint=_fingerprint(options, digest.hexdigest(), left_out, layout.slice_keys),
        left_out=left_out,
        ignored=dict(sorted(found.ignored.items())),
        notes=tuple(found.notes),
    )


def _list_records(source: RecordSource, options: IngestConfig, workshop: Workshop) -> _Listing:
    files = {f"{number:07}": file for number, file in enumerate(source.files)}
    content = []
    for name, file in files.items():
        workshop.unit(name).touch()
        content.append([file.source, file.split, file.bytes, file.path.stat().st_mtime_ns])
    digest = hashlib.sha256(json.dumps([content, source.labels]).encode()).hexdigest()
    return _Listing(
        total=None,
        read=functools.partial(
            read_records, workshop=workshop, limits=_limits(options), source=source, files=files
        ),
        slice_keys=source.slice_keys,
        fingerprint=_fingerprint(options, digest, [], source.slice_keys),
        left_out=[],
        ignored={},
        notes=(f"{len(files):,} {source.kind} files found", *source.warnings),
    )


def _limits(options: IngestConfig) -> Limits:
    return Limits(options.max_file_bytes, options.max_pixels, options.max_side)


def _counted(photos: Iterable[Photo], say: Say) -> Iterator[Photo]:
    """Passes photos on, saying how many there are every two seconds."""
    said = time.monotonic()
    for count, photo in enumerate(photos, 1):
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{count:,} images found so far")
        yield photo


def _fingerprint(options: IngestConfig, *content: Any) -> str:
    settings = options.model_dump(mode="json")
    return hashlib.sha256(json.dumps([REPORT_VERSION, settings, content]).encode()).hexdigest()


def _work_key(fingerprint: str) -> str:
    """Tells whether half-done work can be gone on with: made from the same, by the same code."""
    code = source_digest("pipeline.data", "edgeline.preprocessing")
    return f"{fingerprint} {code} {PIL.__version__}"


# From what was found to the dataset


def _make(
    photos: Path,
    options: IngestConfig,
    engine: Engine,
    workshop: Workshop,
    index: Index,
    listing: _Listing,
    say: Say,
) -> IngestReport:
    folder = workshop.dataset
    with workers(engine) as run:
        _read(run, workshop, index, listing, say)
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
        left_out=left_out + len(listing.left_out),
        quarantined=tuple(_quarantined(index, listing)),
        duplicates=duplicates,
        near_duplicates=similar,
        ignored=listing.ignored,
        re_encoded=_re_encoded(index),
        notes=(*listing.notes, *notes),
        warnings=warnings,
        files=_sizes(folder),
        fingerprint=listing.fingerprint,
        digest=_dataset_digest(folder, digests, schema),
    )
    report.write(folder)
    return report


def _read(run: Run, workshop: Workshop, index: Index, listing: _Listing, say: Say) -> None:
    """Reads every image that was not read before, and puts all into the index."""
    units = workshop.units()
    done = [unit for unit in units if workshop.outcome(unit).exists()]
    tally = Tally(workshop.read_tally)
    before = sum(_add_to_index(index, workshop, unit) for unit in done)
    finished = len(done)
    if done:
        say(f"going on with an ingest that was ended: {before:,} images are read")

    def how_far() -> str:
        images = before + tally.count()
        if listing.total is not None:
            # Work that a cluster does twice is counted twice.
            return f"read {min(images, listing.total):,} of {listing.total:,}"
        return f"read {images:,} images, {finished:,} of {len(units):,} files"

    with reported(how_far, say):
        for unit in run(listing.read, sorted(set(units) - set(done))):
            _add_to_index(index, workshop, unit)
            finished += 1
    index.complete()


def _add_to_index(index: Index, workshop: Workshop, unit: str) -> int:
    return index.add(int(unit), read_rows(workshop.outcome(unit)))


def _write(
    run: Run,
    workshop: Workshop,
    index: Index,
    listing: _Listing,
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


# Looking at all images at once


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


def _quarantined(index: Index, listing: _Listing) -> list[dict[str, str]]:
    """The first of the files that are left out, copies aside."""
    query = (
        "SELECT source, reason FROM images WHERE reason != '' AND duplicate_of IS NULL"
        " ORDER BY source LIMIT ?"
    )
    first = sorted([*listing.left_out, *index.select(query, LISTED)])[:LISTED]
    return [{"source": source, "reason": reason} for source, reason in first]


def _re_encoded(index: Index) -> dict[str, int]:
    """Images by the reason why they were encoded anew."""
    counts: Counter[str] = Counter()
    query = "SELECT changes, COUNT(*) FROM images WHERE split IS NOT NULL GROUP BY changes"
    for changes, count in index.select(query):
        counts.update(dict.fromkeys(json.loads(changes), count))
    return dict(sorted(counts.items()))


def _dataset_digest(folder: Path, shards: Mapping[str, str], schema: str) -> str:
    """The SHA-256, in hex, over the names and contents of all that the pipeline reads."""
    others = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (LABELS_FILE, schema)
    }
    lines = (f"{name}\0{digest}\n" for name, digest in sorted({**shards, **others}.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sizes(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of every file below a folder, by its posix path in it."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


# The dataset of before


def _is_dataset(out: Path, photos: Path) -> bool:
    """Tells whether there is a dataset in `out`, of this or an earlier version.

    Raises:
        UserError: `out` holds something that ingest did not write, or overlaps with `photos`.
    """
    source = photos.resolve()
    if source == out or source in out.parents or out in source.parents:
        raise UserError(f"the dataset folder {out} must lie outside {photos}, and not around it")
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out} exists and is not a folder")
    listed = listed_files(out)
    if foreign := _sizes(out).keys() - listed:
        raise UserError(
            f"{out} holds what ingest did not write ({min(foreign)}): choose a new or empty folder"
        )
    return bool(listed)
