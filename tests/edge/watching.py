"""A device's process, which checks when it is asked to and predicts all the time.

    python -m tests.edge.watching LOCATION MODEL ROOT STATE

For each line of standard input it checks once, and writes a line of JSON: what came of it, and what
the process uses. Nothing but the device package is in it, so that what it uses is the package's.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np

from edgeline.device.bench import process_memory
from edgeline.device.update import Device
from edgeline.device.watch import Watcher
from edgeline.errors import NotFoundError
from edgeline.registry import transport

IMAGE = np.full((20, 30, 3), 128, np.uint8)


def main(location: str, model: str, root: str, state: str) -> None:
    # A registry that does not answer is asked several times; how long in between is no matter here.
    transport.BACKOFF_SECONDS = 0.001
    told: list[int] = []
    wrong: list[str] = []
    stop = threading.Event()
    watcher = Watcher(
        Device(location, model, root=Path(root).read_bytes(), state=Path(state)),
        on_update=lambda installed: told.append(installed.version),
    )

    def predict() -> None:
        while not stop.wait(0.002):
            try:
                watcher.predict(IMAGE)
            except NotFoundError:
                pass
            except Exception as error:
                wrong.append(repr(error))

    predicting = threading.Thread(target=predict)
    predicting.start()
    for _ in sys.stdin:
        watcher.check()
        gc.collect()
        found = {
            "told": told,
            "wrong": wrong,
            "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            "memory": process_memory()[0],
            "metrics": watcher.render_metrics(),
        }
        print(json.dumps(found), flush=True)
    stop.set()
    predicting.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
