"""Size and latency of every base, variant and input size; docs/training.md has a table of them.

    python -m benchmarks.bases [--bases densenet121 mobilenetv3small ...] [--sides 96 150 224]

Untrained, with a pooling head for two classes: what the weights are changes neither figure. A
latency is the median of one image on all cores, the variants of a base in turns.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmarks.model_sizes import LABELS, noise, save
from components.tflite_rewriter.rewrite import rewrite
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import cores
from pipeline.search import lab
from pipeline.training.bases import BASES

VARIANTS = ("float32", "float16", "dynamic", "int8", "weight_int4")
CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Measured:
    """A variant's file in MB, and the median of one image in ms; NaN where there is none."""

    megabytes: float
    milliseconds: float


def main(arguments: Sequence[str] = ()) -> None:
    """Converts and measures; prints a row a base, as they come, and then two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bases")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--sides", nargs="+", type=int, default=[96, 150, 224])
    options = parser.parse_args(arguments)
    sizes, latencies = [], []
    for base in options.bases:
        found = [measure(base, side) for side in options.sides]
        # An input size changes a file by some hundred bytes.
        sizes.append([base, *(f"{found[0][name].megabytes:.1f}" for name in VARIANTS)])
        cells = [", ".join(f"{each[name].milliseconds:.1f}" for each in found) for name in VARIANTS]
        latencies.append([base, *cells])
        print(*sizes[-1], *cells, sep="\t", flush=True)
    sides = ", ".join(map(str, options.sides))
    for title, rows in (("MB", sizes), (f"ms at {sides} px", latencies)):
        print(f"\n{title}\n", tabulate(rows, ["base", *VARIANTS], tablefmt="github"), sep="\n")


def measure(base: str, side: int) -> dict[str, Measured]:
    """Makes each variant of a base and times it; says why on stderr where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        saved_model = save("pool", Path(folder, "saved"), base=base, side=side)
        images = noise(CALIBRATION_IMAGES, side)
        made = rewrite(
            saved_model, Path(folder, "tflite"), VARIANTS, calibration=images, timeout=900
        )
        files = {model.variant: made.path(model) for model in made.models if not model.error}
        models = {name: _loaded(file, side) for name, file in files.items()}
        latencies = lab.latencies(models, side, side)
    for model in made.models:
        if model.error:
            print(f"{base} at {side}, {model.variant}: {model.error}", file=sys.stderr)
    return {
        model.variant: Measured(
            math.nan if model.error else (model.bytes or 0) / 1e6,
            latencies.get(model.variant, math.nan),
        )
        for model in made.models
    }


def _loaded(file: Path, side: int) -> PixelModel:
    return PixelModel(
        file.read_bytes(), height=side, width=side, classes=len(LABELS), num_threads=cores()
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(sys.argv[1:])
