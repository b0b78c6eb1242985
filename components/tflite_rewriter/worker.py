"""The process that does one part of the work. Started by `rewrite`.

python -m components.tflite_rewriter.worker TASK SAVED_MODEL WORK MAX_DROP

TASK is what all variants have in common (`prepare`), what the integer ones have (`calibrate`), or a
variant. Only the first needs TensorFlow, which takes its time to load. WORK is a folder with the
images to calibrate with and, for `int8_selective`, to tune by (see `rewrite`). A variant and the
facts about it appear in WORK/VARIANT, whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.tflite_models import MODEL_FILE, KeptLayer
from components.tflite_rewriter.check import check
from components.tflite_rewriter.images import StoredPixels, load_label_ids
from components.tflite_rewriter.metadata import add_metadata
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
)
from components.tflite_rewriter.selective import (
    COMPARED_IMAGES,
    Evaluation,
    Selective,
    quantize_selectively,
)
from components.tflite_rewriter.variants import VARIANTS
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
        _make(task, saved_model, work, max_drop=float(arguments[3]))


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


def _make(variant: str, saved_model: Path, work: Path, *, max_drop: float) -> None:
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    pixels = StoredPixels(work / CALIBRATION)
    kept: tuple[KeptLayer, ...] = ()
    note = ""
    record, float32 = VARIANTS[variant], (work / FLOAT_FILE).read_bytes()
    ranges = ranges_from_json((work / RANGES_FILE).read_text()) if record.integer else {}
    if record.searched:
        chosen = _quantize_selectively(float32, ranges, work, max_drop)
        model, kept, note = chosen.model, chosen.kept_float, chosen.note
    else:
        model = quantize(float32, record, ranges)

    model = add_metadata(model, contract)
    expected = np.load(work / CALIBRATION / EXPECTED_FILE, allow_pickle=False)
    tried = pixels.read(0, len(expected))
    kept_names = [layer.name for layer in kept]
    parity = check(model, variant, len(contract.labels), tried, expected, kept_names)
    facts = {
        "parity": asdict(parity),
        "kept_float": [asdict(layer) for layer in kept],
        "note": note,
    }
    _write(work / variant, model, facts)


def _quantize_selectively(float32: bytes, ranges: Ranges, work: Path, max_drop: float) -> Selective:
    folder = work / EVALUATION
    compared = StoredPixels(work / CALIBRATION).read(0, COMPARED_IMAGES)
    evaluation = Evaluation(
        StoredPixels(folder),
        load_label_ids(folder),
        np.load(folder / EXPECTED_FILE, allow_pickle=False),
    )
    return quantize_selectively(float32, ranges, compared, evaluation, max_drop)


def _write(folder: Path, model: bytes, facts: dict[str, Any]) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    (partial / MODEL_FILE).write_bytes(model)
    (partial / FACTS_FILE).write_text(json.dumps(facts))
    partial.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
