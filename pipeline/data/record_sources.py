"""Finds the labelled images in TFRecord and Parquet files, whoever wrote them, and reads them.

`find_records` looks at names and at the first records, and says what is where; `read_images` then
reads one file, in any process. What is known without being told:

- TFDS: `image` encoded, `label` a number, names in `label.labels.txt`;
- TF-slim: `image/encoded`, `image/class/label` and, where there is one, `image/class/text`;
- this package's own datasets: `image` and `label` bytes, and slice keys;
- Parquet as hubs hand it out: an image's bytes in a struct or a column, the label a number whose
  names are in the schema's metadata, or text.

Any other is told by the names of its features, and by a file with the classes' names. The split
comes from the names of files and folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from components.tf_example import RecordError
from pipeline.data.dataset import REPORT_FILE
from pipeline.data.label_names import (
    FEATURES_FILE,
    Declared,
    LabelNames,
    declared_features,
    find_label_names,
    read_label_names,
)
from pipeline.data.record_rows import (
    Description,
    Row,
    describe_parquet,
    describe_tfrecord,
    first_parquet_rows,
    parquet_rows,
    tfrecord_rows,
)
from pipeline.data.split_names import split_of_file
from pipeline.data.system_names import SYSTEM_NAMES
from pipeline.data.tfrecords import is_tfrecord
from pipeline.errors import UserError

ROLES: Final = ("image", "label", "text")
MAX_RECORD_BYTES: Final = 64 * 2**20

Kind = Literal["TFRecord", "Parquet"]


@dataclass(frozen=True)
class RecordFile:
    """A file of records.

    Attributes:
        path: The file, absolute.
        source: Its path within what is ingested, with slashes; names it in reports.
        split: "train", "eval" or "test" where the path says so, else empty.
        bytes: Its size.
    """

    path: Path
    source: str
    split: str
    bytes: int


@dataclass(frozen=True)
class Columns:
    """Where a record has what: names of its features, or of a table's columns.

    Attributes:
        image: The encoded image.
        label: The class, by number or name.
    """

    image: str
    label: str


@dataclass(frozen=True)
class RecordSource:
    """Files of records of one kind, and how to read them.

    Attributes:
        files: In the order of their names.
        kind: "TFRecord" or "Parquet".
        labels: The classes in their order where they are known before reading, else None; there
            may be some without an image.
        warnings: What the user should know, a line each.
        slice_keys: Features that divide the images further; only of this package's own format.
        columns: Where the records have what.
        names: The classes' names by number, None where there are none.
    """

    files: tuple[RecordFile, ...]
    kind: Kind
    labels: tuple[str, ...] | None
    warnings: tuple[str, ...]
    slice_keys: tuple[str, ...]
    columns: Columns
    names: LabelNames | None


@dataclass(frozen=True)
class ImageRecord:
    """A labelled image, or what can't be one.

    Attributes:
        source: The file and the record's number in it; no two are the same.
        label: The class.
        data: The encoded image.
        slices: Values of the slice keys, as far as the record has them.
        reason: Why the record can't be used, with its place in the file; empty if it can.
    """

    source: str
    label: str = ""
    data: bytes = b""
    slices: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def find_records(
    path: Path, features: Mapping[str, str], labels_file: Path | None
) -> RecordSource | None:
    """Returns what records a file or folder holds, or None if it holds none.

    It is cheap: names, magic bytes and a few records are read.

    Args:
        path: A file, or a folder in which files are looked for at any depth.
        features: Which feature or column is the "image" and which the "label", where that isn't
            known by itself; "text" for a label that is the class's name.
        labels_file: A file with the classes' names, a line each, from 0 on or as `number:name`.

    Raises:
        UserError: Records are there, but it can't be told what in them is image and label; they
            hold no encoded images; or there are several versions of them.
    """
    if unknown := sorted(features.keys() - set(ROLES)):
        raise UserError(f"--feature {unknown[0]}=...: expected one of {', '.join(ROLES)}")
    kind, files, has_photos = _find_files(path)
    described = _describe(files, kind, path) if files else None
    if described is None or (has_photos and not features and not _has_bytes(described[1])):
        if features or labels_file:
            raise UserError(
                f"{path} holds no TFRecord or Parquet file, which --feature and --labels are for"
            )
        return None
    file, description = described
    folders = _folders(files, path)
    declared = _declared(folders) if kind == "TFRecord" else description.declared
    columns = _Chooser(file, description.kinds, declared, features).columns(labels_file)
    _check_encoded(file, kind, description, columns.image)
    names = _label_names(file, columns, description, labels_file, folders)
    is_own = kind == "TFRecord" and _is_own(description.kinds, columns)
    return RecordSource(
        files=tuple(files),
        kind=kind,
        labels=tuple(names.by_number.values()) if names else None,
        warnings=tuple(_warnings(files, columns, description, names)),
        slice_keys=_slice_keys(description.kinds) if is_own else (),
        columns=columns,
        names=names,
    )


def read_images(
    file: RecordFile, source: RecordSource, *, max_bytes: int = MAX_RECORD_BYTES
) -> Iterator[ImageRecord]:
    """Yields the images of a file, and its bad records with their reasons, in their order.

    One record, or a few rows, are in memory at a time.

    Args:
        file: One of the source's files.
        source: What `find_records` returned.
        max_bytes: A longer TFRecord is passed over as a bad one, without being read.

    Raises:
        UserError: The classes' names do not fit the records' labels.
        OSError: A TFRecord file cannot be opened or read.
    """
    columns = source.columns
    names = source.names
    if source.kind == "TFRecord":
        rows = tfrecord_rows(file.path, max_bytes)
    else:
        names = _names_in(file, source)
        rows = parquet_rows(file.path, (columns.image, columns.label))
    for row in rows:
        name = f"{file.source}#{row.number}"
        try:
            yield _image(row, name, columns, source.slice_keys, names)
        except _BadRowError as error:
            yield ImageRecord(name, reason=f"{row.where}: {error}")


def _has_bytes(description: Description) -> bool:
    """Tells whether there can be images: beside photos, a table may be about those."""
    return "bytes" in description.kinds.values()


# Files

_SHARD = r"([-_.]\d+([-_]of[-_]\d+)?)?"
_TFRECORD_NAME = re.compile(rf"\.(tfrecords?|tfrec){_SHARD}(\.gz)?$", re.IGNORECASE)
_PARQUET_NAME = re.compile(rf"\.parquet{_SHARD}$", re.IGNORECASE)
# Others use such names, too: then the first bytes tell.
_MAYBE_TFRECORD_NAME = re.compile(r"(\.records?|[-_.]\d{3,}-of-\d{3,})(\.gz)?$", re.IGNORECASE)
_OTHER_TFDS_NAME = re.compile(r"\.(array_record|riegeli|bag)z?-\d+-of-\d+$")
_PARQUET_MAGIC = b"PAR1"
_VERSION_NAME = re.compile(r"\d+\.\d+\.\d+")
# A folder in which so many other files come before any record is one of photos.
_MAX_OTHERS = 1_000
_PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def _find_files(path: Path) -> tuple[Kind, list[RecordFile], bool]:
    """Returns the kind of the files, the files, and whether photos lie among them."""
    if not path.is_dir():
        kind = _kind_by_content(path) or (_kind(path) if path.is_file() else None)
        return kind or "TFRecord", [_record_file(path, path.name)] if kind else [], False
    found: dict[Kind, list[RecordFile]] = {"TFRecord": [], "Parquet": []}
    unreadable: list[str] = []
    others = 0
    has_photos = False
    other_format = None
    for file in _files_below(path, unreadable):
        if kind := _kind(file):
            found[kind].append(_record_file(file, file.relative_to(path).as_posix()))
            continue
        if _OTHER_TFDS_NAME.search(file.name):
            other_format = file
        has_photos = has_photos or file.suffix.lower() in _PHOTO_SUFFIXES
        others += 1
        if others == _MAX_OTHERS and not any(found.values()):
            break
    tfrecords, tables = found.values()
    if unreadable and (tfrecords or tables):
        raise UserError(f"cannot read the folder {unreadable[0]}")
    if tfrecords and tables:
        raise UserError(
            f"{path} holds both TFRecord files ({tfrecords[0].source}) and Parquet files "
            f"({tables[0].source}): ingest one kind, by its folder"
        )
    if other_format and not tfrecords and not tables:
        raise UserError(
            f"{other_format} is not a TFRecord file: have TFDS write it as one "
            '(file_format="tfrecord")'
        )
    _check_versions(path, tfrecords)
    return ("Parquet", tables, has_photos) if tables else ("TFRecord", tfrecords, has_photos)


def _files_below(folder: Path, unreadable: list[str]) -> Iterator[Path]:
    """Yields the visible files at any depth in the order of their names, no folder twice.

    Folders that cannot be read, with the reason, are added to `unreadable`.
    """
    seen = set()
    stack = [folder]
    while stack:
        current = stack.pop()
        try:
            status = current.stat()
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(f"{current}: {error.strerror}")
            continue
        if (status.st_dev, status.st_ino) in seen:  # a link leads back to it
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = [entry for entry in entries if not _is_passed_over(entry.name)]
        # A dataset's tables about its images are not images.
        is_ours = any(entry.name == REPORT_FILE for entry in entries)
        for entry in entries:
            if entry.is_file() and not (is_ours and entry.name.endswith(".parquet")):
                yield Path(entry.path)
        # What TFDS had not finished is in folders named so.
        below = [entry for entry in entries if entry.is_dir() and ".incomplete" not in entry.name]
        stack += [Path(entry.path) for entry in reversed(below)]


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _kind(file: Path) -> Kind | None:
    if _TFRECORD_NAME.search(file.name):
        return "TFRecord"
    if _PARQUET_NAME.search(file.name):
        return "Parquet"
    return _kind_by_content(file) if _MAYBE_TFRECORD_NAME.search(file.name) else None


def _kind_by_content(file: Path) -> Kind | None:
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            if stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
                return "Parquet"
        return "TFRecord" if is_tfrecord(file) else None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def _record_file(path: Path, source: str) -> RecordFile:
    shown = os.fsencode(source).decode("utf-8", "backslashreplace")
    return RecordFile(path.absolute(), shown, split_of_file(shown), path.stat().st_size)


def _check_versions(path: Path, files: Iterable[RecordFile]) -> None:
    """Raises UserError if TFDS' folders hold several versions, mostly of the same images."""
    folders = {file.path.parent for file in files}
    versions = sorted(folder for folder in folders if _VERSION_NAME.fullmatch(folder.name))
    if len(versions) > 1:
        root = path.absolute()
        shown = ", ".join(version.relative_to(root).as_posix() for version in versions[:5])
        raise UserError(f"{path} holds several datasets or versions ({shown}): ingest one of them")


