"""Turns labelled images into a dataset folder of TFRecords: what the pipeline's first step reads.

`ingest(photos, out)` finds the images and their labels in one of three layouts:

- a folder with a subfolder for each class: `PHOTOS/<label>/**/<any name>`;
- a flat folder with the label before each name's first dot: `PHOTOS/cat.0.jpg`;
- a CSV file with the header `path,label`, its paths relative to its own folder or absolute. Further
  columns are slice keys; an empty cell is stored as the empty string, a slice of its own.

Then it goes over them twice with Beam, on this machine or, through `beam_args`, on a cluster that
shares its filesystem. First every file is hashed: the SHA-256 of its bytes is the image's id, by
which duplicates are found and the split is decided, so that a rerun or a grown folder moves no
image. Then each worker decodes the images of one shard, makes them fit (see
`pipeline.data.image_files`) and writes the shard. No image ever travels between workers, and a
worker holds one image at a time.

A file that cannot be used is left out and reported, never fatal; a class without any image is.
OUT appears whole or not at all: it is written beside its place and renamed into it.
"""

import csv
import fcntl
import functools
import hashlib
import io
import json
import math
import os
import re
import shutil
import threading
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline.config import IngestConfig
from pipeline.content_digest import files_digest
from pipeline.data.dataset import LABELS_FILE, REPORT_FILE, SPLITS, IngestReport
from pipeline.data.image_files import BadImageError, normalise
from pipeline.errors import UserError

_EXAMPLE_FEATURES = ("image", "label", "image_id", "source")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"}
_NOT_PHOTOS = {"Thumbs.db", "desktop.ini", "__MACOSX"}
_SPLIT_LIKE_NAMES = {"train", "training", "val", "valid", "validation", "eval", "test"}
# A shard of fewer images costs more than it is worth.
_IMAGES_PER_SHARD = 100
_PROGRESS_SECONDS = 2.0

DEFAULTS = IngestConfig()


@dataclass(frozen=True)
class _Photo:
    """An image file with its label; `source` names it in the dataset and in every report."""

    path: str
    source: str
    label: str
    slices: tuple[tuple[str, str], ...] = ()
    group: str = ""
    image_id: str = ""


@dataclass(frozen=True)
class _Found:
    """What a photos folder or CSV file holds, before any image is opened."""

    photos: tuple[_Photo, ...]
    quarantined: tuple[dict[str, str], ...] = ()
    slice_keys: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({photo.label for photo in self.photos}))


@dataclass(frozen=True)
class _Shard:
    """A file to write, by its path in the dataset, and the images that belong in it."""

    name: str
    photos: tuple[_Photo, ...]


def ingest(
    photos: Path,
    out: Path,
    options: IngestConfig = DEFAULTS,
    beam_args: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> IngestReport:
    """Writes the dataset folder `out` from the labelled images in `photos`.

    The folder holds `train/`, `eval/` and `test/` with gzipped TFRecords of tf.Examples, whose
    features are one bytes value each: image, label, image_id, source and the slice keys; further
    `labels.txt`, `schema-<digest>.pbtxt` and `ingest_report.json`. Equal input gives equal bytes.
    If `out` is an earlier dataset, it is replaced; if it is up to date, nothing is done and the
    report says `reused`.

    Args:
        photos: A folder or a CSV file, in one of the layouts of this module's docstring.
        out: The dataset folder to write, outside `photos`.
        options: How images become a dataset.
        beam_args: Beam's own arguments. By default all of this machine's cores are used.
        progress: Called with a line of text, about every two seconds.

    Raises:
        UserError: The photos are not in a known layout, a class has no usable image or none to
            train on, or `out` holds what ingest did not write. `out` is then as it was.
    """
    say = progress or (lambda text: None)
    photos, out = Path(photos), Path(out).resolve()
    earlier = _earlier_report(out, photos)
    found = _find(photos, options.group)
    fingerprint = _fingerprint(photos, found, options)
    current = earlier and earlier.digest and earlier.fingerprint == fingerprint
    if earlier and current and not earlier.damage(out):
        return replace(earlier, reused=True)
    say(f"{len(found.photos):,} images found in {len(found.labels)} classes")

    with _workshop(out) as workshop:
        folder = workshop / "dataset"
        folder.mkdir()
        workers = _Workers(workshop / "scratch", beam_args, say)
        hashed, unreadable = _hashed(found.photos, options, workers)
        kept, duplicates, conflicts = _without_duplicates(hashed)
        shards = _shards(kept, options)
        written = _write_shards(shards, folder, options, workers)

        refused = [*found.quarantined, *unreadable, *conflicts, *written.quarantined]
        quarantined = sorted(
            ({**item, "source": _shown(item["source"])} for item in refused), key=_by_source
        )
        counts = {
            split: {label: written.counts[split, label] for label in found.labels}
            for split in SPLITS
        }
        _check_classes(counts, quarantined, found)
        (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in found.labels), "utf-8")
        schema_name = _write_schema(folder, found)
        report = IngestReport(
            source=str(photos),
            options=options.model_dump(),
            labels=found.labels,
            schema=schema_name,
            slice_keys=found.slice_keys,
            counts=counts,
            quarantined=tuple(quarantined),
            duplicates=tuple(duplicates),
            re_encoded=dict(sorted(written.re_encoded.items())),
            warnings=tuple(_warnings(counts)),
            files=_sizes(folder),
            fingerprint=fingerprint,
            digest=files_digest(folder),
        )
        report.write(folder)
    return report


