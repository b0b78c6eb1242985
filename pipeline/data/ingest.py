"""Turns labelled images into a dataset folder of TFRecords: what the pipeline's first step reads.

`ingest(photos, out)` goes through these steps, each in a module of its own:

1. find the images and their labels, opening none (`listing`, with `photos` or `record_sources`);
2. read each once, on all cores or a cluster (`work`, `reading`): what it is, what it looks like,
   and bytes that are fit for training (`image_files`);
3. look at all of them at once (`assembly`): leave out copies and group what looks alike (`copies`),
   give each image its split (`assignment`);
4. write the shards (`shards`), the tables (`tables`) and the page (`page`).

A file that cannot be used is left out and reported, never fatal; a class with too few images is.
OUT appears whole or not at all: it is made beside its place (`workshop`) and renamed into it. An
ingest that was killed is gone on with. Memory is flat in the number of images.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import PIL

from pipeline.config import IngestConfig
from pipeline.content_digest import source_digest
from pipeline.data.dataset import IngestReport, file_sizes, listed_files
from pipeline.data.examined import read_rows
from pipeline.data.index import Index
from pipeline.data.listing import Listing, find
from pipeline.data.tables import remember_assignments
from pipeline.data.work import (
    THIS_MACHINE,
    Engine,
    RunUnits,
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
        listing = find(photos, options, workshop, say)
        current = earlier and earlier.fingerprint == listing.fingerprint
        if earlier and current and not earlier.damage(out):
            return replace(earlier, reused=True)
        workshop.go_on(_work_key(listing.fingerprint))
        index = Index(workshop.index)
        try:
            if is_there:
                remember_assignments(index, out)
            with workers(engine) as run:
                _read(run, workshop, index, listing, say)
                from pipeline.data.assembly import assemble

                report = assemble(photos, options, run, workshop, index, listing, say)
        finally:
            index.close()
        if earlier and earlier.digest == report.digest:
            keep_times(workshop, out)
        take_place(workshop, out)
    return report


def _read(run: RunUnits, workshop: Workshop, index: Index, listing: Listing, say: Say) -> None:
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
        read = run(listing.read, sorted(set(units) - set(done)))
        # Half a second of imports, while the workers read.
        import_module("pipeline.data.assembly")
        for unit in read:
            _add_to_index(index, workshop, unit)
            finished += 1
    index.complete()


def _add_to_index(index: Index, workshop: Workshop, unit: str) -> int:
    return index.add(int(unit), read_rows(workshop.outcome(unit)))


def _work_key(fingerprint: str) -> str:
    """Tells whether half-done work can be gone on with: made from the same, by the same code."""
    code = source_digest("pipeline.data", "edgeline.preprocessing")
    return f"{fingerprint} {code} {PIL.__version__}"


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
    if foreign := file_sizes(out).keys() - listed:
        raise UserError(
            f"{out} holds what ingest did not write ({min(foreign)}): choose a new or empty folder"
        )
    return bool(listed)
