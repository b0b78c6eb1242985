"""The inbox as a page: hard examples that came home, with what the model said of them.

    write_inbox_page(Path("inbox"))     # inbox/inbox.html
    take_labels(Path("inbox"), Path("labels.csv"))

The page is one file without scripts. What devices said is escaped, and of many images those without
a label are shown first.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from components.report.templates import environment
from edgeline._files import write_whole
from edgeline.errors import ImageError
from edgeline.fleet.inbox import TABLE, Entry, read_inbox, write_inbox
from edgeline.preprocessing import load_limited
from pipeline.errors import UserError

PAGE = "inbox.html"

_SHOWN = 1000  # pictures
_SIDE = 128  # px, of a picture
_QUALITY = 80  # of its JPEG


@dataclass(frozen=True)
class Shown:
    """An image on the page.

    Attributes:
        entry: its row.
        picture: a data: URI; empty where the image cannot be read.
    """

    entry: Entry
    picture: str


def write_inbox_page(inbox: Path) -> Path:
    """Writes the page into the inbox; returns its path.

    Raises:
        UserError: there is no image in the inbox.
        edgeline.errors.RegistryError: its table can't be read.
    """
    entries = _entries(inbox)
    # Where two models disagreed first, and then by how unsure the one was.
    ordered = sorted(entries, key=lambda each: (each.label != "", not each.shadow, each.margin))
    page = _TEMPLATES.get_template("inbox.html.jinja").render(
        name=inbox.name,
        table=TABLE,
        shown=[Shown(entry, _picture(inbox / entry.path)) for entry in ordered[:_SHOWN]],
        more=max(0, len(ordered) - _SHOWN),
        labelled=sum(each.label != "" for each in entries),
        total=len(entries),
        guesses=Counter(each.guess for each in entries).most_common(50),
    )
    write_whole(inbox / PAGE, page.encode())
    return inbox / PAGE


def take_labels(inbox: Path, labels: Path) -> int:
    """Takes labels from a CSV file with the columns path and label; returns how many there were.

    Args:
        inbox: whose table they are written to.
        labels: the file. A path may leave the folder and the suffix out: the name is enough.

    Raises:
        UserError: it can't be read, or labels an image that is not in the inbox.
        edgeline.errors.RegistryError: the inbox's table can't be read or written.
    """
    entries = _entries(inbox)
    given = _read_labels(labels)
    if unknown := sorted(given.keys() - {Path(entry.path).stem for entry in entries}):
        raise UserError(
            f"{labels}: {inbox} has no image {unknown[0]!r}: expected the paths in {TABLE}"
        )
    write_inbox(
        inbox,
        (replace(each, label=given.get(Path(each.path).stem, each.label)) for each in entries),
    )
    return len(given)


def _entries(inbox: Path) -> Sequence[Entry]:
    entries = read_inbox(inbox)
    if not entries:
        raise UserError(
            f"{inbox} has no images to label; `edgeline registry fleet open` brings them there"
        )
    return entries


def _read_labels(path: Path) -> dict[str, str]:
    """The labels that are not empty, by the name of the image."""
    try:
        # A spreadsheet's UTF-8 starts with a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}: expected the columns path and label")
            return {
                Path(row["path"]).stem: row["label"].strip()
                for row in rows
                if row["path"] and (row["label"] or "").strip()
            }
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV in UTF-8: {error}") from error


def _picture(path: Path) -> str:
    from PIL import Image

    try:
        small = load_limited(path, _SIDE)
    except ImageError:
        return ""
    file = io.BytesIO()
    Image.fromarray(small).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


_TEMPLATES = environment(Path(__file__).parent)