# Finding the images and their labels


def _find(photos: Path, group: str | None) -> _Found:
    """Returns the photos that a folder or a CSV file names, with checked labels."""
    if photos.is_dir():
        if group is not None:
            raise UserError(f"group={group!r} names a CSV column, but {photos} is a folder")
        found = _find_in_folder(photos)
    elif photos.is_file():
        found = _find_in_csv(photos, group)
    else:
        raise UserError(f"{photos} does not exist")
    _check_labels(found.labels)
    photos_by_source = sorted(found.photos, key=lambda photo: photo.source)
    clean = (replace(photo, label=_normal_label(photo.label)) for photo in photos_by_source)
    return replace(found, photos=tuple(clean))


def _find_in_folder(photos: Path) -> _Found:
    names = [name for name in _names(photos) if not _is_hidden(name)]
    classes = [name for name in names if (photos / name).is_dir()]
    files = [name for name in names if name not in classes]
    if not classes:
        return _find_in_flat_folder(photos, files)
    images = [name for name in files if Path(name).suffix.lower() in _IMAGE_SUFFIXES]
    if images:
        raise UserError(
            f"{photos} holds both images ({images[0]}) and folders ({classes[0]}): expected either "
            "a folder for each class, or images named <label>.<anything>.<ext> and no folder"
        )
    sources = {
        label: [f"{label}/{name}" for name in _files_below(photos / label)] for label in classes
    }
    for label, below in sources.items():
        if not below:
            raise UserError(f"the class folder {photos / label} holds no file")
    return _found_in(
        photos,
        {source: label for label, below in sources.items() for source in below},
        quarantined=[_quarantined(name, "not in a class folder") for name in files],
    )


def _find_in_flat_folder(photos: Path, files: Sequence[str]) -> _Found:
    labelled = {name: name.split(".")[0] for name in files if name.count(".") >= 2}
    if not labelled:
        raise UserError(
            f"{photos} holds no labelled image: expected a folder for each class, images named "
            "<label>.<anything>.<ext>, or the path of a CSV file with the header path,label"
        )
    others = [name for name in files if name not in labelled]
    reason = "not named <label>.<anything>.<ext>"
    return _found_in(photos, labelled, [_quarantined(name, reason) for name in others])


def _found_in(
    photos: Path, labels: Mapping[str, str], quarantined: Sequence[dict[str, str]]
) -> _Found:
    """Returns what a folder holds, given each file's label by its path in the folder."""
    root = photos.absolute()
    return _Found(
        photos=tuple(
            _Photo(path=str(root / source), source=source, label=label)
            for source, label in labels.items()
        ),
        quarantined=tuple(quarantined),
    )