def _folders(files: Sequence[RecordFile], path: Path) -> list[Path]:
    """Returns the folders of the files and those around them, up to the one that is ingested."""
    root = (path if path.is_dir() else path.parent).absolute()
    folders: dict[Path, None] = {}
    for parent in dict.fromkeys(file.path.parent for file in files):
        for folder in (parent, *parent.parents):
            folders[folder] = None
            if folder == root:
                break
    return list(folders)


# What the records hold

_FILES_LOOKED_AT = 16
_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("image", "image/encoded", "img"),
    "label": ("label", "image/class/label", "labels"),
}
_SLIM_LABEL, _SLIM_TEXT = "image/class/label", "image/class/text"
_OWN = ("image", "label", "image_id", "source")
_SLICE_KEY = re.compile("[a-z][a-z0-9_]*")
_SHOWN_FEATURES = 30


def _describe(
    files: Sequence[RecordFile], kind: Kind, path: Path
) -> tuple[RecordFile, Description]:
    """Returns the first file of which something can be read, and what that is."""
    reason = ""
    for file in files[:_FILES_LOOKED_AT]:
        try:
            if _is_lfs_pointer(file.path):
                raise RecordError("it is a Git LFS pointer: get the file itself by `git lfs pull`")
            if kind == "TFRecord":
                return file, describe_tfrecord(file.path, MAX_RECORD_BYTES)
            return file, describe_parquet(file.path)
        except RecordError as error:
            reason = reason or (f"{file.source}: {error}" if str(error) else "")
        except OSError as error:
            raise UserError(f"cannot read {file.path}: {error.strerror}") from error
    raise UserError(f"no {kind} in {path} can be read ({reason or 'the files are empty'})")


