"""Finds labelled photos in the layouts of the field, without opening any.

- a folder with a subfolder for each class: `PHOTOS/<label>/**/<any name>`;
- a flat folder with the label before each name's first dot: `PHOTOS/cat.0.jpg`;
- either of the two within folders for the splits: `PHOTOS/train/<label>/...`, `PHOTOS/val/...`
  (`pipeline.data.split_names` has the names);
- a CSV file with the header `path,label`, its paths relative to its own folder or absolute. A
  column `split`, or the one that `split_by` names, has splits; further columns are slice keys.

To any of them come the labelled images of an inbox, those that devices sent home; to train on only.

Photos come one by one and in an order that follows from their names alone, so that a million of
them take no memory, and two machines find them in the same order.
"""

from __future__ import annotations

import csv
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgeline.image_files import SUFFIXES, UnreadableKindError, read_image
from pipeline.data.labels import normal_label
from pipeline.data.split_names import split_of_name
from pipeline.data.system_names import SYSTEM_NAMES
from pipeline.errors import UserError

if TYPE_CHECKING:
    # A worker takes photos from here, and pydantic would be half of what it loads.
    from pipeline.config import IngestConfig

EXAMPLE_FEATURES = ("image", "label", "image_id", "source")
SPLIT_COLUMN = "split"


class Photo(NamedTuple):
    """An image file, and what is known of it before it is opened.

    Attributes:
        path: of the file.
        source: names it in the dataset and in reports.
        label: as it is spelled in the layout.
        split: "train", "eval" or "test" where the layout says so, else empty.
        group: of images that stay in one split; empty for none.
        slices: a value for each of the slice keys.
        bytes: size of the file, -1 if it is not there.
        changed: time of its last change in nanoseconds.
    """

    path: str
    source: str
    label: str
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()
    bytes: int = -1
    changed: int = -1


@dataclass
class OtherFiles:
    """What finding came across beside the photos; filled while they come.

    Attributes:
        no_images: files that can be no photos, as (source, reason).
        ignored: how many files and folders of systems were passed over, by name.
        notes: how the layout was read, a line each.
        empty: class folders without a photo.
    """

    no_images: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


