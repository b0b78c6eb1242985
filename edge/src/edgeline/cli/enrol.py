"""`edgeline enrol`: have this device's reports count."""

import argparse
from pathlib import Path
from typing import Any

from edgeline._json import dump_canonical
from edgeline.cli.device_options import add_device, open_device
from edgeline.cli.options import add_command
from edgeline.cli.output import note, print_json, write_file
from edgeline.errors import DeviceError


def add_enrol(commands: Any) -> None:
    parser = add_command(commands, "enrol", _enrol, "have this device's reports count")
    add_device(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write that; default: it is printed"
    )
    parser.add_argument(
        "--accept", type=Path, metavar="FILE", help="the enrolment, to be kept on this device"
    )


def _enrol(options: argparse.Namespace) -> int:
    """Make this device's key, and write what `edgeline registry fleet enrol` has
    to be given; then keep the enrolment that it makes. The key never leaves the device.

    Examples:
    edgeline enrol --registry registry --root root.json --model solar-cells --output request.json
    edgeline enrol --registry registry --root root.json --model solar-cells --accept enrolment.json
    """
    from edgeline.device.reporting import accept_enrolment, request_enrolment

    device = open_device(options)
    if options.accept is None:
        request = request_enrolment(device)
        if options.output is None:
            print_json(request)
        else:
            write_file(options.output, dump_canonical(request) + b"\n")
        note("hand this to whoever holds the fleet key, who gives `edgeline registry fleet enrol`")
        return 0
    accept_enrolment(device, read_small(options.accept))
    print(f"The reports of this device on {device.model} count from now on.")
    return 0


def read_small(path: Path) -> bytes:
    """Read a request or an enrolment.

    Raises:
        DeviceError: it cannot be read, or is larger than one.
    """
    from edgeline._files import read_bounded
    from edgeline.telemetry.report import MAX_REPORT

    try:
        return read_bounded(path, MAX_REPORT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"{path} cannot be read: {reason}") from None
