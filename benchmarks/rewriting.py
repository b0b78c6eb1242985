"""How long making all standard variants takes, and how much memory.

    python -m benchmarks.rewriting [--variants float32 float16 ...]

DenseNet121 with a pooling head at 150x150, two classes; all variants but `mixed`, whose search
takes what it is given. Promised: at most 1.5 times the seconds of float32 alone and calibration,
made in the same run; under 3 GB with every process counted; float16 under 14.3 MB and int8 under
7.6 MB. Seconds of the processors stand beside those of the clock: they depend less on what else
runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import psutil
from tabulate import tabulate

from benchmarks.model_sizes import noise, save
from components.tflite_models import TFLiteModelsFolder
from components.tflite_rewriter.recipes import calibrate
from components.tflite_rewriter.rewrite import rewrite
from components.tflite_rewriter.variants import VARIANTS

STANDARD = tuple(name for name, variant in VARIANTS.items() if not variant.searched)
CALIBRATION_IMAGES = 200
TIMEOUT = 900  # s
MAX_RATIO = 1.5  # to float32 alone and the calibration
MAX_MEMORY = 3e9  # bytes
MAX_MB = {"float16": 14.3, "int8": 7.6}

T = TypeVar("T")


def main(arguments: Sequence[str] = ()) -> None:
    """Rewrites an untrained model; prints what it took, and whether that is as promised."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rewriting")
    parser.add_argument("--variants", nargs="+", choices=STANDARD, default=list(STANDARD))
    variants = parser.parse_args(arguments).variants
    with tempfile.TemporaryDirectory() as folder:
        saved_model = save("pool", Path(folder, "saved"))
        images = noise(CALIBRATION_IMAGES)

        def made(name: str, variants: Sequence[str]) -> TFLiteModelsFolder:
            output = Path(folder, name)
            return rewrite(saved_model, output, variants, calibration=images, timeout=TIMEOUT)

        alone, *float32_took = _timed(lambda: made("alone", ["float32"]))
        content = alone.path(alone.models[0]).read_bytes()
        pixels = np.concatenate([batch for batch, _ in images.batches])
        _, *calibration_took = _timed(lambda: calibrate(content, pixels))
        with PeakMemory() as memory:
            models, *all_took = _timed(lambda: made("all", variants))
    rows = [
        [model.variant, f"{(model.bytes or 0) / 1e6:.2f} MB", f"{model.seconds:.0f} s", model.error]
        for model in models.models
    ]
    print(tabulate(rows, headers=["variant", "", "clock", ""], tablefmt="plain"), end="\n\n")
    ratios = [a / (f + c) for a, f, c in zip(all_took, float32_took, calibration_took, strict=True)]
    took = {
        "float32 alone": float32_took,
        f"calibration, {CALIBRATION_IMAGES} images": calibration_took,
        f"all {len(variants)}": all_took,
    }
    rows = [[what, *(f"{seconds:.0f} s" for seconds in both)] for what, both in took.items()]
    rows.append(["all, against both", *(f"{ratio:.2f}" for ratio in ratios)])
    print(tabulate(rows, headers=["", "clock", "processors"], tablefmt="plain"), end="\n\n")
    sizes = {model.variant: (model.bytes or 0) / 1e6 for model in models.models}
    bars = [
        ("against both, by the clock", ratios[0], MAX_RATIO, ""),
        ("most memory at once", memory.peak / 1e9, MAX_MEMORY / 1e9, " GB"),
        *((name, sizes[name], most, " MB") for name, most in MAX_MB.items() if name in sizes),
    ]
    rows = [
        [what, f"{value:.2f}{unit}", f"{most:g}{unit}", "holds" if value <= most else "BROKEN"]
        for what, value, most, unit in bars
    ]
    print(tabulate(rows, headers=["promised", "", "at most", ""], tablefmt="plain"))


def _timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """What work returns, and its seconds: of the clock, and of all processors."""
    clock, before = time.monotonic(), os.times()
    result = work()
    after = os.times()
    # In user and in system mode, of this process and of the children that ended.
    return result, time.monotonic() - clock, sum(after[:4]) - sum(before[:4])


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


if __name__ == "__main__":
    main(sys.argv[1:])