class Photos:
    """The labelled photos of a folder or a CSV file.

    Attributes:
        slice_keys: names of the slices' values.
        found: what is not a photo.
    """

    def __init__(self, path: Path, options: IngestConfig) -> None:
        """Recognises the layout.

        Raises:
            UserError: there is no such file or folder, or its layout is none of those known.
        """
        self.slice_keys: tuple[str, ...] = ()
        self.found = OtherFiles()
        self._group = _compiled(options.group_pattern)
        self._inbox = options.inbox
        if path.is_dir():
            if options.group is not None:
                raise UserError(
                    f"ingest.group = {options.group!r} names a CSV column, but {path} is a folder: "
                    "ingest.group_pattern finds groups in paths"
                )
            self._photos = self._in_folder(path)
        elif path.is_file():
            table = _Table(path, options)
            self.slice_keys = table.slice_keys
            self._photos = table.photos()
        else:
            raise UserError(f"{path}: no such file or folder")

    def __iter__(self) -> Iterator[Photo]:
        """Yields the photos; once.

        Raises:
            UserError: a folder can't be read, a folder is linked into itself, a class folder holds
                nothing, or a row of the table is not right.
        """
        for photo in self._with_inbox():
            size, changed = _size_and_time(photo.path)
            group = photo.group or self._group_of(photo.source)
            yield photo._replace(bytes=size, changed=changed, group=group)

    def _with_inbox(self) -> Iterator[Photo]:
        labels: set[str] = set()
        for photo in self._photos:
            labels.add(normal_label(photo.label))
            yield photo
        if self._inbox is not None:
            yield from self._in_inbox(self._inbox, labels)

    def _in_inbox(self, inbox: Path, labels: Collection[str]) -> Iterator[Photo]:
        # Not above: no worker reads it, and what signs and seals takes long to import.
        from edgeline.fleet.inbox import TABLE, read_inbox

        table, entries = inbox / TABLE, read_inbox(inbox)
        if not entries:
            raise UserError(
                f"ingest.inbox: {table} has no images; `edgeline registry fleet open` writes it"
            )
        labelled = [entry for entry in entries if entry.label.strip()]
        for entry in labelled:
            if normal_label(entry.label) not in labels:
                raise UserError(
                    f"{table}: {entry.path} has the label {entry.label!r}, and no other image has: "
                    f"expected one of {', '.join(sorted(labels)[:20])}"
                )
            yield Photo(
                path=os.path.join(inbox.absolute(), entry.path),  # noqa: PTH118 (as the others)
                source=f"{inbox.name}/{entry.path}",
                label=entry.label,
                split="train",
                slices=("",) * len(self.slice_keys),
            )
        self.found.notes.append(
            f"{len(labelled):,} of {len(entries):,} images in {inbox} have a label, and are added "
            "to train"
        )

    def _group_of(self, source: str) -> str:
        match = self._group.search(source) if self._group else None
        return match["group"] or "" if match else ""

    def _in_folder(self, folder: Path) -> Iterator[Photo]:
        entries = list(self._entries(folder))
        splits = {entry.name: split_of_name(entry.name) for entry in entries if entry.is_dir()}
        if "train" not in splits.values() or not all(splits.values()):
            yield from self._in_classes(folder, entries, "", "")
            return
        self.found.notes.append(
            "read as splits: " + ", ".join(f"{name}/ as {split}" for name, split in splits.items())
        )
        for name, split in splits.items():
            inside = list(self._entries(folder / name))
            yield from self._in_classes(folder / name, inside, f"{name}/", split)
        for entry in entries:
            if entry.name not in splits:
                self.found.no_images.append((entry.name, "not in a folder of a split"))

    def _in_classes(
        self, folder: Path, entries: Sequence[os.DirEntry[str]], prefix: str, split: str
    ) -> Iterator[Photo]:
        classes = [entry for entry in entries if entry.is_dir()]
        files = [entry for entry in entries if not entry.is_dir()]
        if not classes:
            yield from self._in_flat_folder(folder, files, prefix, split)
            return
        if images := [file.name for file in files if _suffix(file.name) in SUFFIXES]:
            raise UserError(
                f"{folder} holds both images ({images[0]}) and folders ({classes[0].name}): "
                "expected either a folder for each class, or images named <label>.<anything>.<ext> "
                "and no folder"
            )
        for file in files:
            self.found.no_images.append((prefix + file.name, "not in a class folder"))
        for entry in classes:
            photos = 0
            for path, source in self._files_below(folder / entry.name, f"{prefix}{entry.name}/"):
                if reason := _why_no_image(path):
                    self.found.no_images.append((source, reason))
                    continue
                photos += 1
                yield Photo(path, source, entry.name, split)
            if not photos:
                self.found.empty.append(str(folder / entry.name))

    def _in_flat_folder(
        self, folder: Path, files: Sequence[os.DirEntry[str]], prefix: str, split: str
    ) -> Iterator[Photo]:
        named = [file for file in files if file.name.count(".") >= 2]
        labelled = [file for file in named if not _why_no_image(file.path)]
        if not labelled and split in ("eval", "test"):
            # Such as a contest's test images, whose labels nobody has.
            self.found.notes.append(f"{folder.name}/ holds no labelled image and is left out")
            return
        if not labelled:
            raise UserError(
                f"{folder} holds no labelled image: expected a folder for each class, images named "
                "<label>.<anything>.<ext>, the path of a CSV file with the header path,label, or "
                "TFRecord or Parquet files"
            )
        names = {file.name for file in labelled}
        for file in files:
            if file.name not in names:
                reason = "not named <label>.<anything>.<ext>"
                self.found.no_images.append((prefix + file.name, reason))
        for file in labelled:
            label = file.name.partition(".")[0]
            yield Photo(os.path.abspath(file.path), prefix + file.name, label, split)  # noqa: PTH100

    def _files_below(self, folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
        """Yields path and source of the visible files at any depth below a folder.

        Raises:
            UserError: a link leads back to a folder that it lies in.
        """
        # A stack and no recursion: folders may be nested a thousand deep.
        root = folder.absolute()
        trail = [_identity(root)]
        open_folders = [(prefix, self._entries(root))]
        while open_folders:
            prefix, entries = open_folders[-1]
            entry = next(entries, None)
            if entry is None:
                open_folders.pop()
                trail.pop()
            elif not entry.is_dir():
                yield entry.path, prefix + entry.name
            elif (identity := _identity(Path(entry.path))) in trail:
                raise UserError(f"{entry.path} is a link to a folder that it lies in")
            else:
                trail.append(identity)
                open_folders.append((f"{prefix}{entry.name}/", self._entries(Path(entry.path))))

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yields what a folder holds, by name, without what is hidden or the system's."""
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
        for entry in entries:
            if entry.name.lower() in SYSTEM_NAMES:
                self.found.ignored[entry.name] += 1
            elif not entry.name.startswith("."):
                yield entry


class _Table:
    """A CSV file of photos."""

    def __init__(self, path: Path, options: IngestConfig) -> None:
        self._path = path
        self._group = options.group
        self._rows = _rows(path)
        line, self._header = next(self._rows, (0, []))
        if not line:
            raise UserError(f"{path} is empty: expected a CSV file with the header path,label")
        self._split = options.split_by
        if self._split is None and SPLIT_COLUMN in self._header:
            self._split = SPLIT_COLUMN
        special = {"path", "label", self._group, self._split}
        self.slice_keys = tuple(name for name in self._header if name not in special)
        self._check_header()

    def photos(self) -> Iterator[Photo]:
        """Yields a photo for each row.

        Raises:
            UserError: a row is not right.
        """
        folder = self._path.absolute().parent
        lines: dict[int, int] = {}  # by the hash of the path: a million paths would not be small
        for line, cells in self._rows:
            where = f"{self._path}, line {line}"
            if len(cells) != len(self._header):
                raise UserError(f"{where}: {len(cells)} cells instead of {len(self._header)}")
            row = dict(zip(self._header, cells, strict=True))
            source = row["path"]
            if not source:
                raise UserError(f"{where}: the path is empty")
            earlier = lines.setdefault(hash(source), line)
            if earlier != line:
                raise UserError(f"{where}: {source} is listed already, on line {earlier}")
            yield Photo(
                path=os.path.join(folder, source),  # noqa: PTH118 (a million of them)
                source=source,
                label=row["label"],
                split=self._split_of(row, where),
                group=row[self._group] if self._group else "",
                slices=tuple(row[key] for key in self.slice_keys),
            )

    def _split_of(self, row: dict[str, str], where: str) -> str:
        name = row[self._split].strip() if self._split else ""
        split = split_of_name(name)
        if name and not split:
            raise UserError(
                f"{where}: the split is {name!r}: expected train, eval (or val, validation), test, "
                "or nothing"
            )
        return split

    def _check_header(self) -> None:
        header = self._header
        shown = ",".join(header)
        expected = ["path", "label", *filter(None, (self._group, self._split))]
        if missing := [name for name in expected if name not in header]:
            raise UserError(
                f"{self._path} has no column {missing[0]!r}: its header is {shown}{_hint(header)}"
            )
        if len(set(header)) < len(header) or len(set(expected)) < len(expected):
            raise UserError(f"{self._path} uses a column twice: its header is {shown}")
        for key in self.slice_keys:
            if not re.fullmatch("[a-z][a-z0-9_]*", key) or key in EXAMPLE_FEATURES:
                raise UserError(
                    f"{self._path}: the column {key!r} cannot be a slice key: expected small "
                    f"letters, digits and underscores, and none of {', '.join(EXAMPLE_FEATURES)}"
                )


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a CSV file that are not blank, with their line numbers."""
    try:
        # A spreadsheet's UTF-8 starts with a byte-order mark.
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {table} as CSV in UTF-8: {error}") from error


def _hint(header: Sequence[str]) -> str:
    for name, separator in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if len(header) == 1 and separator in header[0]:
            return f"; it is separated by {name}: save it with commas"
    return ""


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    return re.compile(pattern) if pattern is not None else None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million of them)


class _KnownError(Exception):
    """The header of an image was read, which is enough."""


def _why_no_image(path: str) -> str:
    """Returns why a file is none of the images, by its name or else its first bytes, or nothing."""
    if _suffix(path) in SUFFIXES:
        return ""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return "is not a regular file"
        with open(path, "rb") as file:  # noqa: PTH123
            read_image(file, _stop)
    except UnreadableKindError as error:
        return "" if error.is_image else str(error)
    except Exception:
        # It can't be read, or it is damaged behind a known start: reading it will say how.
        return ""
    return ""


def _stop(width: int, height: int) -> None:
    raise _KnownError


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of a million files is slow)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
