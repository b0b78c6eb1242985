"""`edgeline examples`: the images that this device has kept for its owner."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._text import in_utc
from edgeline.cli.device_options import add_device, open_device
from edgeline.cli.options import add_command, add_group, add_json
from edgeline.cli.output import Progress, answer, note
from edgeline.errors import DeviceError

if TYPE_CHECKING:
    from edgeline.device.examples import HardExamples
    from edgeline.device.update import Device


def add_examples(commands: Any) -> None:
    add_group(
        commands, "examples", _add_commands, "list, export or remove the images kept for the owner"
    )


def _add_commands(group: Any) -> None:
    """List, export or remove the images that `edgeline watch --keep-hard` has
    kept: those that the model was least sure of.

    Examples:
    edgeline examples list --registry registry --root root.json --model solar-cells
    edgeline examples export /media/usb --to-key inbox.pub --registry registry --model solar-cells
    edgeline examples clear --registry registry --root root.json --model solar-cells
    """
    listing = add_command(group, "list", _list, "list them")
    add_device(listing)
    add_json(listing, "a line of JSON per image")
    export = add_command(
        group,
        "export",
        _export,
        "seal them to the owner, and move them to a folder or the registry",
    )
    export.add_argument(
        "place",
        metavar="PLACE",
        help="to move them to: a folder, or oci://host[:port]/repository, the registry",
    )
    export.add_argument(
        "--to-key",
        type=Path,
        required=True,
        metavar="FILE",
        help="the owner's inbox key (*.pub), of `edgeline registry fleet inbox-key`",
    )
    add_device(export)
    clear = add_command(group, "clear", _clear, "remove them")
    add_device(clear)


def _ring(device: "Device") -> "HardExamples":
    from edgeline.device.examples import FOLDER, HardExamples

    return HardExamples(device.folder.path / FOLDER)


def _list(options: argparse.Namespace) -> int:
    """List the images that are kept, and what the model said of them.

    Examples:
    edgeline examples list --registry registry --root root.json --model solar-cells
    edgeline examples list --registry registry --model solar-cells --json | jq .label
    """
    from edgeline.device.clock import as_time

    kept = _ring(open_device(options)).kept()
    documents = ({"image": each.image, **vars(each.guess)} for each in kept)
    rows = [("IMAGE", "TAKEN", "GUESS", "PROBABILITY", "SHADOW")]
    for each in kept:
        guess = each.guess
        taken = in_utc(as_time(guess.time))
        probability = f"{guess.probability:.3f}"
        rows.append((each.image[:12], taken, guess.label, probability, guess.shadow or "-"))
    return answer(options, documents, rows, right=(3,))


def _export(options: argparse.Namespace) -> int:
    """Seal each image to the owner's key, signed by this device, and move it to a
    folder, such as a USB stick's, or to the examples beside the registry. Whoever finds
    them there can read none. Needs `edgeline enrol`. A rerun goes on where this ended.

    Examples:
    edgeline examples export /media/usb --to-key inbox.pub --registry registry --model solar-cells
    edgeline examples export oci://registry.example/cells --to-key inbox.pub --model solar-cells
    """
    from edgeline.device.identity import device_id
    from edgeline.device.reporting import enrolment_of
    from edgeline.telemetry.examples import EXAMPLES, Example, name_of, seal_example
    from edgeline.telemetry.places import open_place
    from edgeline.telemetry.sealing import read_public_key

    device = open_device(options)
    enrolment, signer = enrolment_of(device)
    owner = read_public_key(options.to_key)
    with device.folder.translated():
        name = device_id(device.folder.base)
    place = open_place(options.place, device.connection, kind=EXAMPLES)
    ring, progress, written = _ring(device), Progress(), 0
    kept = ring.kept()
    for number, each in enumerate(kept, start=1):
        progress(f"sealing image {number} of {len(kept)}")
        image = ring.read(each)
        if image is None:
            note(f"image {each.image[:12]} is damaged, and was left out")
        else:
            example = Example(name, device.model, each.guess, image)
            sealed = seal_example(example, enrolment, signer, owner)
            place.put(name_of(name, sealed), sealed)
            written += 1
        # One at a time: whatever ends this, no image is lost, and hardly one sent twice.
        _forget(device, ring, {each.image})
    print(f"{written} images are at {options.place}, for the holder of that key, and gone here.")
    return 0


def _clear(options: argparse.Namespace) -> int:
    """Remove the images that are kept.

    Examples:
    edgeline examples clear --registry registry --root root.json --model solar-cells
    """
    device = open_device(options)
    ring = _ring(device)
    images = {each.image for each in ring.kept()}
    _forget(device, ring, images)
    print(f"{len(images)} images were removed.")
    return 0


def _forget(device: "Device", ring: "HardExamples", images: set[str]) -> None:
    if not images:
        return
    try:
        with device.folder.translated():
            ring.forget(images)
    except BlockingIOError:
        raise DeviceError("Another process is writing images. Try again when it is done") from None
