"""The process that does one part of the work. Started by `rewrite`.

python -m components.tflite_rewriter.worker TASK SAVED_MODEL WORK MAX_DROP

TASK is what all variants have in common (`prepare`), what the int8 ones have (`calibrate`), or a
variant. WORK is a folder with the images to calibrate with and, for `int8_selective`, to tune by
(see `rewrite`). A variant and the facts about it appear in WORK/VARIANT, whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.tflite_models import MODEL_FILE, KeptLayer
from components.tflite_rewriter.check import check
from components.tflite_rewriter.convert import calibrate, convert, quantize, save_single_image
from components.tflite_rewriter.images import StoredPixels, load_label_ids
from components.tflite_rewriter.metadata import add_metadata
from components.tflite_rewriter.rewrite import (
    CALIBRATE,
    CALIBRATION,
    EVALUATION,
    FACTS_FILE,
    FROM_CALIBRATED,
    PREPARE,
)
from components.tflite_rewriter.selective import (
    DEBUGGED_IMAGES,
    Evaluation,
    Selective,
    quantize_selectively,
)
from components.trained_model import contract_path
from edgeline.contract import PreprocessingContract

# In WORK, for the other processes.
SINGLE_IMAGE = "single_image"
CALIBRATED_FILE = "calibrated.tflite"
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
        (work / CALIBRATED_FILE).write_bytes(calibrate(work / SINGLE_IMAGE, pixels))
    else:
        _make(task, saved_model, work, max_drop=float(arguments[3]))


def _prepare(saved_model: Path, work: Path) -> None:
    """Asks the float model all that is to be asked, and saves what is to be converted."""
    loaded = tf.saved_model.load(str(saved_model))
    save_single_image(loaded, work / SINGLE_IMAGE)
    checked = StoredPixels(work / CALIBRATION).read(0, CHECKED_IMAGES)
    _ask(loaded, np.array_split(checked, range(BATCH, len(checked), BATCH)), work / CALIBRATION)
    if (work / EVALUATION).exists():
        _ask(loaded, StoredPixels(work / EVALUATION).batches(BATCH), work / EVALUATION)


def _ask(loaded: Any, batches: Iterable[NDArray[np.float32]], folder: Path) -> None:
    signature = loaded.signatures["pixels"]
    answers = [signature(pixels=tf.constant(b))["probabilities"].numpy() for b in batches]
    np.save(folder / EXPECTED_FILE, np.concatenate(answers))


def _make(variant: str, saved_model: Path, work: Path, *, max_drop: float) -> None:
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    pixels = StoredPixels(work / CALIBRATION)
    kept: tuple[KeptLayer, ...] = ()
    note = ""
    if variant == "int8_selective":
        chosen = _quantize_selectively(work, pixels, max_drop)
        model, kept, note = chosen.model, chosen.kept_float, chosen.note
    elif variant in FROM_CALIBRATED:
        calibrated = (work / CALIBRATED_FILE).read_bytes()
        model = quantize(calibrated, integer_io=variant == "int8_io")
    else:
        model = convert(work / SINGLE_IMAGE, variant, pixels)

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


def _quantize_selectively(work: Path, pixels: StoredPixels, max_drop: float) -> Selective:
    folder = work / EVALUATION
    evaluation = Evaluation(
        StoredPixels(folder),
        load_label_ids(folder),
        np.load(folder / EXPECTED_FILE, allow_pickle=False),
    )
    calibrated = (work / CALIBRATED_FILE).read_bytes()
    return quantize_selectively(calibrated, pixels.read(0, DEBUGGED_IMAGES), evaluation, max_drop)


def _write(folder: Path, model: bytes, facts: dict[str, Any]) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    (partial / MODEL_FILE).write_bytes(model)
    (partial / FACTS_FILE).write_text(json.dumps(facts))
    partial.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
