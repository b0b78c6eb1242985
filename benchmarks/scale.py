"""How memory and time of the ingest, and of a run's steps, grow with the number of images.

    python -m benchmarks.scale [--images 25000 100000] [--width 64] [--height 64] [--classes 2]
                               [--only-ingest]

Promised, of the small photos that are the default: from 25,000 to 100,000 the peak of the ingest
and of each step grows by at most 1.2 and stays under 3 GB (TFLiteRewriter: 4 GB), and ingest and
run take at most 4.4 times as long. Ingest is to be at least 0.8 times as fast as bare processes
that read, decode and hash the same files on all cores. Photos of
400x300 reach that, as the pixels are hashed by XXH3 here and by SHA-256 there; small photos are
decoded as fast as all else is done, and it is about 0.4 (docs/data.md says where the time goes).

A peak is the largest resident memory of the process tree, seen while the step ran. All steps but
the conversions share one process, so that a peak holds the libraries of all, and what an earlier
step left. Photos as large as a camera's web export are `--width 400 --height 300`: 40 KB each.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
from PIL import Image
from tabulate import tabulate

from benchmarks.photos import Photos, write_photos
from pipeline.data.perceptual_hash import perceptual_hash

AT_ONCE = 500  # photos
SAMPLE_SECONDS = 0.05
SHOWN_LINES = 20  # of a run that failed
SIDE = 32  # pixels that the network sees
WHOLE_RUN = "the run"
CONFIG = """\
name = "scale"

[data]
path = "dataset"

[image]
height = {side}
width = {side}

[trainer]
base_weights = "random"
epochs = 1
fine_tune_epochs = 0

[rewriter]
variants = ["float32"]

[gate]
min_accuracy = 0.0
require = ["float32"]
"""
_RUNNING = re.compile(r"^  (\w+) +running$")


@dataclass(frozen=True)
class Usage:
    """What a step took.

    Attributes:
        seconds: of wall time.
        peak: bytes of resident memory of the process tree.
        cpu: seconds of all its processes; NaN where that was not looked at.
    """

    seconds: float
    peak: int
    cpu: float = math.nan


def main(arguments: Sequence[str] = ()) -> None:
    """Runs the pipeline on each number of images; prints a table of the steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--images", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--only-ingest", action="store_true", help="leave the run out")
    options = parser.parse_args(arguments)
    used = []
    for count in options.images:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            made = Photos(count, options.classes, options.width, options.height)
            photos = write_photos(made, folder / "photos")
            os.sync()  # or the disk would be busy with the photos during what is measured first
            bare = [bare_usage(photos)]
            taken = {"ingest": ingest(photos, folder)}
            bare.append(bare_usage(photos))
            print(bare_line(count, taken["ingest"], bare), flush=True)
            used.append(taken if options.only_ingest else {**taken, **run_pipeline(folder)})
    print(steps_table(options.images, used), flush=True)


def ingest(photos: Path, folder: Path) -> Usage:
    """Ingests photos into `folder/dataset`; returns what that took."""
    command = [sys.executable, "-m", "pipeline", "ingest", str(photos), str(folder / "dataset")]
    started, cpu = time.monotonic(), children_cpu()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with sampled(process.pid) as sampler:
        process.wait()
    if process.returncode:
        raise SystemExit("the ingest failed")
    seconds = time.monotonic() - started
    return Usage(seconds, sampler.usages()["starting"].peak, children_cpu() - cpu)


def bare_line(count: int, taken: Usage, bare: Sequence[Usage]) -> str:
    """How an ingest compares with bare processes before and after it."""
    seconds = sum(usage.seconds for usage in bare) / len(bare)
    cpu = sum(usage.cpu for usage in bare) / len(bare)
    return (
        f"{count:,} images: ingest {seconds / taken.seconds:.2f} times as fast as bare decoding "
        f"and hashing ({', '.join(f'{usage.seconds:.1f}' for usage in bare)} s), "
        f"{cpu / taken.cpu:.2f} times by CPU time"
    )


