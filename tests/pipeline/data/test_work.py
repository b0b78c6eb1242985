"""The workers of an ingest."""

import os
import subprocess
import sys
from pathlib import Path

from tests.pipeline.data.page_faults import ROUNDS

ROOT = Path(__file__).parents[3]


def test_workers_keep_the_memory_of_an_image_for_the_next_one(tmp_path: Path) -> None:
    # A process of its own: what workers run must be importable, whatever pytest did to the path.
    command = [sys.executable, "-m", "tests.pipeline.data.page_faults", str(tmp_path)]
    # What a user sets for glibc wins; a Dask nanny in another test has set it for this process.
    environment = {name: text for name, text in os.environ.items() if "MALLOC_" not in name}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    faults = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert len(faults) == 4
    # A photo's pages each time would be more than a hundred a round.
    assert max(faults) < 10 * ROUNDS, faults