def _files_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yields the visible files at any depth below a folder, as posix paths relative to it."""
    for name in _names(folder):
        path = folder / name
        if _is_hidden(name):
            continue
        if not path.is_dir():
            yield prefix + name
        elif path.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{path} is a link to a folder that it lies in")
        else:
            yield from _files_below(path, f"{prefix}{name}/")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (iterdir would make paths of the names)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_PHOTOS


def _find_in_csv(table: Path, group: str | None) -> _Found:
    header, rows = _read_csv(table)
    slice_keys = tuple(name for name in header if name not in ("path", "label", group))
    _check_header(table, header, slice_keys, group)
    photos: list[_Photo] = []
    lines: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{table}, line {line}: {len(cells)} cells instead of {len(header)}")
        row = dict(zip(header, cells, strict=True))
        source = row["path"]
        if not source:
            raise UserError(f"{table}, line {line}: the path is empty")
        if source in lines:
            raise UserError(
                f"{table}, line {line}: {source} is listed already, on line {lines[source]}"
            )
        lines[source] = line
        photos.append(
            _Photo(
                path=str(table.absolute().parent / source),
                source=source,
                label=row["label"],
                slices=tuple((key, row[key]) for key in slice_keys),
                group=row[group] if group else "",
            )
        )
    return _Found(tuple(photos), slice_keys=slice_keys)


def _read_csv(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the header, and the rows that are not blank with their line numbers."""
    try:
        # A spreadsheet's UTF-8 starts with a byte-order mark.
        text = table.read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {table} as CSV in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{table} is empty: expected a CSV file with the header path,label")
    return rows[0][1], rows[1:]


def _check_header(
    table: Path, header: Sequence[str], slice_keys: Sequence[str], group: str | None
) -> None:
    expected = ["path", "label", *([group] if group is not None else [])]
    if missing := [name for name in expected if name not in header]:
        raise UserError(f"{table} has no column {missing[0]!r}: its header is {','.join(header)}")
    if len(set(header)) < len(header) or len(set(expected)) < len(expected):
        raise UserError(f"{table} uses a column twice: its header is {','.join(header)}")
    for key in slice_keys:
        if not re.fullmatch("[a-z][a-z0-9_]*", key) or key in _EXAMPLE_FEATURES:
            raise UserError(
                f"{table}: the column {key!r} cannot be a slice key: expected small letters, "
                f"digits and underscores, and none of {', '.join(_EXAMPLE_FEATURES)}"
            )


def _normal_label(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())


def _check_labels(spellings: Sequence[str]) -> None:
    """Raises UserError unless the labels are clean, distinct to a reader, and two or more."""
    by_key: dict[str, str] = {}
    for label in spellings:
        if not label.strip():
            raise UserError("a label is empty: every image needs the name of its class")
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in label):
            raise UserError(f"the label {label!r} holds a line break, control or broken character")
        key = _normal_label(_normal_label(label).casefold())
        other = by_key.setdefault(key, label)
        if other != label:
            # The two may look the same, composed and decomposed: then show their characters.
            show = ascii if _normal_label(label) == _normal_label(other) else repr
            raise UserError(
                f"the labels {show(other)} and {show(label)} differ only in case, blanks or "
                "Unicode form: spell the class in one way"
            )
    if len(spellings) < 2:
        found = f"1 class: {spellings[0]!r}" if spellings else "no class"
        raise UserError(f"found {found}; a classifier needs at least two")


def _fingerprint(photos: Path, found: _Found, options: IngestConfig) -> str:
    """Returns a digest of all that the dataset is made from, files by size and change time."""
    table = photos.read_bytes() if photos.is_file() else b""
    listing = [[photo.source, *_size_and_time(photo.path)] for photo in found.photos]
    content = [options.model_dump(), hashlib.sha256(table).hexdigest(), listing, found.quarantined]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of a million files is slow)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


# First pass: ids, duplicates, split


def _hashed(
    photos: Sequence[_Photo], options: IngestConfig, workers: "_Workers"
) -> tuple[list[_Photo], list[dict[str, str]]]:
    """Returns the photos with their ids, and those that could not be read."""
    named = [photo for photo in photos if _shown(photo.source) == photo.source]
    unreadable = [
        _quarantined(photo.source, "its name is not UTF-8")
        for photo in photos
        if _shown(photo.source) != photo.source
    ]
    hash_file = functools.partial(_hash_file, limit=options.max_file_bytes)
    results = workers.map("read", hash_file, named, len(named))
    by_source = {result["source"]: result for result in results}
    hashed = []
    for photo in named:
        result = by_source[photo.source]
        if "reason" in result:
            unreadable.append(result)
        else:
            hashed.append(replace(photo, image_id=result["image_id"]))
    return hashed, unreadable