def children_cpu() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def steps_table(images: Sequence[int], used: Sequence[Mapping[str, Usage]]) -> str:
    """A row a step: its peak and its time for each number of images, and the last by the first."""
    headers = ["step", *(f"{n:,}: MB" for n in images), "ratio", *(f"{n:,}: s" for n in images)]
    rows = []
    for step in used[0]:
        taken = [each[step] for each in used]
        peaks, seconds = [each.peak for each in taken], [each.seconds for each in taken]
        rows.append(
            [
                step,
                *(f"{peak / 1e6:,.0f}" for peak in peaks),
                f"{peaks[-1] / peaks[0]:.2f}",
                *(f"{each:.1f}" for each in seconds),
                f"{seconds[-1] / seconds[0]:.2f}",
            ]
        )
    return tabulate(rows, headers=[*headers, "ratio"], tablefmt="plain", disable_numparse=True)


def run_pipeline(folder: Path) -> dict[str, Usage]:
    """Runs all steps on `folder/dataset`; returns what each took, and the whole run.

    Raises:
        SystemExit: the run failed.
    """
    # Here, not above: the bare processes, whose time is measured, load this module.
    from pipeline.config import load_config
    from pipeline.demo import make_registry

    (folder / "scale.toml").write_text(CONFIG.format(side=SIDE))
    root = folder / "keys" / "root.json"
    settings = [f"registry.location={folder / 'registry'}", f"registry.root={root}"]
    make_registry(load_config(folder / "scale.toml", settings))
    command = [sys.executable, "-u", "-m", "pipeline", "run", "--config", "scale.toml"]
    command += [part for setting in settings for part in ("--set", setting)]
    started = time.monotonic()
    # As here, so that it is this code that runs.
    paths = os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    said: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        with sampled(process.pid) as sampler:
            for line in process.stdout:
                said.append(line)
                if found := _RUNNING.match(line.rstrip()):
                    sampler.enter(found[1])
    if process.returncode:
        raise SystemExit("".join(["the run failed:\n", *said[-SHOWN_LINES:]]))
    usages = sampler.usages()
    whole = Usage(time.monotonic() - started, max(usage.peak for usage in usages.values()))
    return {**usages, WHOLE_RUN: whole}


class Sampler:
    """Watches the memory of a process and its children, step by step."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._steps = [("starting", time.monotonic())]
        self._peaks = {"starting": 0}

    def enter(self, step: str) -> None:
        """Counts what follows for another step."""
        self._peaks[step] = self._resident()  # a short step may see no sample
        self._steps.append((step, time.monotonic()))

    def sample(self) -> None:
        """Looks once."""
        step, _ = self._steps[-1]
        self._peaks[step] = max(self._peaks[step], self._resident())

    def usages(self) -> dict[str, Usage]:
        """What each step took; the last of them until now."""
        ends = [*(started for _, started in self._steps[1:]), time.monotonic()]
        return {
            step: Usage(end - started, self._peaks[step])
            for (step, started), end in zip(self._steps, ends, strict=True)
        }

    def _resident(self) -> int:
        total = 0
        try:
            for process in (self._root, *self._root.children(recursive=True)):
                total += process.memory_info().rss
        except psutil.NoSuchProcess:
            # Ended meanwhile: what was seen of the others counts.
            pass
        return total


@contextmanager
def sampled(pid: int) -> Iterator[Sampler]:
    """Watches a process until the end of the block."""
    sampler = Sampler(pid)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            sampler.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sampler
    finally:
        done.set()
        thread.join()


def bare_usage(photos: Path) -> Usage:
    """What reading, decoding and hashing photos in processes takes, and nothing else."""
    files = [str(path) for path in sorted(photos.glob("*/*"))]
    started, cpu = time.monotonic(), children_cpu()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = [files[first : first + AT_ONCE] for first in range(0, len(files), AT_ONCE)]
        assert sum(pool.map(_decode_and_hash, parts)) == len(files)
    return Usage(time.monotonic() - started, 0, children_cpu() - cpu)


def _decode_and_hash(files: Sequence[str]) -> int:
    for file in files:
        data = Path(file).read_bytes()
        hashlib.sha256(data).digest()
        with Image.open(io.BytesIO(data)) as image:
            hashlib.sha256(image.tobytes()).digest()
            perceptual_hash(image)
    return len(files)


if __name__ == "__main__":
    main(sys.argv[1:])
