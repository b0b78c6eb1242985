"""`edgeline benchmark`: how fast the variants of a release are on this device."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from edgeline.cli.device_options import add_device, log_to_stderr, open_device
from edgeline.cli.options import add_command, add_json, at_least
from edgeline.cli.output import megabytes, note, print_json, print_table, printable

if TYPE_CHECKING:
    from edgeline.device.bench import Figures

_HEADER = ("VARIANT", "THREADS", "P50", "P95", "P99", "FIRST", "LOAD", "MEMORY", "SIZE")


def add_benchmark(commands: Any) -> None:
    parser = add_command(
        commands, "benchmark", _run, "measure the variants of a release on this device"
    )
    add_device(parser)
    parser.add_argument(
        "--variant", metavar="NAMES", help="only these, with commas between them; default: all"
    )
    parser.add_argument(
        "--threads",
        type=_numbers,
        metavar="NUMBERS",
        help="threads per inference, several with commas; default: one per core, at most 4",
    )
    parser.add_argument(
        "--runs", type=at_least(1), default=50, metavar="N", help="inferences, default: 50"
    )
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    """Measure the variants of the release that a channel serves, each in a process
    of its own: latencies, the first inference, and the memory of the whole process.

    Examples:
    edgeline benchmark --registry oci://registry.example/cells --root root.json --model solar-cells
    edgeline benchmark --registry registry --model solar-cells --threads 1,2,4 --json
    """
    from edgeline.device.bench import measure
    from edgeline.device.selection import device_name, parse_preference, runtime_version

    log_to_stderr()
    threads = options.threads
    options.threads = None
    device = open_device(options)
    about: dict[str, Any] = {"device": device_name(), "runtime": runtime_version()}
    figures: list[Figures] = []
    variants = parse_preference(options.variant) if options.variant else ()
    for release, found in measure(device, variants, threads or [device.num_threads], options.runs):
        about |= {"model": release.model, "version": release.version, "digest": release.digest}
        figures.append(found)
        if found.error is not None:
            note(f"{found.variant}: {found.error}")
    document = {**about, "figures": [vars(each) for each in figures]}
    if options.json:
        print_json(document)
    else:
        print(printable(f"{about['device']}; ai-edge-litert {about['runtime']}"))
        rows = [_HEADER, *(_row(each) for each in figures if each.error is None)]
        print_table(rows, right=range(1, len(_HEADER)))
    return 3 if any(each.error is not None for each in figures) else 0


def _row(each: "Figures") -> tuple[str, ...]:
    times = (each.p50, each.p95, each.p99, each.first, each.load)
    return (
        each.variant,
        str(each.threads),
        *(f"{seconds * 1e3:.2f} ms" for seconds in times),
        megabytes(each.memory),
        megabytes(each.size),
    )


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    cores = os.cpu_count() or 1
    if not all(0 < number <= 4 * cores for number in numbers):
        raise argparse.ArgumentTypeError(f"expected numbers from 1 to {4 * cores}, got {text}")
    return numbers
