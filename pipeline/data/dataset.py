"""Reads an ingested dataset folder: what `python -m pipeline ingest PHOTOS OUT` leaves in OUT.

`Dataset.load(path)` is for the steps that come after. The ingest report is the dataset's table of
contents and is written last: a folder without it, or without a file that it lists, is no dataset.
This module imports neither Beam nor TensorFlow, so that a command can look at a dataset at once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

SPLITS = ("train", "eval", "test")
LABELS_FILE = "labels.txt"
REPORT_FILE = "ingest_report.json"
TABLE_FILE = "images.parquet"
ASSIGNMENTS_FILE = "splits.parquet"
PAGE_FILE = "data.html"
REPORT_VERSION = 2
# What ingest does to an image, by the reason; devices do the same before they predict.
DONE: Mapping[str, str] = {
    "16-bit": "the upper 8 bits of a sample kept",
    "CMYK": "converted to RGB",
    "EXIF orientation": "turned upright",
    "downscaled": "scaled down to the longest side that is allowed",
    "palette": "converted to RGB",
    "several frames": "the first one taken",
    "transparency": "laid over white",
}
LISTED = 100  # files left out that the report names; the table has all


@dataclass(frozen=True)
class IngestReport:
    """What an ingest run read, refused, changed and wrote.

    Attributes:
        source: The photos' folder or CSV file, as the user gave it.
        options: The options of the run.
        labels: The classes, in their order for ever.
        schema: The schema file's name.
        slice_keys: The features beside image, label, image_id and source.
        counts: Images by split and class.
        found: Images that were found.
        left_out: How many could not be used.
        quarantined: The first `LISTED` of them, as `{"source": ..., "reason": ...}`.
        duplicates: Images left out because another has the same pixels.
        near_duplicates: Images that are in one split since they look alike.
        ignored: Files and folders of systems that were passed over, by name.
        re_encoded: Images that were encoded anew, by reason; one image may have several.
        notes: How the data was read, a line each.
        warnings: What the user should know and need not mend.
        files: The size in bytes of every other file of the dataset, by its path in the folder.
        fingerprint: SHA-256 of what the dataset was made from: equal means up to date.
        digest: SHA-256, in hex, over the names and contents of what the pipeline reads: examples,
            labels and schema.
        reused: Whether the dataset was up to date and nothing was written.
    """

    source: str
    options: Mapping[str, Any]
    labels: tuple[str, ...]
    schema: str
    slice_keys: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    found: int
    left_out: int
    quarantined: tuple[Mapping[str, str], ...]
    duplicates: int
    near_duplicates: int
    ignored: Mapping[str, int]
    re_encoded: Mapping[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    files: Mapping[str, int]
    fingerprint: str
    digest: str
    reused: bool = field(default=False, compare=False)

    @property
    def images(self) -> int:
        """The number of images in the dataset."""
        return sum(sum(by_label.values()) for by_label in self.counts.values())

    def write(self, folder: Path) -> None:
        """Writes the report into a dataset folder, which it makes a finished one."""
        content = {"version": REPORT_VERSION, **asdict(self)}
        del content["reused"]
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "IngestReport | None":
        """Returns the report in a folder, or None if there is none of this version."""
        try:
            content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
            if content.pop("version") != REPORT_VERSION:
                return None
            lists = ("labels", "slice_keys", "quarantined", "notes", "warnings")
            content |= {name: tuple(content[name]) for name in lists}
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def damage(self, folder: Path) -> str | None:
        """Returns what is wrong with the files of a folder, or None if all are as listed."""
        for name, size in self.files.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
        return None


def what_was_done(reason: str) -> str:
    """What ingest did to an image for a reason that `IngestReport.re_encoded` names."""
    return "encoded as JPEG or PNG" if reason.startswith("format ") else DONE.get(reason, "")


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of every file below a folder, by its posix path in it."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


def listed_files(folder: Path) -> frozenset[str]:
    """The files of a dataset of this or an earlier version, by its report; empty if there is none.

    Raises:
        UserError: a later version of edgeline has made it.
    """
    try:
        content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        version, files = int(content["version"]), frozenset(map(str, content["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
    if version > REPORT_VERSION:
        raise UserError(
            f"{folder} was ingested by a later version of edgeline: its report has version "
            f"{version}, expected at most {REPORT_VERSION}; use that version, or another folder"
        )
    return files | {REPORT_FILE}


@dataclass(frozen=True)
class Dataset:
    """A finished dataset folder.

    Attributes:
        path: The folder; `train/`, `eval/` and `test/` in it hold TFRecords.
        labels: The classes, in their order for ever.
        slice_keys: The features beside image, label, image_id and source.
        schema_path: The schema of the raw examples, a text proto.
        max_side: Pixels; images with a longer side were scaled down to it.
        counts: Images by split and class.
        options: The settings it was ingested with.
        digest: SHA-256 over the names and contents of examples, labels and schema, in hex.
        written: When it was, by the time of its report, which is written last; None if unknown.
    """

    path: Path
    labels: tuple[str, ...]
    slice_keys: tuple[str, ...]
    schema_path: Path
    max_side: int
    counts: Mapping[str, Mapping[str, int]]
    options: Mapping[str, Any]
    digest: str
    written: datetime | None = None

    @classmethod
    def load(cls, path: Path) -> "Dataset":
        """Reads a dataset folder.

        Raises:
            UserError: The folder is not a finished dataset, or lacks some of its files.
        """
        remedy = f"run `python -m pipeline ingest PHOTOS {path}`"
        if not (path / REPORT_FILE).is_file():
            raise UserError(f"{path} is not an ingested dataset: no {REPORT_FILE}; {remedy}")
        report = IngestReport.read(path)
        if report is None:
            raise UserError(
                f"{path} was ingested by another version of edgeline, or is damaged: {REPORT_FILE} "
                f"is not a report of version {REPORT_VERSION}; {remedy}, which keeps every image "
                "in its split"
            )
        if damage := report.damage(path):
            raise UserError(f"{path} is damaged: {damage}; {remedy}")
        return cls(
            path=path,
            labels=report.labels,
            slice_keys=report.slice_keys,
            schema_path=path / report.schema,
            max_side=report.options["max_side"],
            counts=report.counts,
            options=report.options,
            digest=report.digest,
            written=datetime.fromtimestamp((path / REPORT_FILE).stat().st_mtime, timezone.utc),
        )
