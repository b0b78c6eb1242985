"""Size and latency of every base, variant and input size; docs/training.md has a table of them.

    python -m benchmarks.bases [--bases densenet121 mobilenetv3small ...] [--sides 96 150 224]

Untrained, with a pooling head for two classes: what the weights are changes neither figure. A
latency is the median of one image on all cores, the variants of a base in turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
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


def main(arguments: Sequence[str] = ()) -> None:
    """Converts and measures; prints a row a base and input size, as they come."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bases")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--sides", nargs="+", type=int, default=[96, 150, 224])
    options = parser.parse_args(arguments)
    rows = []
    for base in options.bases:
        for side in options.sides:
            rows.append([base, side, *measure(base, side)])
            print(*rows[-1], sep="\t", flush=True)
    headers = ["base", "side", *(f"{variant}: MB, ms" for variant in VARIANTS)]
    print(tabulate(rows, headers=headers, tablefmt="github"))


def measure(base: str, side: int) -> list[str]:
    """Size and latency of each variant, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        saved_model = save("pool", Path(folder, "saved"), base=base, side=side)
        images = noise(CALIBRATION_IMAGES, side)
        made = rewrite(
            saved_model, Path(folder, "tflite"), VARIANTS, calibration=images, timeout=900
        )
        files = {model.variant: made.path(model) for model in made.models if not model.error}
        models = {name: _loaded(file, side) for name, file in files.items()}
        latencies = lab.latencies(models, side, side)
        found = []
        for model in made.models:
            if model.error:
                found.append(model.error)
            else:
                megabytes = (model.bytes or 0) / 1e6
                found.append(f"{megabytes:.1f}, {latencies[model.variant]:.1f}")
        return found


def _loaded(file: Path, side: int) -> PixelModel:
    return PixelModel(
        file.read_bytes(), height=side, width=side, classes=len(LABELS), num_threads=cores()
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(sys.argv[1:])
