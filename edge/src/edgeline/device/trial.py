"""Trying a model before it is served, in a process of its own: it may crash, hang or eat memory.

    seconds = try_model(files, contract, threads=4, benchmark=True)

The child loads the model as the device will, compares what it says of the golden images, and
measures how long it takes. Whatever becomes of the child, the device's own process goes on.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeline.device.state import CONTRACT_FILE, GOLDEN_FILE, MODEL_FILE
from edgeline.errors import DeviceError, EdgelineError

TRIAL_SECONDS = 120.0

_WARM_UPS = 2
_RUNS = 20
_BENCHMARK_SECONDS = 2.0
_MAX_SAID = 2000  # characters of a child's output that are shown


class TrialError(Exception):
    """The model is of no use here. Its text says why, in one line."""


def try_model(
    files: Mapping[str, Path],
    *,
    threads: int,
    benchmark: bool,
    seconds: float = TRIAL_SECONDS,
) -> float | None:
    """Load a model in a child process, check its golden pair, and measure it.

    Args:
        files: The paths of its files, by the names that `state` gives them.
        threads: Threads for one inference.
        benchmark: Whether to measure.
        seconds: How long it may take.

    Returns:
        The median of its inferences in seconds, if it was to be measured.

    Raises:
        TrialError: it failed.
        DeviceError: no process can be started.
    """
    request = {
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "threads": threads,
        "benchmark": benchmark,
        "seconds": seconds,
    }
    done = _run(json.dumps(request), files[MODEL_FILE].parent, seconds)
    if done.returncode < 0:
        raise TrialError(f"it crashed here ({_signal(-done.returncode)}){_said(done.stderr)}")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        error, median = answer["error"], answer["seconds"]
    except (LookupError, TypeError, ValueError):
        raise TrialError(
            f"it ended its process here with exit code {done.returncode}{_said(done.stderr)}"
        ) from None
    if error is not None:
        raise TrialError(" ".join(str(error).split())[:_MAX_SAID])
    return None if median is None else float(median)


def main() -> None:
    """Be the child: read a request, try the model, and print an answer as one line of JSON."""
    request = json.loads(sys.stdin.read())
    # A child whose parent was killed must not stay.
    signal.alarm(int(request["seconds"]) + 1)
    answer: dict[str, Any] = {"error": None, "seconds": None}
    try:
        answer["seconds"] = _try(request)
    except (EdgelineError, MemoryError) as error:
        answer["error"] = str(error) or "there is not enough memory for it"
    print(json.dumps(answer), flush=True)


def _try(request: Mapping[str, Any]) -> float | None:
    from edgeline import golden
    from edgeline.contract import PreprocessingContract
    from edgeline.runtime.interpreter import PixelModel

    files = {name: Path(path) for name, path in request["files"].items()}
    contract = PreprocessingContract.from_json(files[CONTRACT_FILE].read_bytes())
    model = PixelModel(
        files[MODEL_FILE].read_bytes(),
        height=contract.height,
        width=contract.width,
        classes=len(contract.labels),
        num_threads=request["threads"],
    )
    if GOLDEN_FILE in files:
        pair = golden.Golden.from_json(files[GOLDEN_FILE].read_bytes())
        golden.check(model, contract, pair)
    return _median_seconds(model, contract.height, contract.width, measure=request["benchmark"])


def _median_seconds(model: Any, height: int, width: int, *, measure: bool) -> float | None:
    """Run the model on an image of noise; without a golden pair that alone is a trial."""
    import statistics
    import time

    import numpy as np

    pixels = np.random.default_rng(0).random((height, width, 3), np.float32)
    for _ in range(_WARM_UPS if measure else 1):
        model(pixels)
    if not measure:
        return None
    end = time.perf_counter() + _BENCHMARK_SECONDS
    taken: list[float] = []
    while len(taken) < _RUNS and (not taken or time.perf_counter() < end):
        started = time.perf_counter()
        model(pixels)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _run(request: str, folder: Path, seconds: float) -> "subprocess.CompletedProcess[str]":
    package = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, inherited])),
    }
    try:
        return subprocess.run(
            [sys.executable, "-c", "from edgeline.device.trial import main; main()"],
            input=request,
            capture_output=True,
            text=True,
            errors="replace",
            # With -c, Python looks for modules in the working directory first.
            cwd=folder,
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrialError(f"it hangs here: not ready after {seconds:.0f} seconds") from None
    except OSError as error:
        raise DeviceError(
            f"No process can be started to try the model in: {error.strerror}. "
            "Free some memory, or restart the device"
        ) from None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _said(stderr: str) -> str:
    """Return the last thing that a child said, for the end of a message."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return f": {lines[-1][:_MAX_SAID]}" if lines else ""
