"""The process that does one part of the work. Started by `rewrite`.

python -m components.tflite_rewriter.worker TASK SAVED_MODEL WORK

TASK is what all variants have in common (`prepare`), what the integer ones have (`calibrate`), or a
variant. Only the first needs TensorFlow, which takes its time to load. WORK is a folder that says
which images to calibrate with and, for `mixed`, to search by (see `rewrite`). A variant and the
facts about it appear in WORK/VARIANT, whole or not at all. What is written to stdout is how far it
is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from components.feature_names import LABEL_ID
from components.settings_text import from_text
from components.tflite_models import FRONTIER_FILE, MODEL_FILE
from components.tflite_rewriter.check import INPUT, CheckError, check, read_ops
from components.tflite_rewriter.choose import ChosenImages
from components.tflite_rewriter.images import Images, StoredPixels, load_label_ids
from components.tflite_rewriter.layers import layer_errors
from components.tflite_rewriter.metadata import add_metadata
from components.tflite_rewriter.mixed import Evaluation, FoundRecipe, search
from components.tflite_rewriter.recipes import (
    Ranges,
    calibrate,
    quantize,
    ranges_from_json,
    ranges_to_json,
    whole,
)
from components.tflite_rewriter.rewrite import (
    CALIBRATE,
    CALIBRATION,
    EVALUATION,
    FACTS_FILE,
    PREPARE,
    REFUSED,
    SEARCH_FILE,
)
from components.tflite_rewriter.variants import VARIANTS, SearchSettings
from components.trained_model import contract_path
from edgeline.contract import PreprocessingContract
from edgeline.errors import ModelError

# In WORK, for the other processes.
SINGLE_IMAGE = "single_image"
FLOAT32 = "float32"
FLOAT_FILE = f"{FLOAT32}.tflite"
RANGES_FILE = "ranges.json"
# What the float model says, beside the images that it says it of.
EXPECTED_FILE = "expected.npy"

# Compared with the float model. Not all: 16-bit activations run half a second an image.
CHECKED_IMAGES = 32
COMPARED_IMAGES = 4  # layer by layer
BATCH = 8  # images; larger ones are hardly faster and take more memory
SECONDS_BETWEEN_LINES = 2.0

T = TypeVar("T")


def main(arguments: list[str]) -> None:
    """Does the task."""
    task, saved_model, work = arguments[0], Path(arguments[1]), Path(arguments[2])
    if task == PREPARE:
        _prepare(saved_model, work)
    elif task == CALIBRATE:
        pixels = StoredPixels(work / CALIBRATION)
        shown = _Shown("images run through the network", pixels, len(pixels))
        ranges = calibrate((work / FLOAT_FILE).read_bytes(), shown)
        (work / RANGES_FILE).write_text(ranges_to_json(ranges))
    else:
        _make(task, saved_model, work)


def _prepare(saved_model: Path, work: Path) -> None:
    """Makes pixels, converts the float model, and asks it all that is to be asked."""
    import tensorflow as tf

    from components.tflite_rewriter.convert import to_float32

    loaded = tf.saved_model.load(str(saved_model))
    folders = [folder for name in (CALIBRATION, EVALUATION) if (folder := work / name).exists()]
    for folder in folders:
        _decode(loaded, folder)
    (work / FLOAT_FILE).write_bytes(to_float32(loaded, work / SINGLE_IMAGE))
    for folder in folders:
        most = CHECKED_IMAGES // BATCH if folder.name == CALIBRATION else None
        _ask(loaded, folder, most)


def _decode(loaded: Any, folder: Path) -> None:
    """Makes pixels of the images that were chosen, where the folder has none yet."""
    import tensorflow as tf

    from components.saved_transform import transformed

    if chosen := ChosenImages.load(folder):
        examples = tf.data.Dataset.from_tensor_slices(chosen.records())
        batches = transformed(loaded, examples, BATCH)
        pairs = ((batch[INPUT].numpy(), batch[LABEL_ID].numpy()) for batch in batches)
        Images(chosen.image_ids, pairs).save(folder)


def _ask(loaded: Any, folder: Path, most: int | None = None) -> None:
    """Writes what the float model says of the first so many batches of images, or of all."""
    from components.saved_transform import signature

    classify, pixels = signature(loaded, INPUT), StoredPixels(folder)
    batches = islice(pixels.batches(BATCH), most)
    total = most or -(-len(pixels) // BATCH)
    answers = [
        classify(pixels=batch)["probabilities"].numpy()
        for batch in _Shown("batches said by the float model", batches, total)
    ]
    if not all(np.isfinite(each).all() for each in answers):
        raise CheckError(
            "expected probabilities of the trained model, it gives some that are not finite "
            "numbers: its weights are unusable, train it anew"
        )
    np.save(folder / EXPECTED_FILE, np.concatenate(answers))


def _make(variant: str, saved_model: Path, work: Path) -> None:
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    record, float32 = VARIANTS[variant], (work / FLOAT_FILE).read_bytes()
    needed = record.needs_ranges
    ranges = ranges_from_json((work / RANGES_FILE).read_text()) if needed else {}
    found = _search(float32, ranges, work) if record.searched else None
    recipe = found.recipe if found else whole(variant, read_ops(float32))
    model = found.model if found else quantize(float32, recipe, ranges)

    model = add_metadata(model, contract)
    expected = np.load(work / CALIBRATION / EXPECTED_FILE, allow_pickle=False)
    tried = StoredPixels(work / CALIBRATION).read(0, len(expected))
    facts: dict[str, Any] = {
        "parity": asdict(check(model, variant, len(contract.labels), tried, expected, recipe))
    }
    if variant != FLOAT32:
        layers = layer_errors(float32, model, tried[:COMPARED_IMAGES])
        facts["layers"] = [asdict(layer) for layer in layers]
    files = {MODEL_FILE: model}
    if found:
        facts |= {"frontier": [asdict(point) for point in found.frontier], "note": found.note}
        files[FRONTIER_FILE] = (json.dumps(found.trials, indent=2) + "\n").encode()
    _write(work / variant, {**files, FACTS_FILE: json.dumps(facts).encode()})


def _search(float32: bytes, ranges: Ranges, work: Path) -> FoundRecipe:
    folder = work / EVALUATION
    evaluation = Evaluation(
        StoredPixels(folder),
        load_label_ids(folder),
        np.load(folder / EXPECTED_FILE, allow_pickle=False),
    )
    settings = from_text(SearchSettings, (work / SEARCH_FILE).read_text())
    return search(float32, ranges, evaluation, settings, _say)


class _Shown(Iterable[T]):
    """Items, and on the way how many of them there were, where that takes long."""

    def __init__(self, what: str, items: Iterable[T], total: int) -> None:
        self._what = what
        self._items = items
        self._total = total

    def __iter__(self) -> Iterator[T]:
        last = time.monotonic()
        for number, item in enumerate(self._items):
            if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                _say(f"{number} of {self._total} {self._what}")
            yield item


def _say(progress: str) -> None:
    print(progress, flush=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    partial = folder.with_suffix(".partial")
    partial.mkdir()
    for name, content in files.items():
        (partial / name).write_bytes(content)
    partial.rename(folder)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (CheckError, ModelError) as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
