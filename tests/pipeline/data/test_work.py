"""The workers of an ingest."""

import resource
from functools import partial
from pathlib import Path

from pipeline.data.work import THIS_MACHINE, workers

ROUNDS = 50
# Of a photo of 400x300: its file, Pillow's pixels, bytes of these in pieces and whole, its grey.
SIZES = (40_000, 480_000, 360_000, 360_000, 120_000)


def test_workers_keep_the_memory_of_an_image_for_the_next_one(tmp_path: Path) -> None:
    names = [str(number) for number in range(4)]
    with workers(THIS_MACHINE) as run:
        assert sorted(run(partial(_count_page_faults, tmp_path), names)) == names
    faults = [int((tmp_path / name).read_text()) for name in names]
    # A photo's pages each time would be more than a hundred a round.
    assert max(faults) < 10 * ROUNDS, faults


def _count_page_faults(folder: Path, name: str) -> None:
    before = _page_faults()
    for _ in range(ROUNDS):
        [b"\1" * size for size in SIZES]
    (folder / name).write_text(str(_page_faults() - before))


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