def _hash_file(photo: _Photo, tick: Callable[[], None], *, limit: int) -> dict[str, str]:
    tick()
    try:
        size = Path(photo.path).stat().st_size
        if size > limit:
            reason = f"the file has {size} bytes, above the limit of {limit}"
            return _quarantined(photo.source, reason)
        return {"source": photo.source, "image_id": _image_id(Path(photo.path).read_bytes())}
    except OSError as error:
        return _quarantined(photo.source, f"cannot be read: {error.strerror}")


def _image_id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _without_duplicates(
    photos: Sequence[_Photo],
) -> tuple[list[_Photo], list[dict[str, str]], list[dict[str, str]]]:
    """Returns the photos to keep, the duplicates left out, and those with conflicting labels.

    Of images with the same bytes the first by source is kept, and its group decides their split:
    so no two splits share an image, whatever the groups say.
    """
    same_bytes: dict[str, list[_Photo]] = defaultdict(list)
    for photo in photos:
        same_bytes[photo.image_id].append(photo)
    kept, duplicates, conflicts = [], [], []
    for first, *others in same_bytes.values():
        labels = sorted({photo.label for photo in (first, *others)})
        if len(labels) > 1:
            reason = f"same image under labels {' and '.join(map(repr, labels))}"
            conflicts += [_quarantined(photo.source, reason) for photo in (first, *others)]
            continue
        kept.append(first)
        duplicates += [{"source": photo.source, "of": first.source} for photo in others]
    return kept, sorted(duplicates, key=_by_source), conflicts


def _split(photo: _Photo, options: IngestConfig) -> str:
    """Returns the split that the photo's group, or else its content, hashes into."""
    key = f"group {photo.group}" if photo.group else f"image {photo.image_id}"
    digest = hashlib.sha256(key.encode()).digest()
    position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # uniform in [0, 1)
    if position < options.train:
        return "train"
    return "eval" if position < options.train + options.eval else "test"


def _shards(photos: Sequence[_Photo], options: IngestConfig) -> list[_Shard]:
    """Returns the shards of every split: one at least, so that a reader's pattern always matches.

    The images are in the order of their ids, which is as good as shuffled.
    """
    shards = []
    for split in SPLITS:
        members = sorted(
            (photo for photo in photos if _split(photo, options) == split),
            key=lambda photo: photo.image_id,
        )
        count = min(options.shards, max(1, math.ceil(len(members) / _IMAGES_PER_SHARD)))
        shards += [
            _Shard(
                name=f"{split}/examples-{index:05d}-of-{count:05d}.tfrecord.gz",
                photos=tuple(members[index::count]),
            )
            for index in range(count)
        ]
    return shards


# Second pass: decoding and writing


@dataclass(frozen=True)
class _Written:
    """What came of all shards: images by (split, label), those left out, re-encodings by reason."""

    counts: Counter[tuple[str, str]]
    quarantined: list[dict[str, str]]
    re_encoded: Counter[str]


def _write_shards(
    shards: Sequence[_Shard], folder: Path, options: IngestConfig, workers: "_Workers"
) -> _Written:
    for split in SPLITS:
        (folder / split).mkdir()
    write = functools.partial(_write_shard, folder=folder, scratch=workers.scratch, options=options)
    results = workers.map("decoded", write, shards, sum(len(shard.photos) for shard in shards))
    written = _Written(Counter(), [], Counter())
    for result in results:
        for label, count in result["counts"].items():
            written.counts[result["split"], label] += count
        written.quarantined.extend(result["quarantined"])
        written.re_encoded.update(result["re_encoded"])
    return written


def _write_shard(
    shard: _Shard,
    tick: Callable[[], None],
    *,
    folder: Path,
    scratch: Path,
    options: IngestConfig,
) -> dict[str, Any]:
    """Decodes a shard's images and writes its file; returns a part of `_Written` as JSON."""
    counts: Counter[str] = Counter()
    quarantined = []
    re_encoded: Counter[str] = Counter()
    # A cluster may run the same work twice at once: each writes a file of its own.
    unfinished = scratch / uuid.uuid4().hex
    # JPEG and PNG are compressed already: a higher level costs time and gains nothing.
    gzip = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
    with tf.io.TFRecordWriter(str(unfinished), gzip) as writer:
        for photo in shard.photos:
            tick()
            try:
                example, changes = _example(photo, options)
            except BadImageError as error:
                quarantined.append(_quarantined(photo.source, str(error)))
                continue
            writer.write(example)
            counts[photo.label] += 1
            re_encoded.update(changes)
    unfinished.replace(folder / shard.name)
    return {
        "split": shard.name.split("/")[0],
        "counts": counts,
        "quarantined": quarantined,
        "re_encoded": re_encoded,
    }


