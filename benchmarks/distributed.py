"""Ingest on a Dask cluster of two workers, one of which is killed in the middle.

    python -m benchmarks.distributed [--images 25000 100000]

Promised: the dataset is that of one machine, byte for byte, and the memory of scheduler, workers
and client does not grow with the number of photos: at most 1.2 times from 25,000 to 100,000.
Scheduler and workers are processes of their own, on loopback.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tabulate import tabulate

from benchmarks.photos import Photos, write_photos
from benchmarks.scale import Sampler, sampled
from pipeline.data.dataset import REPORT_FILE

WORKERS = 2
MOST_GROWTH = 1.2  # of a peak, from the first number of photos to the last
PATIENCE_SECONDS = 60.0  # for a process that starts


def main(arguments: Sequence[str] = ()) -> None:
    """Ingests each number of photos on a cluster and on this machine; prints a table of peaks.

    Raises:
        SystemExit: an ingest failed, the datasets differ, or a peak grew by more than is promised.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed")
    parser.add_argument("--images", type=int, nargs="+", default=[25_000, 100_000])
    options = parser.parse_args(arguments)
    peaks = [measure(count) for count in options.images]
    first, last = peaks[0], peaks[-1]
    rows = [
        [role, *(f"{of[role] / 1e6:,.0f}" for of in peaks), f"{last[role] / first[role]:.2f}"]
        for role in first
    ]
    headers = ["peak in MB", *(f"{count:,}" for count in options.images), "ratio"]
    print(tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True), flush=True)
    if grown := [role for role in first if last[role] > MOST_GROWTH * first[role]]:
        raise SystemExit(f"more than {MOST_GROWTH} times as much memory: {', '.join(grown)}")


def measure(count: int) -> dict[str, int]:
    """Peaks of memory, in bytes, by role."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = write_photos(Photos(count), folder / "photos")
        with ExitStack() as stack:
            address_file = folder / "scheduler.json"
            scheduler = stack.enter_context(
                running(
                    "dask_scheduler",
                    "--host=127.0.0.1",
                    "--port=0",
                    "--no-dashboard",
                    f"--scheduler-file={address_file}",
                )
            )
            wait_until(address_file.is_file)
            address = json.loads(address_file.read_text())["address"]
            workers = [
                stack.enter_context(
                    running(
                        "dask_worker",
                        address,
                        "--nthreads=1",
                        "--no-nanny",
                        "--no-dashboard",
                        f"--local-directory={folder}",
                    )
                )
                for _ in range(WORKERS)
            ]
            started = time.monotonic()
            client = ingest(photos, folder / "there", "--dask", address)
            watched = {"client": client, "scheduler": scheduler, "worker": workers[1]}
            samplers = {
                role: stack.enter_context(sampled(process.pid)) for role, process in watched.items()
            }
            killer = threading.Thread(
                target=kill_half_way, args=(workers[0], folder / ".there.partial", client)
            )
            killer.start()
            if client.wait():
                raise SystemExit("the ingest on the cluster failed")
            killer.join()
            if workers[0].poll() is None:
                raise SystemExit("no worker was killed: it was over before half of it was seen")
            seconds = time.monotonic() - started
            peaks = {role: peak(sampler) for role, sampler in samplers.items()}
        if ingest(photos, folder / "here").wait():
            raise SystemExit("the ingest on this machine failed")
        same = contents(folder / "here") == contents(folder / "there")
        print(
            f"{count:,} photos: {seconds:.0f} s, with a worker killed; the dataset is "
            f"{'that of this machine' if same else 'ANOTHER than this machine makes'}",
            flush=True,
        )
        if not same:
            raise SystemExit(1)
        return peaks


def ingest(photos: Path, out: Path, *engine: str) -> subprocess.Popen[bytes]:
    """Starts an ingest."""
    command = [sys.executable, "-m", "pipeline", "ingest", str(photos), str(out), *engine]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program of Dask's until the end of the block."""
    command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def kill_half_way(
    worker: subprocess.Popen[bytes], workshop: Path, client: subprocess.Popen[bytes]
) -> None:
    """Kills a worker as soon as half of the units of photos are read, if the ingest lives."""
    while client.poll() is None:
        units = len(list(workshop.glob("units/*")))
        if 0 < units <= 2 * len(list(workshop.glob("read/*.jsonl"))):
            worker.kill()
            return
        time.sleep(0.1)


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until something holds, at most a minute.

    Raises:
        SystemExit: it does not by then.
    """
    for _ in range(int(PATIENCE_SECONDS * 10)):
        if holds():
            return
        time.sleep(0.1)
    raise SystemExit(f"waited for {PATIENCE_SECONDS:.0f} s in vain")


def peak(sampler: Sampler) -> int:
    """The largest resident memory that was seen."""
    return max(usage.peak for usage in sampler.usages().values())


def contents(folder: Path) -> Mapping[str, bytes]:
    """The files of a dataset but for the report, which says where its photos were."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != REPORT_FILE
    }


if __name__ == "__main__":
    main(sys.argv[1:])
