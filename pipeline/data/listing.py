"""Finds what an ingest is to read, and opens none of it: the images of a folder, a CSV or records.

`find(photos, ...)` leaves the units of work in the workshop and returns a `Listing`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import IngestConfig
from pipeline.data.class_sizes import check_sizes, named
from pipeline.data.dataset import REPORT_VERSION
from pipeline.data.labels import check_labels, normal_label
from pipeline.data.photos import Photo, Photos
from pipeline.data.reading import Limits, read_photos, read_records, shown, write_photo_units
from pipeline.data.record_sources import RecordSource, find_records
from pipeline.data.work import PROGRESS_SECONDS, Function, Say
from pipeline.data.workshop import Workshop
from pipeline.errors import UserError


@dataclass(frozen=True)
class Listing:
    """What was found, before any image is opened.

    Attributes:
        total: how many images, None where only reading tells.
        read: reads a unit of them.
        slice_keys: names of the slices' values.
        fingerprint: of all that the dataset is made from, files by size and time of change.
        no_images: files that can be no images, as (source, reason).
        ignored: how many files and folders of systems were passed over, by name.
        notes: how the data is read, a line each.
    """

    total: int | None
    read: Function
    slice_keys: tuple[str, ...]
    fingerprint: str
    no_images: Sequence[tuple[str, str]]
    ignored: Mapping[str, int]
    notes: tuple[str, ...]


def find(photos: Path, options: IngestConfig, workshop: Workshop, say: Say) -> Listing:
    if not photos.exists():
        raise UserError(f"{photos}: no such file or folder")
    features = {str(key): name for key, name in options.features.items()}
    records = find_records(photos, features, options.labels)
    if records is not None:
        if options.inbox is not None:
            raise UserError(
                f"ingest.inbox adds to photos or a CSV file, and {photos} has {records.kind} files"
            )
        return _list_records(records, options, workshop)
    return _list_photos(photos, options, workshop, say)


def _list_photos(photos: Path, options: IngestConfig, workshop: Workshop, say: Say) -> Listing:
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
    no_images = [(shown(source), reason) for source, reason in found.no_images]
    return Listing(
        total=labels.total(),
        read=functools.partial(read_photos, workshop=workshop, limits=_limits(options)),
        slice_keys=layout.slice_keys,
        fingerprint=_fingerprint(options, digest.hexdigest(), no_images, layout.slice_keys),
        no_images=no_images,
        ignored=dict(sorted(found.ignored.items())),
        notes=tuple(found.notes),
    )


def _list_records(source: RecordSource, options: IngestConfig, workshop: Workshop) -> Listing:
    files = {f"{number:07}": file for number, file in enumerate(source.files)}
    content = []
    for name, file in files.items():
        workshop.unit(name).touch()
        content.append([file.source, file.split, file.bytes, file.path.stat().st_mtime_ns])
    digest = hashlib.sha256(json.dumps([content, source.labels]).encode()).hexdigest()
    return Listing(
        total=None,
        read=functools.partial(
            read_records, workshop=workshop, limits=_limits(options), source=source, files=files
        ),
        slice_keys=source.slice_keys,
        fingerprint=_fingerprint(options, digest, [], source.slice_keys),
        no_images=[],
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