def _is_lfs_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(40).startswith(b"version https://git-lfs.github.com/")


def _declared(folders: Iterable[Path]) -> Declared:
    for folder in folders:
        if (folder / FEATURES_FILE).is_file():
            return declared_features(folder / FEATURES_FILE)
    return Declared()


class _Chooser:
    """Chooses the columns of image and label among those of a file."""

    def __init__(
        self,
        file: RecordFile,
        kinds: Mapping[str, str],
        declared: Declared,
        features: Mapping[str, str],
    ) -> None:
        self._file = file
        self._kinds = kinds
        self._declared = {"image": declared.images, "label": declared.labels}
        self._features = features

    def columns(self, labels_file: Path | None) -> Columns:
        image = self._column("image")
        if self._kinds.get(image) in ("int64", "float") or "list" in self._kinds.get(image, ""):
            raise UserError(
                f"{image!r} of {self._file.source} holds raw pixels ({self._kinds[image]}), whose "
                "size and order nobody tells: expected encoded images (JPEG, PNG, ...)"
            )
        self._check(image, ("bytes",), "an encoded image")
        label = self._label(by_name=labels_file is None)
        if image == label:
            raise UserError(f"{image!r} cannot be both image and label{self._listed()}")
        return Columns(image, label)

    def _label(self, *, by_name: bool) -> str:
        if text := self._features.get("text"):
            if "label" in self._features:
                raise UserError("--feature label and --feature text both tell the class: give one")
            self._check(text, ("bytes", "text"), "text")
            return text
        label = self._column("label")
        self._check(label, ("bytes", "text", "int64", "empty"), "one number or text")
        named = by_name and label == _SLIM_LABEL and self._kinds.get(_SLIM_TEXT) == "bytes"
        return _SLIM_TEXT if named and "label" not in self._features else label

    def _column(self, role: str) -> str:
        if role in self._features:
            return self._features[role]
        declared = [name for name in self._declared[role] if name in self._kinds]
        known = [name for name in _KNOWN[role] if name in self._kinds]
        both = [name for name in known if name in declared]
        for candidates in (declared, both, known):
            if len(candidates) == 1:
                return candidates[0]
        raise UserError(f"it is not clear which feature is the {role}{self._listed()}")

    def _check(self, name: str, kinds: Sequence[str], expected: str) -> None:
        kind = self._kinds.get(name)
        if kind is None:
            raise UserError(f"there is no feature {name!r}{self._listed()}")
        if kind not in kinds:
            raise UserError(f"{name!r} is {kind}; expected {expected}{self._listed()}")

    def _listed(self) -> str:
        names = sorted(self._kinds)
        shown = ", ".join(f"{name} ({self._kinds[name]})" for name in names[:_SHOWN_FEATURES])
        more = ", ..." if len(names) > _SHOWN_FEATURES else ""
        return (
            f": {self._file.source} has {shown or 'no feature'}{more}; say which by "
            "--feature image=NAME --feature label=NAME"
        )


