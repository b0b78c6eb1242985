"""The folder beside a dataset in which it is made, and from which it takes its place whole.

.OUT.partial/
  lock              held while an ingest lives
  key               what the work is made from: a rerun with the same goes on with it
  units/ read/      the units of reading, and their outcomes; spool/ has bytes that they made
  plan/ written/    the shards to write, and their outcomes
  dataset/          becomes OUT
  replaced/         the OUT of before, for the moment between two renamings
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.dataset import REPORT_FILE, SPLITS
from pipeline.data.work import WorkerLostError
from pipeline.errors import UserError


@dataclass(frozen=True)
class Workshop:
    """The folder in which a dataset is made; all workers see it."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """What becomes the dataset's folder."""
        return self.folder / "dataset"

    @property
    def spool(self) -> Path:
        """Folder of the files with bytes that workers made."""
        return self.folder / "spool"

    @property
    def index(self) -> Path:
        """The file of the index."""
        return self.folder / "index.sqlite"

    @property
    def read_tally(self) -> Path:
        """Folder in which images that were read are counted."""
        return self.folder / "read-tally"

    @property
    def write_tally(self) -> Path:
        """Folder in which examples that were written are counted."""
        return self.folder / "write-tally"

    def unit(self, name: str) -> Path:
        """The file of a unit of reading."""
        return self.folder / "units" / f"{name}.jsonl"

    def outcome(self, unit: str) -> Path:
        """The rows that came of a unit of reading."""
        return self.folder / "read" / f"{unit}.jsonl"

    def plan(self, shard: str) -> Path:
        """The examples that belong in a shard."""
        return self.folder / "plan" / f"{shard}.jsonl"

    def written(self, shard: str) -> Path:
        """What came of writing a shard, as a whole."""
        return self.folder / "written" / f"{shard}.json"

    def places(self, shard: str) -> Path:
        """Where in a shard each example of its plan is."""
        return self.folder / "written" / f"{shard}.places.jsonl"

    def units(self) -> list[str]:
        """The names of the units of reading, in order."""
        return sorted(path.stem for path in (self.folder / "units").iterdir())

    def go_on(self, key: str) -> None:
        """Keeps what an ended ingest did, if it was made from the same; else forgets it.

        Args:
            key: a digest of what the work is made from.
        """
        noted = self.folder / "key"
        if not noted.is_file() or noted.read_text() != key:
            for name in ("read", "spool", "written", "dataset", "key"):
                _remove(self.folder / name)
        for name in ("read", "spool", "written", "dataset"):
            (self.folder / name).mkdir(exist_ok=True)
        for split in SPLITS:
            (self.dataset / split).mkdir(exist_ok=True)
        noted.write_text(key)
        for name in ("plan", "read-tally", "write-tally"):
            _remove(self.folder / name)
        (self.folder / "plan").mkdir()


@contextmanager
def open_workshop(out: Path) -> Iterator[Workshop]:
    """Makes the workshop of a dataset, or opens what a killed ingest left of it.

    It is removed in the end, also after a mistake of the user's; after an interruption it stays.

    Raises:
        UserError: another ingest is writing the same dataset.
    """
    folder = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is being written by another ingest: wait for it") from None
        _bring_back(folder, out)
        _remove(folder / "units")
        (folder / "units").mkdir()
        try:
            yield Workshop(folder)
        except WorkerLostError:
            raise
        except UserError:
            _remove(folder)
            raise
        else:
            _remove(folder)


def keep_times(workshop: Workshop, out: Path) -> None:
    """Gives the files the times of those that they replace, where the examples are the same.

    TFX takes a file of another time for another file, and would make every step anew. The report's
    is when these examples were first written.
    """
    _keep_time(workshop.dataset / REPORT_FILE, out / REPORT_FILE)
    for split in SPLITS:
        for file in (workshop.dataset / split).iterdir():
            _keep_time(file, out / split / file.name)


def _keep_time(file: Path, earlier: Path) -> None:
    if earlier.is_file():
        times = earlier.stat()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def take_place(workshop: Workshop, out: Path) -> None:
    """Puts the finished dataset where the one of before was."""
    if out.exists():
        out.replace(workshop.folder / "replaced")
    workshop.dataset.replace(out)


def _bring_back(folder: Path, out: Path) -> None:
    """Brings a dataset back whose replacement never arrived."""
    replaced = folder / "replaced"
    if replaced.exists() and not out.exists():
        replaced.replace(out)
    _remove(replaced)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
