"""The inbox: hard examples that came home, in a folder with a table to label.

    INBOX/guesses.csv      a row an image: what the model said, and its label once somebody gave one
    INBOX/images/*.png     the images, named by their SHA-256

docs/fleet.md describes the columns.
"""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edgeline._files import write_named
from edgeline._text import one_line
from edgeline.device.clock import as_time
from edgeline.errors import RegistryError
from edgeline.telemetry.examples import Example

TABLE = "guesses.csv"

_IMAGES = "images"


@dataclass(frozen=True)
class Entry:
    """A row of the table, as it is written."""

    path: str  # of the image, relative to the inbox
    label: str  # empty until somebody gives one
    guess: str  # what the model said
    probability: str
    margin: str  # to the second label
    shadow: str  # what the model in the shadow said, where that was another label
    device: str
    release: str  # the digest of its index
    taken: str  # when, by the device's clock, UTC


_COLUMNS = tuple(each.name for each in fields(Entry))


def add_image(folder: Path, example: Example) -> Entry:
    """Write an example's image into an inbox, and return its row, without a label.

    Raises:
        IntegrityError: it is no image that devices send.
        RegistryError: it cannot be written.
    """
    from PIL import Image

    # Encoded anew: of what came, nothing but the pixels is kept.
    file = io.BytesIO()
    Image.fromarray(example.pixels()).save(file, "PNG")
    png = file.getvalue()
    path = Path(_IMAGES) / f"{hashlib.sha256(png).hexdigest()}.png"
    if not (folder / path).exists():
        write_named(folder / path, png)
    guess = example.guess
    return Entry(
        path=str(path),
        label="",
        guess=_harmless(guess.label),
        probability=f"{guess.probability:.4f}",
        margin=f"{guess.margin:.4f}",
        shadow=_harmless(guess.shadow or ""),
        device=example.device,
        release=guess.digest,
        taken=f"{as_time(guess.time):%Y-%m-%d %H:%M}",
    )


def read_inbox(folder: Path) -> list[Entry]:
    """Return the rows of an inbox; none where there is none yet.

    Raises:
        RegistryError: the table cannot be read, or has other columns.
    """
    path = folder / TABLE
    try:
        # A spreadsheet's UTF-8 starts with a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise RegistryError(f"{path} cannot be read: {error}") from None
    if tuple(header) != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
        raise RegistryError(f"{path} has other columns than {','.join(_COLUMNS)}: restore them")
    return [Entry(*row) for row in rows]


def write_inbox(folder: Path, entries: Iterable[Entry]) -> None:
    """Replace the table of an inbox, whole.

    Raises:
        RegistryError: it cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *map(astuple, entries)])
    write_named(folder / TABLE, text.getvalue().encode())


def _harmless(label: str) -> str:
    """Return a label that no spreadsheet takes for a formula, whatever a device says."""
    text = one_line(label)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