def _check_encoded(file: RecordFile, kind: Kind, description: Description, image: str) -> None:
    """Raises UserError if none of the first images is encoded."""
    first = description.first if kind == "TFRecord" else first_parquet_rows(file.path, [image])
    images = [values[0] for row in first if (values := row.values.get(image))]
    if images and not any(map(_is_encoded, images)):
        raise UserError(
            f"{image!r} of {file.source} holds no encoded images (JPEG, PNG, ...): raw pixels, "
            "whose size and order nobody tells, can't be read"
        )


def _is_encoded(data: bytes) -> bool:
    """Tells whether bytes may be an image file, by their magic ones."""
    magics = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")
    return data.startswith(magics) or data[8:12] == b"WEBP" or data[4:8] == b"ftyp"


def _label_names(
    file: RecordFile,
    columns: Columns,
    description: Description,
    labels_file: Path | None,
    folders: Sequence[Path],
) -> LabelNames | None:
    if labels_file is not None:
        return read_label_names(labels_file, told=True)
    if in_file := description.names.get(columns.label):
        return LabelNames(file.path, dict(enumerate(in_file)))
    by_number = description.kinds[columns.label] in ("int64", "empty")
    if by_number or _is_own(description.kinds, columns):
        return find_label_names(folders, columns.label)
    return None


