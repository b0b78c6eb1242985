"""Measuring the variants of a release on this device, each in a process of its own.

What is measured is what `Classifier.predict` costs after an image was decoded: latencies in the
steady state, the first inference of a new process, and the memory that the process takes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline.device.child import ChildError, answer_parent, ask_child
from edgeline.device.state import MODEL_FILE

if TYPE_CHECKING:
    from edgeline.device.update import Device
    from edgeline.registry.reader import Release

_WARM_UPS = 3
_SECONDS = 600.0  # for one variant with one number of threads, at most


@dataclass(frozen=True)
class Figures:
    """What was measured of one variant with a number of threads. Seconds and bytes."""

    variant: str
    threads: int
    size: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    load: float = 0.0  # from the file's bytes to an interpreter
    first: float = 0.0  # the first inference, which also prepares the weights
    memory: int = 0  # resident, of the whole process
    peak: int = 0
    error: str | None = None  # why nothing was measured


def measure(
    device: "Device", variants: Sequence[str], threads: Sequence[int], runs: int
) -> Iterator[tuple["Release", Figures]]:
    """Measure variants of the release that the channel serves, and yield the figures as they come.

    Args:
        device: Where; what is missing is downloaded, and removed afterwards.
        variants: Which; none for every one.
        threads: Numbers of threads to measure each with.
        runs: Inferences to measure.

    Raises:
        EdgelineError: as `Device.update`.
    """
    for release, variant, files in device.lend(variants):
        for count in threads:
            yield release, _measure_one(files, variant.name, count, runs)


def _measure_one(files: Mapping[str, Path], variant: str, threads: int, runs: int) -> Figures:
    request = {
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "threads": threads,
        "runs": runs,
    }
    folder = files[MODEL_FILE].parent
    try:
        answer = ask_child(__name__, request, folder=folder, seconds=_SECONDS)
    except ChildError as error:
        return Figures(variant, threads, error=str(error))
    return Figures(variant, threads, **answer)


def main() -> None:
    """Be the child."""
    answer_parent(_measure)


def _measure(request: Mapping[str, Any]) -> Mapping[str, Any]:
    import numpy as np

    from edgeline.device.trial import load_files

    started = time.perf_counter()
    model, contract = load_files(request["files"], request["threads"])
    loaded = time.perf_counter()
    pixels = np.random.default_rng(0).random((contract.height, contract.width, 3), np.float32)
    before = time.perf_counter()
    model(pixels)
    first = time.perf_counter() - before
    for _ in range(_WARM_UPS):
        model(pixels)
    taken = []
    for _ in range(request["runs"]):
        before = time.perf_counter()
        model(pixels)
        taken.append(time.perf_counter() - before)
    p50, p95, p99 = np.percentile(taken, [50, 95, 99]).tolist()
    memory, peak = process_memory()
    return {
        "size": Path(request["files"][MODEL_FILE]).stat().st_size,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "load": loaded - started,
        "first": first,
        "memory": memory,
        "peak": peak,
    }


def process_memory() -> tuple[int, int]:
    """Return how many bytes of memory this process has now, and had at most; 0 if unknown."""
    values = {"VmRSS": 0, "VmHWM": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in values:
                values[name] = int(value.split()[0]) << 10
    except OSError:
        pass
    return values["VmRSS"], values["VmHWM"]
