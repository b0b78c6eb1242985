"""`edgeline registry fleet inbox-key` and `open`: hard examples as they come home."""

import argparse
import csv
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._text import one_line
from edgeline.cli.access import existing_store, repository_to_read, require_publishing
from edgeline.cli.options import add_command, add_connection, add_root, add_store
from edgeline.cli.output import Progress, note
from edgeline.cli.registry_init import add_no_passphrase, new_passphrase
from edgeline.errors import EdgelineError, RegistryError

if TYPE_CHECKING:
    from edgeline.fleet.examples import Example

IMAGES = "images"  # folder of what was opened
GUESSES = "guesses.csv"

_COLUMNS = (
    *("path", "label", "guess", "probability", "margin", "shadow"),
    *("device", "release", "taken"),
)


def add_inbox(commands: Any) -> None:
    """Add the commands to the parser."""
    key = add_command(
        commands,
        "inbox-key",
        run=_key,
        summary="make the key that devices seal images to",
        description="Make the key that devices seal images to: FILE, which opens them and stays\n"
        "with you, and beside it *.pub, which goes to the devices.",
        examples="""\
  edgeline registry fleet inbox-key keys/inbox.key
""",
    )
    key.add_argument("file", type=Path, metavar="FILE", help="to write, named *.key")
    add_no_passphrase(key)
    opening = add_command(
        commands,
        "open",
        run=_open,
        summary="open the images that devices sealed",
        description="Open what `edgeline examples export` wrote, of enrolled devices only, into a\n"
        f"folder: {IMAGES}/ and {GUESSES}, with what the model said of each and an empty column\n"
        "for the label. What the folder has already stays as it is, labels included.",
        examples="""\
  edgeline registry fleet open registry solar-cells /media/usb --root keys/root.json \\
      --inbox-key keys/inbox.key --output inbox
""",
    )
    add_store(opening)
    opening.add_argument("model", metavar="MODEL", help="the model's name in the registry")
    opening.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="to read")
    opening.add_argument(
        "--inbox-key", type=Path, required=True, metavar="FILE", help="(*.key) that opens them"
    )
    opening.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="to write, or to add to"
    )
    add_root(opening)
    add_connection(opening)


def _key(options: argparse.Namespace) -> int:
    require_publishing()
    from edgeline.fleet.sealing import generate_key

    generate_key(options.file, new_passphrase(options))
    public = options.file.with_suffix(".pub")
    print(f"{options.file} opens what devices seal to {public}: hand that on to them.")
    return 0


def _open(options: argparse.Namespace) -> int:
    from edgeline.fleet.examples import open_example
    from edgeline.fleet.sealing import Opener

    fleet = repository_to_read(options, existing_store(options)).fleet(options.model)
    require_publishing()
    opener = Opener.load(options.inbox_key)
    files, progress = [*_files(options.folders)], Progress()
    rows = _read_rows(options.output / GUESSES)
    known = {row[0] for row in rows}
    for number, file in enumerate(files, start=1):
        progress(f"opening {number} of {len(files)}")
        try:
            example = open_example(_read(file), opener, fleet.keys, fleet.revoked, at=time.time())
            if example.model != options.model:
                continue
            row = _row(example, options.output)
        except EdgelineError as error:
            note(f"counts for nothing: {file}: {error}")
            continue
        if row[0] not in known:
            known.add(row[0])
            rows.append(row)
    _write_rows(options.output / GUESSES, rows)
    print(f"{options.output} has {len(rows)} images now. Fill in the column label of {GUESSES}.")
    return 0


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    from edgeline.fleet.examples import SUFFIX

    for folder in folders:
        if not folder.is_dir():
            raise RegistryError(f"There is no folder {folder} with examples")
        yield from sorted(folder.glob(f"*{SUFFIX}"))


def _read(file: Path) -> bytes:
    from edgeline.device.state import read_bounded
    from edgeline.fleet.examples import MAX_EXAMPLE

    try:
        if file.is_symlink() or not file.is_file():
            raise RegistryError("it is no plain file")
        return read_bounded(file, MAX_EXAMPLE)
    except (OSError, ValueError) as error:
        raise RegistryError(str(error)) from None


def _row(example: "Example", output: Path) -> list[str]:
    """Write an example's image, and return its row."""
    import hashlib

    from PIL import Image

    from edgeline._files import write_whole
    from edgeline.device.clock import as_time

    # Encoded anew: of what came, nothing but the pixels is kept.
    file = io.BytesIO()
    Image.fromarray(example.pixels()).save(file, "PNG")
    png = file.getvalue()
    path = Path(IMAGES) / f"{hashlib.sha256(png).hexdigest()}.png"
    try:
        (output / IMAGES).mkdir(parents=True, exist_ok=True)
        if not (output / path).exists():
            write_whole(output / path, png)
    except OSError as error:
        raise _unwritable(output, error) from None
    guess = example.guess
    return [
        str(path),
        "",
        _harmless(guess.label),
        f"{guess.probability:.4f}",
        f"{guess.margin:.4f}",
        _harmless(guess.shadow or ""),
        example.device,
        guess.digest,
        f"{as_time(guess.time):%Y-%m-%d %H:%M}",
    ]


def _harmless(label: str) -> str:
    """Return a label that no spreadsheet takes for a formula, whatever a device says."""
    text = one_line(label)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _read_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise RegistryError(f"{path} cannot be read: {error}") from None
    if tuple(header) != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
        raise RegistryError(
            f"{path} has other columns than {', '.join(_COLUMNS)}; restore them, or name another "
            "--output"
        )
    return rows


def _write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    from edgeline._files import write_whole

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *rows])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> RegistryError:
    return RegistryError(f"{path} cannot be written: {error.strerror}")
