"""How long making five variants takes, and how much memory.

DenseNet121 with a pooling head at 150x150, two classes. Promised: under 4 GB with every process
counted; float16 under 14.3 MB and int8 under 7.6 MB.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil
from tabulate import tabulate

from benchmarks.model_sizes import noise, save
from components.tflite_rewriter.rewrite import rewrite

VARIANTS = ("float32", "float16", "dynamic", "int8", "int8_io")
CALIBRATION_IMAGES = 200


def main() -> None:
    """Rewrites an untrained model and prints what each variant and all of them took."""
    with tempfile.TemporaryDirectory() as folder:
        saved_model = save("pool", Path(folder) / "saved")
        images = noise(CALIBRATION_IMAGES)
        started = time.monotonic()
        with PeakMemory() as memory:
            output = Path(folder) / "tflite"
            models = rewrite(saved_model, output, VARIANTS, calibration=images, timeout=900).models
        seconds = time.monotonic() - started
    for model in models:
        if model.error:
            print(f"{model.variant}: {model.error}")
    rows = [
        [model.variant, f"{(model.bytes or 0) / 1e6:.2f} MB", f"{model.seconds:.0f} s"]
        for model in models
    ]
    rows.append(["all", "", f"{seconds:.0f} s"])
    rows.append(["most memory at once", f"{memory.peak / 1e9:.2f} GB", ""])
    print(tabulate(rows, headers=["variant", "", ""], tablefmt="plain"))


class PeakMemory:
    """The most memory that this process and its children held at once, in bytes.

    What they share, such as TensorFlow's code, is counted each time: an upper bound.
    """

    INTERVAL = 0.2  # s

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._done.wait(self.INTERVAL):
            held = [_resident(process) for process in (own, *own.children(recursive=True))]
            self.peak = max(self.peak, sum(held))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
