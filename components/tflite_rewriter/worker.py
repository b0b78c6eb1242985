"""The process that makes one variant: converts, adds metadata, checks. Started by `rewrite`.

python -m components.tflite_rewriter.worker SAVED_MODEL VARIANT WORK MAX_DROP

WORK is a folder with the images to calibrate with and, for `int8_selective`, to tune by (see
`rewrite`). The model and the facts about it appear in WORK/VARIANT, whole or not at all.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.tflite_models import MODEL_FILE, KeptLayer
from components.tflite_rewriter.check import check
from components.tflite_rewriter.convert import calibrate, convert
from components.tflite_rewriter.images import load_label_ids, load_pixels
from components.tflite_rewriter.metadata import add_metadata
from components.tflite_rewriter.rewrite import CALIBRATION, EVALUATION, FACTS_FILE
from components.tflite_rewriter.selective import Evaluation, quantize_selectively
from components.trained_model import contract_path
from edgeline.contract import PreprocessingContract

# Compared with the float model. Not all: 16-bit activations run half a second an image.
CHECKED_IMAGES = 32
BATCH = 32  # images


def main(arguments: list[str]) -> None:
    """Makes the variant."""
    saved_model, variant, work = Path(arguments[0]), arguments[1], Path(arguments[2])
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    loaded = tf.saved_model.load(str(saved_model))
    pixels = load_pixels(work / CALIBRATION)

    kept: tuple[KeptLayer, ...] = ()
    note = ""
    if variant == "int8_selective":
        evaluation = _evaluation(loaded, work / EVALUATION)
        calibrated = calibrate(loaded, pixels)
        chosen = quantize_selectively(calibrated, pixels, evaluation, float(arguments[3]))
        model, kept, note = chosen.model, chosen.kept_float, chosen.note
    else:
        model = convert(loaded, variant, pixels)

    model = add_metadata(model, contract)
    tried = pixels[:CHECKED_IMAGES]
    expected = _predict(loaded, tried)
    kept_names = [layer.name for layer in kept]
    parity = check(model, variant, len(contract.labels), tried, expected, kept_names)
    facts = {
        "parity": asdict(parity),
        "kept_float": [asdict(layer) for layer in kept],
        "note": note,
    }
    _write(work / variant, model, facts)


def _evaluation(loaded: Any, folder: Path) -> Evaluation:
    pixels = load_pixels(folder)
    return Evaluation(pixels, load_label_ids(folder), _predict(loaded, pixels))


def _predict(loaded: Any, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    signature = loaded.signatures["pixels"]
    starts = range(0, len(pixels), BATCH)
    batches = (tf.constant(pixels[start : start + BATCH]) for start in starts)
    return np.concatenate([signature(pixels=b)["probabilities"].numpy() for b in batches])


def _write(folder: Path, model: bytes, facts: dict[str, Any]) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    (partial / MODEL_FILE).write_bytes(model)
    (partial / FACTS_FILE).write_text(json.dumps(facts))
    partial.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
