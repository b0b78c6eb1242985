"""The process that does one part of the work. Started by `rewrite`.

python -m components.tflite_rewriter.worker TASK SAVED_MODEL WORK

TASK is what all variants have in common (`prepare`), what the integer ones have (`calibrate`), or a
variant. Only the first needs TensorFlow, which takes its time to load. WORK is a folder with the
images to calibrate with and, for `mixed`, to search by (see `rewrite`). A variant and the facts
about it appear in WORK/VARIANT, whole or not at all. What is written to stdout is how far it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.tflite_models import FRONTIER_FILE, MODEL_FILE
from components.tflite_rewriter.check import check
from components.tflite_rewriter.images import StoredPixels, load_label_ids
from components.tflite_rewriter.metadata import add_metadata
from components.tflite_rewriter.mixed import Evaluation, Found, search
from components.tflite_rewriter.recipes import (
    Ranges,
    calibrate,
    quantize,
    ranges_from_json,
    ranges_to_json,
)
from components.tflite_rewriter.rewrite import (
    CALIBRATE,
    CALIBRATION,
    EVALUATION,
    FACTS_FILE,
    PREPARE,
    SEARCH_FILE,
)
from components.tflite_rewriter.variants import VARIANTS, Recipe, SearchSettings
from components.trained_model import contract_path
from edgeline.contract import PreprocessingContract

# In WORK, for the other processes.
SINGLE_IMAGE = "single_image"
FLOAT_FILE = "float32.tflite"
RANGES_FILE = "ranges.json"
# What the float model says, beside the images that it says it of.
EXPECTED_FILE = "expected.npy"

# Compared with the float model. Not all: 16-bit activations run half a second an image.
CHECKED_IMAGES = 32
BATCH = 8  # images; larger ones are hardly faster and take more memory


def main(arguments: list[str]) -> None:
    """Does the task."""
    task, saved_model, work = arguments[0], Path(arguments[1]), Path(arguments[2])
    if task == PREPARE:
        _prepare(saved_model, work)
    elif task == CALIBRATE:
        pixels = StoredPixels(work / CALIBRATION)
        ranges = calibrate((work / FLOAT_FILE).read_bytes(), pixels)
        (work / RANGES_FILE).write_text(ranges_to_json(ranges))
    else:
        _make(task, saved_model, work)


def _prepare(saved_model: Path, work: Path) -> None:
    """Converts the float model, and asks it all that is to be asked."""
    import tensorflow as tf

    from components.tflite_rewriter.convert import to_float32

    loaded = tf.saved_model.load(str(saved_model))
    (work / FLOAT_FILE).write_bytes(to_float32(loaded, work / SINGLE_IMAGE))
    checked = StoredPixels(work / CALIBRATION).read(0, CHECKED_IMAGES)
    _ask(loaded, np.array_split(checked, range(BATCH, len(checked), BATCH)), work / CALIBRATION)
    if (work / EVALUATION).exists():
        _ask(loaded, StoredPixels(work / EVALUATION).batches(BATCH), work / EVALUATION)


def _ask(loaded: Any, batches: Iterable[NDArray[np.float32]], folder: Path) -> None:
    signature = loaded.signatures["pixels"]
    answers = [signature(pixels=b)["probabilities"].numpy() for b in batches]
    np.save(folder / EXPECTED_FILE, np.concatenate(answers))


def _make(variant: str, saved_model: Path, work: Path) -> None:
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    record, float32 = VARIANTS[variant], (work / FLOAT_FILE).read_bytes()
    needed = record.needs_ranges
    ranges = ranges_from_json((work / RANGES_FILE).read_text()) if needed else {}
    found = _search(float32, ranges, work) if record.searched else None
    model = found.model if found else quantize(float32, Recipe(variant), ranges)

    model = add_metadata(model, contract)
    expected = np.load(work / CALIBRATION / EXPECTED_FILE, allow_pickle=False)
    tried = StoredPixels(work / CALIBRATION).read(0, len(expected))
    recipe = found.recipe if found else None
    facts: dict[str, Any] = {
        "parity": asdict(check(model, variant, len(contract.labels), tried, expected, recipe))
    }
    files = {MODEL_FILE: model}
    if found:
        facts |= {"frontier": [asdict(point) for point in found.frontier], "note": found.note}
        files[FRONTIER_FILE] = (json.dumps(found.trials, indent=2) + "\n").encode()
    _write(work / variant, {**files, FACTS_FILE: json.dumps(facts).encode()})


def _search(float32: bytes, ranges: Ranges, work: Path) -> Found:
    folder = work / EVALUATION
    evaluation = Evaluation(
        StoredPixels(folder),
        load_label_ids(folder),
        np.load(folder / EXPECTED_FILE, allow_pickle=False),
    )
    settings = SearchSettings.from_json((work / SEARCH_FILE).read_text())
    return search(float32, ranges, evaluation, settings, _say)


def _say(progress: str) -> None:
    print(progress, flush=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    for name, content in files.items():
        (partial / name).write_bytes(content)
    partial.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
