"""Reads images, each once: the work of a worker in the first half of an ingest.

From one decoding come the image's identity, its perceptual hash, its size, and bytes that are fit
for training. Those are mostly the file's own, and are left where they are; others go to a file of
the worker's, from which a shard is written later.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import xxhash
from PIL import Image

from pipeline.data.examined import Examined, write_rows
from pipeline.data.image_files import BadImageError, NormalImage, normalise
from pipeline.data.perceptual_hash import perceptual_hash
from pipeline.data.photos import Photo
from pipeline.data.work import Tally
from pipeline.data.workshop import Workshop

if TYPE_CHECKING:
    from pipeline.data.record_sources import RecordFile, RecordSource

PHOTOS_A_UNIT = 256
ROWS_A_LINE = 256
BYTES_A_UNIT = 32 * 2**20
MAX_BYTES_BESIDE = 2**20  # of other features in an image's record


class Limits(NamedTuple):
    """How large an image may be.

    Attributes:
        file_bytes: of an encoded image; a larger one is left out.
        pixels: of an image; a larger one is left out.
        side: pixels of the longer side; a larger image is scaled down.
    """

    file_bytes: int
    pixels: int
    side: int


def write_photo_units(photos: Iterable[Photo], workshop: Workshop) -> Iterator[Photo]:
    """Writes photos as units of work, passing each on."""
    unit: list[Photo] = []
    size = number = 0
    for photo in photos:
        unit.append(photo)
        size += max(0, photo.bytes)
        yield photo
        if len(unit) == PHOTOS_A_UNIT or size >= BYTES_A_UNIT:
            _write_unit(workshop, number, unit)
            unit, size, number = [], 0, number + 1
    if unit:
        _write_unit(workshop, number, unit)


def _write_unit(workshop: Workshop, number: int, photos: Sequence[Photo]) -> None:
    workshop.unit(f"{number:07}").write_text(json.dumps(photos), encoding="utf-8")


def read_photos(unit: str, *, workshop: Workshop, limits: Limits) -> None:
    """Reads the photos of a unit of work; leaves a row for each (`pipeline.data.examined`)."""
    tally = Tally(workshop.read_tally)
    photos = map(Photo._make, json.loads(workshop.unit(unit).read_text(encoding="utf-8")))
    with _Outcome(workshop, unit, limits) as outcome:
        for photo in photos:
            outcome.add(_row(photo), photo.path)
            tally.tick()


def read_records(
    unit: str,
    *,
    workshop: Workshop,
    limits: Limits,
    source: RecordSource,
    files: dict[str, RecordFile],
) -> None:
    """Reads the images in a file of records, which a unit of work stands for."""
    # Here, not above: photos need no pyarrow, and so no worker that reads them.
    from pipeline.data.record_sources import read_images

    tally = Tally(workshop.read_tally)
    file = files[unit]
    with _Outcome(workshop, unit, limits) as outcome:
        max_bytes = limits.file_bytes + MAX_BYTES_BESIDE
        for record in read_images(file, source, max_bytes=max_bytes):
            slices = tuple(record.slices.get(key, "") for key in source.slice_keys)
            row = Examined(record.source, record.label, split=file.split, slices=slices)
            outcome.add_data(row._replace(reason=record.reason), record.data)
            tally.tick()


def _row(photo: Photo) -> Examined:
    source = shown(photo.source)
    # Such a name can't be written into an example, which has text.
    reason = "" if source == photo.source else "its name is not UTF-8"
    return Examined(source, photo.label, photo.split, photo.group, tuple(photo.slices), reason)


def shown(source: str) -> str:
    """Returns a path as text; the bytes of a name that is not UTF-8 are escaped."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


class _Outcome:
    """The rows of a unit, and a file for the bytes that are in no photo."""

    def __init__(self, workshop: Workshop, unit: str, limits: Limits) -> None:
        self._limits = limits
        self._finished = workshop.outcome(unit)
        self._rows: list[Examined] = []
        # A cluster may do the same work twice at once: each has files of its own.
        self._unfinished = self._finished.with_suffix(f".{uuid.uuid4().hex}")
        self._spool = workshop.spool / self._unfinished.name
        self._spooled = 0

    def __enter__(self) -> _Outcome:
        self._lines = self._unfinished.open("w", encoding="utf-8")
        self._bytes = self._spool.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lines, self._bytes:
            if kind is None:
                write_rows(self._lines, self._rows)
        if kind is None:
            if not self._spooled:
                self._spool.unlink()
            self._unfinished.replace(self._finished)

    def add(self, row: Examined, path: str) -> None:
        """Reads a photo and adds what it has shown to its row."""
        if not row.reason:
            try:
                data = _contents(path, self._limits.file_bytes)
                image = _normal(data, self._limits)
                row = _examined(row, data, image)
                if image.data is data:
                    row = row._replace(file=path, length=len(data))
                else:
                    row = self._spool_bytes(row, image.data)
            except BadImageError as error:
                row = row._replace(reason=str(error))
        self._add(row)

    def add_data(self, row: Examined, data: bytes) -> None:
        """Examines an image that came out of a record, if it has no reason against it yet."""
        if not row.reason:
            try:
                _check_size(len(data), self._limits.file_bytes)
                image = _normal(data, self._limits)
                row = self._spool_bytes(_examined(row, data, image), image.data)
            except BadImageError as error:
                row = row._replace(reason=str(error))
        self._add(row)

    def _add(self, row: Examined) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_A_LINE:
            write_rows(self._lines, self._rows)
            self._rows = []

    def _spool_bytes(self, row: Examined, data: bytes) -> Examined:
        self._bytes.write(data)
        offset, self._spooled = self._spooled, self._spooled + len(data)
        return row._replace(file=str(self._spool), offset=offset, length=len(data))


def _contents(path: str, limit: int) -> bytes:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of a million files is slow)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise BadImageError("is not a regular file")
        _check_size(status.st_size, limit)
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(status.st_size)
    except OSError as error:
        hint = "; its path has backslashes: expected /" if "\\" in path else ""
        raise BadImageError(f"cannot be read: {error.strerror}{hint}") from error


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadImageError(f"the file has {size} bytes, above the limit of {limit}")


def _normal(data: bytes, limits: Limits) -> NormalImage:
    return normalise(data, max_side=limits.side, max_pixels=limits.pixels)


def _examined(row: Examined, data: bytes, image: NormalImage) -> Examined:
    return row._replace(
        image_id=image_id(data),
        pixels_digest=_pixels_digest(image.pixels),
        perceptual_hash=perceptual_hash(image.pixels).hex(),
        format=image.format,
        width=image.pixels.width,
        height=image.pixels.height,
        bytes=len(data),
        changes=image.changes,
    )


def image_id(data: bytes) -> str:
    """The id of an encoded image: its SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def _pixels_digest(image: Image.Image) -> str:
    # SHA-256 takes a quarter of an image's time here. This tells copies, and vouches for nothing:
    # who could make two images with one digest could as well put a copy beside an image.
    digest = xxhash.xxh3_128(f"{image.mode} {image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
