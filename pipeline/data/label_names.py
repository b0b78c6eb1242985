"""What stands beside records: files that name their classes, and TFDS' description of them.

Three kinds of files name classes: TFDS' `<feature>.labels.txt` and many a `labels.txt`, a line for
each class from 0 on; TF-slim's `labels.txt`, with lines such as `3:roses`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.dataset import LABELS_FILE
from pipeline.errors import UserError

FEATURES_FILE = "features.json"
_MAX_BYTES = 10 * 2**20
_NUMBERED = re.compile(r"\s*(\d{1,18}):(.*)")
_FILE_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True)
class LabelNames:
    """The names of classes.

    Attributes:
        file: Where they come from.
        by_number: The name for each number, in the order of the numbers.
        counted: Whether the numbers are the lines', and not written in the file.
        told: Whether the user said that these are the names.
    """

    file: Path
    by_number: Mapping[int, str]
    counted: bool = False
    told: bool = False


def read_label_names(file: Path, *, told: bool = False) -> LabelNames:
    """Reads a text file with a class on each line: `name`, or `number:name` on all of them.

    Raises:
        UserError: It cannot be read as such, or names a class or a number twice.
    """
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2].strip()) for match in numbered if match]
    counted = len(pairs) < len(lines)
    if counted:
        pairs = list(enumerate(lines))
    by_number = dict(sorted(pairs))
    if not pairs:
        raise UserError(f"{file} is empty: expected the name of a class on each line")
    if len(by_number) < len(pairs) or len(set(by_number.values())) < len(pairs):
        raise UserError(f"{file} names a class or a number twice: expected each once")
    return LabelNames(file, by_number, counted, told)


def find_label_names(folders: Iterable[Path], feature: str) -> LabelNames | None:
    """Returns the names in files beside records, None if there are none.

    Args:
        folders: Where to look; all are looked into.
        feature: The name of the label's feature, by which TFDS names its file.

    Raises:
        UserError: One of the files cannot be read, or two say different things.
    """
    # A feature may have a slash in its name, or worse.
    names = [f"{feature}.labels.txt"] if _FILE_NAME.fullmatch(feature) else []
    found: LabelNames | None = None
    for folder in folders:
        files = (folder / name for name in (*names, LABELS_FILE))
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            continue
        read = read_label_names(file)
        if found and read.by_number != found.by_number:
            raise UserError(
                f"{found.file} and {file} name different classes: ingest the folders one by one, "
                "or say which file counts by --labels FILE"
            )
        found = found or read
    return found


@dataclass(frozen=True)
class Declared:
    """The features that a data set says hold images and class labels."""

    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def declared_features(file: Path) -> Declared:
    """Returns what TFDS' `features.json` declares at its top level.

    Raises:
        UserError: It is not such a file.
    """
    try:
        classes = dict(_classes(json.loads(_text(file))))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} is not a description of features as TFDS writes it: remove it, or mend it"
        ) from error
    return Declared(
        images=tuple(name for name, kind in classes.items() if kind == "Image"),
        labels=tuple(name for name, kind in classes.items() if kind == "ClassLabel"),
    )


def _classes(description: Any) -> Iterator[tuple[str, str]]:
    """Yields the features' names and the names of their Python classes.

    TFDS has written the features in three ways: as a protobuf message, as such a message (or its
    text) under "content", and before as a plain map there.
    """
    if "featuresDict" in description:
        features = description["featuresDict"].get("features", {})
    else:
        content = description.get("content", {})
        content = json.loads(content) if isinstance(content, str) else content
        features = content.get("features", {}) if description.get("proto_cls") else content
    for name, feature in features.items():
        python_class = feature.get("pythonClassName") or feature.get("type") or ""
        yield name, python_class.rpartition(".")[2]


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UserError(f"{file} has more than {_MAX_BYTES:,} bytes: is it the right file?")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8") from error
