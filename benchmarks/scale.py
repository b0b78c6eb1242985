"""How ingest scales: time and memory for many photos, and beside bare decoding and hashing.

Runs on photos that it makes: `python -m benchmarks.scale --images 25000 100000`. Promised: ingest
is at least 0.8 times as fast as bare processes that read, decode and hash the same files on all
cores; for four times the images it takes at most 4.4 times as long, and 1.2 times the memory. The
memory is that of the process and all its children, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from tabulate import tabulate

from pipeline.data.near_duplicates import perceptual_hash

CLASSES = 100
AT_ONCE = 500  # photos
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    peak_mb: float


def main(arguments: Sequence[str] = ()) -> None:
    """Prints the table, for the numbers of images and the size that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--images", type=int, nargs="+", default=[2_500, 10_000])
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240], help="pixels")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for images in options.images:
            photos = Path(scratch) / f"photos-{images}"
            make_photos(photos, images, tuple(options.size))
            ingest = [sys.executable, "-m", "pipeline", "ingest", str(photos)]
            cost = measured([*ingest, f"{scratch}/dataset-{images}"])
            bare = bare_seconds(photos)
            rows.append([images, cost.seconds, bare, bare / cost.seconds, cost.peak_mb])
    headers = ["images", "ingest s", "bare s", "bare / ingest", "peak MB"]
    print(tabulate(rows, headers, floatfmt=".2f"))
    if len(rows) > 1:
        (_, first, *_, small), (_, last, *_, large) = rows[0], rows[-1]
        print(
            f"{rows[-1][0] / rows[0][0]:.1f} times the images: {last / first:.2f} times as long, "
            f"{large / small:.2f} times the memory"
        )


def make_photos(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Writes JPEGs of a size in pixels (width, height), in class folders; no two are alike."""
    for number in range(CLASSES):
        (folder / f"class-{number:03}").mkdir(parents=True)
    starts = range(0, images, AT_ONCE)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = [(folder, first, min(AT_ONCE, images - first), size) for first in starts]
        list(pool.map(_make_some, parts))


def _make_some(part: tuple[Path, int, int, tuple[int, int]]) -> None:
    folder, first, images, size = part
    random = np.random.default_rng(first)
    for number in range(first, first + images):
        cells = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"class-{number % CLASSES:03}" / f"{number:07}.jpg", quality=90)


def bare_seconds(photos: Path) -> float:
    """Seconds for reading, decoding and hashing the photos in processes, and nothing else."""
    files = [str(path) for path in sorted(photos.glob("*/*"))]
    started = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = [files[first : first + AT_ONCE] for first in range(0, len(files), AT_ONCE)]
        assert sum(pool.map(_decode_and_hash, parts)) == len(files)
    return time.monotonic() - started


def _decode_and_hash(files: Sequence[str]) -> int:
    for file in files:
        data = Path(file).read_bytes()
        hashlib.sha256(data).digest()
        with Image.open(io.BytesIO(data)) as image:
            hashlib.sha256(image.tobytes()).digest()
            perceptual_hash(image)
    return len(files)


def measured(command: Sequence[str]) -> Cost:
    """Runs a command; its seconds, and the peak of the resident memory of all its processes."""
    started = time.monotonic()
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(root))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.monotonic() - started, peak / 1e6)


def _resident(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.Error:
        pass  # one ended meanwhile: the next sample has the others
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
