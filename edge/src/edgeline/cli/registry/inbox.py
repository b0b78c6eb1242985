"""`edgeline registry fleet inbox-key` and `open`: hard examples as they come home."""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

from edgeline.cli.access import connection
from edgeline.cli.options import add_command, add_connection, add_root
from edgeline.cli.output import Progress, note
from edgeline.cli.registry.access import repository_to_read
from edgeline.cli.registry.init import add_no_passphrase, new_passphrase
from edgeline.cli.registry.options import add_model
from edgeline.errors import IntegrityError, TrustError

MAX_OF_DEVICE = 2000  # images that are taken of a device at once: what it may keep, and more


def add_inbox(commands: Any) -> None:
    key = add_command(commands, "inbox-key", _key, "make the key that devices seal images to")
    key.add_argument("file", type=Path, metavar="FILE", help="to write, named *.key")
    add_no_passphrase(key)
    opening = add_command(commands, "open", _open, "open the images that devices sealed")
    add_model(opening)
    opening.add_argument(
        "places",
        nargs="+",
        metavar="PLACE",
        help="to read: a folder, or oci://host[:port]/repository, the registry",
    )
    opening.add_argument(
        "--inbox-key", type=Path, required=True, metavar="FILE", help="(*.key) that opens them"
    )
    opening.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="to write, or to add to"
    )
    add_root(opening)
    add_connection(opening)


def _key(options: argparse.Namespace) -> int:
    """Make the key that devices seal images to: FILE, which opens them and stays
    with you, and beside it *.pub, which goes to the devices.

    Examples:
    edgeline registry fleet inbox-key keys/inbox.key
    """
    from edgeline.telemetry.sealing import generate_key

    generate_key(options.file, new_passphrase(options))
    public = options.file.with_suffix(".pub")
    print(f"{options.file} opens what devices seal to {public}: hand that on to them.")
    return 0


def _open(options: argparse.Namespace) -> int:
    r"""Open what `edgeline examples export` wrote, of enrolled devices only, into a
    folder: images/ and guesses.csv, with what the model said of each and an empty column
    for the label. What the folder has already stays as it is, labels included.

    Examples:
    edgeline registry fleet open registry solar-cells /media/usb --root keys/root.json \
        --inbox-key keys/inbox.key --output inbox
    """
    from edgeline.fleet.inbox import TABLE, add_image, read_inbox, write_inbox
    from edgeline.telemetry.examples import EXAMPLES, open_example
    from edgeline.telemetry.places import open_place
    from edgeline.telemetry.sealing import Opener

    fleet = repository_to_read(options).fleet(options.model)
    opener = Opener.load(options.inbox_key)
    entries = {each.path: each for each in read_inbox(options.output)}
    progress = Progress()
    places = (open_place(each, connection(options), kind=EXAMPLES) for each in options.places)
    found = (entry for place in places for entry in place.entries())
    sent: Counter[str] = Counter()
    for number, (name, data) in enumerate(found, start=1):
        progress(f"{number} opened")
        try:
            example = open_example(data, opener, fleet, at=time.time())
            if example.model != options.model:
                continue
            sent[example.device] += 1
            if sent[example.device] > MAX_OF_DEVICE:
                raise TrustError(f"device {example.device} has sent more than {MAX_OF_DEVICE}")
            entry = add_image(options.output, example)
        except (IntegrityError, TrustError) as error:
            note(f"counts for nothing: {name}: {error}")
            continue
        entries.setdefault(entry.path, entry)
    write_inbox(options.output, entries.values())
    print(f"{options.output} has {len(entries)} images now. Fill in the column label of {TABLE}.")
    return 0
