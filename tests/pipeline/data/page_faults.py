"""Has an ingest's workers take and free memory as photos do, and writes their page faults.

python -m tests.pipeline.data.page_faults FOLDER
"""

import resource
import sys
from functools import partial
from pathlib import Path

from pipeline.data.work import THIS_MACHINE, workers

ROUNDS = 50
# Of a photo of 400x300: its file, Pillow's pixels, bytes of these in pieces and whole, its grey.
SIZES = (40_000, 480_000, 360_000, 360_000, 120_000)


def main(folder: Path) -> None:
    with workers(THIS_MACHINE) as run:
        for _ in run(partial(count, folder), [str(number) for number in range(4)]):
            pass


def count(folder: Path, name: str) -> None:
    """Writes to a file of this name how many page faults the rounds took."""
    before = _page_faults()
    for _ in range(ROUNDS):
        [b"\1" * size for size in SIZES]
    (folder / name).write_text(str(_page_faults() - before))


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main(Path(sys.argv[1]))
