"""Work with a model in a process of its own: it may crash, hang or eat memory there.

A request goes in as JSON, an answer comes out as a line of JSON. Whatever becomes of the child, the
device's own process goes on.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeline.errors import DeviceError, EdgelineError
from edgeline.runtime.memory import available_memory

_LEAST_MEMORY = 256 << 20  # bytes that a child may always ask for, were it to be killed for it
_MAX_SAID = 2000  # characters of a child's output that are shown


class ChildError(Exception):
    """The work failed, or its process did. Its text says why, in one line."""

    passing = False  # whether it may be the device's fault, at this moment


class OverloadedError(ChildError):
    """The child ran out of time or memory, which another time may be there."""

    passing = True


def ask_child(
    module: str, request: Mapping[str, Any], *, folder: Path, seconds: float
) -> dict[str, Any]:
    """Have a child do what `answer_parent` of a module's `main` is given, and return its answer.

    Args:
        module: The module.
        request: What JSON can hold.
        folder: Where the child works.
        seconds: How long it may take.

    Raises:
        ChildError: it failed, crashed, or took too long.
        DeviceError: no process can be started.
    """
    done = _run(module, json.dumps({**request, "seconds": seconds}), folder, seconds)
    if done.returncode == -signal.SIGKILL:
        raise OverloadedError("it was killed here, as the kernel does when memory runs out")
    if done.returncode < 0:
        raise ChildError(f"it crashed here ({_signal(-done.returncode)}){_said(done.stderr)}")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        error, short = answer.pop("error"), answer.pop("out_of_memory", False)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ChildError(
            f"it ended its process here with exit code {done.returncode}{_said(done.stderr)}"
        ) from None
    if error is not None:
        kind = OverloadedError if short else ChildError
        raise kind(" ".join(str(error).split())[:_MAX_SAID])
    return dict(answer)


def answer_parent(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Be the child: read the request, do the work, and print the answer."""
    request = json.loads(sys.stdin.read())
    # A child whose parent was killed must not stay.
    signal.alarm(int(request["seconds"]) + 1)
    _be_the_first_to_go()
    try:
        answer = {"error": None, **work(request)}
    except MemoryError:
        answer = {"error": "there is not enough memory for it", "out_of_memory": True}
    except EdgelineError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)


def _be_the_first_to_go() -> None:
    """Have the kernel kill this process before any other of the device when memory runs out."""
    with suppress(OSError):  # not on Linux, or not allowed: then it picks by size
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would fill the disk
    available = available_memory()
    if available is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = max(available, _LEAST_MEMORY)
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _run(
    module: str, request: str, folder: Path, seconds: float
) -> "subprocess.CompletedProcess[str]":
    package = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, inherited])),
    }
    try:
        return subprocess.run(
            [sys.executable, "-c", f"from {module} import main; main()"],
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
        raise OverloadedError(f"it hangs here: not ready after {seconds:.0f} seconds") from None
    except OSError as error:
        raise DeviceError(
            f"No process can be started to run the model in: {error.strerror}. "
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