def _is_own(kinds: Mapping[str, str], columns: Columns) -> bool:
    chosen = (columns.image, columns.label) == _OWN[:2]
    return chosen and all(kinds.get(name) == "bytes" for name in _OWN)


def _slice_keys(kinds: Mapping[str, str]) -> tuple[str, ...]:
    keys = (name for name in sorted(kinds.keys() - set(_OWN)) if _SLICE_KEY.fullmatch(name))
    return tuple(name for name in keys if kinds[name] == "bytes")


def _warnings(
    files: Sequence[RecordFile],
    columns: Columns,
    description: Description,
    names: LabelNames | None,
) -> Iterator[str]:
    if description.kinds[columns.label] == "int64" and names is None:
        yield (
            f"no file names the classes of {columns.label!r}: they are called by their numbers; "
            "give the names, a line each, by --labels FILE"
        )
    without = [file.source for file in files if not file.split]
    if without and len(without) < len(files):
        yield (
            f"{len(without):,} of {len(files):,} files tell no split by their names, such as "
            f"{without[0]}: their images are divided among all"
        )


# Images


class _BadRowError(Exception):
    """The row is no labelled image; the message says why."""


def _image(
    row: Row, name: str, columns: Columns, slice_keys: Sequence[str], names: LabelNames | None
) -> ImageRecord:
    if row.reason:
        raise _BadRowError(row.reason)
    data = _only(row, columns.image)
    if not isinstance(data, bytes):
        raise _BadRowError(f"{columns.image!r} is no encoded image")
    label = _label(_only(row, columns.label), columns.label, names)
    slices = {key: _text(_only(row, key), key) for key in slice_keys}
    return ImageRecord(name, label, data, slices)


def _only(row: Row, name: str) -> object:
    """Returns the only value of a column."""
    values = row.values.get(name, ())
    if len(values) != 1:
        raise _BadRowError(f"{name!r} has {len(values):,} values instead of one")
    return values[0]


def _text(value: object, name: str) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise _BadRowError(f"{name!r} is not text in UTF-8") from error
    if not isinstance(text, str):
        raise _BadRowError(f"{name!r} is not text")
    return text


def _label(value: object, name: str, names: LabelNames | None) -> str:
    if not isinstance(value, int):
        label = _text(value, name)
        if names and names.told and label not in names.by_number.values():
            raise _BadRowError(f"the label {label!r} is not in {names.file}")
        return label
    if value < 0:
        raise _BadRowError(f"it has no label ({value})")
    if names is None:
        return str(value)
    if value in names.by_number:
        return names.by_number[value]
    if names.counted and value == len(names.by_number):
        raise UserError(
            f"there is a label {value}, but {names.file} names 0 to {value - 1}: if the labels "
            f"begin at 1, write its lines as 1:{names.by_number[0]} and so on, and give it by "
            "--labels FILE"
        )
    raise _BadRowError(f"the label {value} has no name in {names.file}")


def _names_in(file: RecordFile, source: RecordSource) -> LabelNames | None:
    """Returns the classes' names in a Parquet file, which may count them in an order of its own."""
    names = source.names
    if names and names.told:
        return names
    try:
        own = describe_parquet(file.path).names.get(source.columns.label)
    except RecordError:  # which reading the rows tells
        return names
    return LabelNames(file.path, dict(enumerate(own))) if own else names