def _example(photo: _Photo, options: IngestConfig) -> tuple[bytes, tuple[str, ...]]:
    """Returns a serialized tf.Example, and why its image was encoded anew, if it was."""
    try:
        data = Path(photo.path).read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from error
    if _image_id(data) != photo.image_id:
        raise BadImageError("the file changed while it was ingested")
    image = normalise(data, max_side=options.max_side, max_pixels=options.max_pixels)
    values = {
        "image": image.data,
        "label": photo.label.encode(),
        "image_id": photo.image_id.encode(),
        "source": photo.source.encode(),
        **{key: value.encode() for key, value in photo.slices},
    }
    features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in values.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True), image.changes


# The rest of the dataset folder


def _check_classes(
    counts: dict[str, dict[str, int]], quarantined: Sequence[dict[str, str]], found: _Found
) -> None:
    """Raises UserError if a class has no image, or none to train on."""
    label_of = {_shown(photo.source): photo.label for photo in found.photos}
    for label in found.labels:
        total = sum(counts[split][label] for split in SPLITS)
        if total == 0:
            bad = [item for item in quarantined if label_of.get(item["source"]) == label]
            reasons = "; ".join(f"{item['source']}: {item['reason']}" for item in bad[:3])
            raise UserError(
                f"the class {label!r} has no usable image: all {len(bad)} were refused "
                f"({reasons}{'; ...' if len(bad) > 3 else ''})"
            )
        if counts["train"][label] == 0:
            raise UserError(
                f"the class {label!r} has no image to train on: its {total} fell into eval and "
                "test by their content; add images, or raise the share of train"
            )


def _warnings(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    for split in ("eval", "test"):
        if missing := [repr(label) for label, count in counts[split].items() if count == 0]:
            yield f"{split} has no image of {', '.join(missing)}"
    labels = list(counts["train"])
    if all(label.casefold() in _SPLIT_LIKE_NAMES for label in labels):
        yield f"the classes are called {', '.join(labels)}: are these splits of one dataset?"


def _write_schema(folder: Path, found: _Found) -> str:
    """Writes the raw examples' schema and returns its file's name.

    The name carries the content's digest because TFX caches an imported schema by its path.
    """
    schema = schema_pb2.Schema()
    for name in (*_EXAMPLE_FEATURES, *found.slice_keys):
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        feature.presence.min_fraction = 1
        feature.presence.min_count = 1
        feature.shape.dim.add(size=1)
        if name == "label":
            feature.string_domain.value.extend(found.labels)
    content = text_format.MessageToString(schema, as_utf8=True).encode()
    name = f"schema-{hashlib.sha256(content).hexdigest()[:12]}.pbtxt"
    (folder / name).write_bytes(content)
    return name


def _sizes(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of every file below a folder, by its posix path in it."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


def _quarantined(source: str, reason: str) -> dict[str, str]:
    return {"source": source, "reason": reason}


def _shown(source: str) -> str:
    """Returns a path as text; the bytes of a name that is not UTF-8 are escaped."""
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def _by_source(item: Mapping[str, str]) -> str:
    return item["source"]


# Writing beside the place and renaming into it


def _earlier_report(out: Path, photos: Path) -> IngestReport | None:
    """Returns the report of the dataset in `out`, None if there is nothing there.

    Raises:
        UserError: `out` holds something that ingest did not write, or overlaps with `photos`.
    """
    source = photos.resolve()
    if source == out or source in out.parents or out in source.parents:
        raise UserError(f"the dataset folder {out} must lie outside {photos}, and not around it")
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} exists and is not a folder")
    report = IngestReport.read(out)
    foreign = _sizes(out).keys() - (report.files.keys() | {REPORT_FILE} if report else set())
    if foreign:
        raise UserError(
            f"{out} holds what ingest did not write ({min(foreign)}): choose a new or empty folder"
        )
    return report


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `out`; its `dataset` takes the place of `out` in the end.

    The folder is locked while its maker lives, so that what a killed run left can be told from
    what another run is writing. (Such a run is not hindered: the last to finish wins.)
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f".{out.name}.partial-*"):
        with _locked(leftover) as free:
            if free:
                _clear(leftover, out)
    workshop = out.with_name(f".{out.name}.partial-{os.getpid()}")
    workshop.mkdir()
    with _locked(workshop):
        try:
            yield workshop
            if out.exists():
                out.replace(workshop / "replaced")
            (workshop / "dataset").replace(out)
        finally:
            _clear(workshop, out)


