"""`edgeline doctor`: what is wrong with this device, and what to do."""

import argparse
from typing import Any

from edgeline.cli.device_options import add_device, log_to_stderr, open_device
from edgeline.cli.options import add_command, add_json
from edgeline.cli.output import print_json, printable


def add_doctor(commands: Any) -> None:
    parser = add_command(
        commands, "doctor", _run, "say what is wrong with this device, and what to do"
    )
    add_device(parser)
    add_json(parser, "a line of JSON per finding")


def _run(options: argparse.Namespace) -> int:
    """Look at runtime, state folder, clock, model, disk, memory, registry and
    signatures. The exit code is 3 when there is a problem.

    Examples:
    edgeline doctor --registry oci://registry.example/cells --root root.json --model solar-cells
    """
    from edgeline.device.doctor import examine

    log_to_stderr()
    code = 0
    for finding in examine(open_device(options)):
        if finding.level == "problem":
            code = 3
        if options.json:
            print_json(vars(finding))
        else:
            print(printable(f"{finding.level:<8} {finding.part:<11} {finding.text}"), flush=True)
    return code