@contextmanager
def _locked(workshop: Path) -> Iterator[bool]:
    """Tells whether no living process had locked a workshop, which is then locked."""
    with (workshop / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _clear(workshop: Path, out: Path) -> None:
    """Removes a workshop; a dataset whose replacement never arrived comes back."""
    replaced = workshop / "replaced"
    if replaced.exists() and not out.exists():
        replaced.replace(out)
    shutil.rmtree(workshop)


# Beam


class _Workers:
    """Maps functions over items with Beam, as widely as `beam_args` say.

    Attributes:
        scratch: A folder that all workers share, for results and for the progress of the work.
    """

    def __init__(self, scratch: Path, beam_args: Sequence[str], say: Callable[[str], None]) -> None:
        self.scratch = scratch
        self._say = say
        scratch.mkdir()
        self._options = PipelineOptions(
            [
                # Beam's default may be a runner that downloads itself.
                "--runner=FnApiRunner",
                # Decoding and hashing let go of Python's lock, so threads are enough.
                "--direct_running_mode=multi_threading",
                f"--direct_num_workers={os.cpu_count() or 1}",
                *beam_args,
            ]
        )

    def map(
        self,
        verb: str,
        function: Callable[[Any, Callable[[], None]], Any],
        items: Sequence[Any],
        total: int,
    ) -> list[Any]:
        """Returns `function(item, tick)` for every item, in no certain order.

        Args:
            verb: The work in the past tense, for the line "<verb> 10 of 20".
            function: Returns JSON; calls `tick()` for each image, `total` times in all.
            items: What to work on.
            total: The number of images in the items.
        """
        results = self.scratch / verb
        results.mkdir()
        tally = _Tally(self.scratch / f"{verb}-tally")
        with _reported(verb, tally, total, self._say), beam.Pipeline(options=self._options) as p:
            _ = (
                p
                | beam.Create(list(enumerate(items)))
                | beam.Reshuffle()
                | beam.MapTuple(lambda index, item: (index, function(item, tally.tick)))
                | beam.ParDo(_Write(results))
            )
        lines = [
            json.loads(line)
            for part in results.glob("*.jsonl")
            for line in part.read_text("utf-8").splitlines()
        ]
        # Of what a cluster did twice, once.
        return list(dict(lines).values())


class _Write(beam.DoFn):
    """Writes results, a file for each bundle, which is there whole or not at all.

    Not Beam's own sink: its last step, which moves the files, is one that Dask's runner leaves out.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._lines: list[str] = []

    def start_bundle(self) -> None:
        """See the base class."""
        self._lines = []

    def process(self, element: tuple[int, Any]) -> None:
        """See the base class."""
        self._lines.append(json.dumps(element) + "\n")

    def finish_bundle(self) -> None:
        """See the base class."""
        part = self._folder / f"{uuid.uuid4()}.jsonl"
        partial = part.with_suffix(".partial")
        partial.write_text("".join(self._lines), encoding="utf-8")
        partial.replace(part)


class _Tally:
    """Counts images across workers: a file for each process, a byte for each image.

    Beam's own counters are told only when a run is over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def tick(self) -> None:
        with (self._folder / f"{os.uname().nodename}-{os.getpid()}").open("ab") as file:
            file.write(b".")

    def count(self) -> int:
        return sum(file.stat().st_size for file in self._folder.iterdir())


@contextmanager
def _reported(verb: str, tally: _Tally, total: int, say: Callable[[str], None]) -> Iterator[None]:
    """Says how far the work is, every two seconds and at its end."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            # Work that a cluster does twice is counted twice.
            say(f"{verb} {min(tally.count(), total):,} of {total:,}")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    say(f"{verb} {total:,} of {total:,}")
