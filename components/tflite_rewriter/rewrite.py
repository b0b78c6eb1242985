"""Makes every TFLite variant of a SavedModel, each in a process of its own.

A converter or a quantizer can abort the whole process, or never end. In its own process that is one
variant's recorded error, and nothing more. What variants have in common is done once, by a process
before them: the SavedModel makes pixels of the images, is converted to float32 and is asked
(`PREPARE`), and the images are run through the network for the integer variants (`CALIBRATE`).

Two processes work at a time, or one, where two would take more than `MEMORY` together with this
process, in which all other steps of a local run have been.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Condition, Event, Timer

import psutil

from components.settings_text import to_text
from components.tflite_models import (
    CALIBRATION_FILE,
    FRONTIER_FILE,
    MODEL_FILE,
    ModelFile,
    TFLiteModelsFolder,
    variant_names,
)
from components.tflite_rewriter.choose import ChosenImages
from components.tflite_rewriter.images import Images
from components.tflite_rewriter.variants import VARIANTS, SearchSettings, Variant
from components.trained_model import contract_path
from edgeline._files import sha256_of
from edgeline.contract import PreprocessingContract

# In the folder that is shared with the workers.
CALIBRATION = "calibration"
EVALUATION = "evaluation"
SEARCH_FILE = "search.json"
FACTS_FILE = "facts.json"

# Tasks of a worker, beside the variants.
PREPARE = "prepare"
CALIBRATE = "calibrate"

REFUSED = 3  # exit code of a worker whose last line says what is wrong with the model

AT_ONCE = 2  # a conversion keeps a core busy
MEMORY = 4e9  # bytes of resident memory of all processes, that of this one included
# What a worker takes of it at most, measured with DenseNet121 at 224x224; but `mixed` is a bound,
# which leaves room for 40 files in memory (0.3e9 was measured at 96x96 with 9).
PEAKS = {PREPARE: 1.6e9, "mixed": 1.2e9}
OTHER_PEAK = 0.9e9
ERROR_LINES = 5  # of the converter's last output, kept in the recorded error

_LOG = logging.getLogger(__name__)


class RewriteError(Exception):
    """No variant could be made."""


def rewrite(
    saved_model: Path,
    output: Path,
    variants: Sequence[str],
    *,
    calibration: Images | ChosenImages,
    evaluation: Images | ChosenImages | None = None,
    search: SearchSettings | None = None,
    timeout: float,
) -> TFLiteModelsFolder:
    """Converts a SavedModel to the variants and writes a TFLiteModels artifact.

    Args:
        saved_model: folder with a `pixels` signature, `assets.extra/preprocessing.json` and, for
            chosen images, a `transform_features` signature.
        output: folder of the artifact.
        variants: names among `VARIANTS`.
        calibration: images of the train split, from which integer variants take their ranges and
            by which every variant is checked.
        evaluation: images of the eval split; only `mixed` needs them.
        search: what `mixed` is searched by.
        timeout: seconds one conversion may take; the minutes of a search come on top.

    Returns:
        The artifact, which has an entry for every variant asked for, converted or not.

    Raises:
        RewriteError: none could be converted.
    """
    contract = PreprocessingContract.from_json(contract_path(saved_model).read_bytes())
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        calibration.save(work / CALIBRATION)
        if evaluation is not None:
            evaluation.save(work / EVALUATION)
        if search is not None:
            (work / SEARCH_FILE).write_text(to_text(search))
        timeouts = {"mixed": timeout + 60 * search.minutes} if search else {}
        workers = _Workers(saved_model, work, timeout, timeouts)
        made = _make_all(workers, variants, output)
    models = TFLiteModelsFolder(output, made, contract)
    if not variant_names(models.models):
        errors = "\n".join(f"{model.variant}: {model.error}" for model in models.models)
        raise RewriteError(f"no TFLite variant could be made:\n{errors}")
    chosen = {"split": "train", "image_ids": calibration.image_ids}
    (output / CALIBRATION_FILE).write_text(json.dumps(chosen, indent=2) + "\n")
    models.write()
    return models


@dataclass(frozen=True)
class _Outcome:
    seconds: float  # that a worker took
    error: str | None  # what went wrong


class Memory:
    """Lets through as many at once as there is memory for, and at least one."""

    def __init__(self, size: float) -> None:
        """Has so many bytes."""
        self._size = size
        self._held = 0.0
        self._changed = Condition()

    @contextmanager
    def hold(self, size: float) -> Iterator[None]:
        """Waits until so many bytes are free, or all, and has them until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._size)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


class _Workers:
    """Runs the processes, as many at once as there is memory for."""

    def __init__(
        self, saved_model: Path, work: Path, timeout: float, timeouts: Mapping[str, float]
    ) -> None:
        self.work = work
        self._arguments = (str(saved_model), str(work))
        self._timeout = timeout
        self._timeouts = timeouts  # of single tasks
        self._memory = Memory(MEMORY - psutil.Process().memory_info().rss)

    def run(self, task: str) -> _Outcome:
        """Runs a worker when there is memory for it."""
        with self._memory.hold(PEAKS.get(task, OTHER_PEAK)):
            _LOG.info("%s: started", task)
            started = time.monotonic()
            module = "components.tflite_rewriter.worker"
            command = [sys.executable, "-m", module, task, *self._arguments]
            error = _run(task, command, self._timeouts.get(task, self._timeout))
            return _Outcome(round(time.monotonic() - started, 3), error)


def _make_all(workers: _Workers, variants: Sequence[str], output: Path) -> tuple[ModelFile, ...]:
    """Makes the variants, those last that wait for the calibration; returns them in their order.

    Of these the longest come first, so that the others are made beside them.
    """

    def record(variant: str, outcome: _Outcome) -> ModelFile:
        return _record(variant, outcome, workers.work / variant, output)

    prepared = workers.run(PREPARE)
    if prepared.error:
        return tuple(record(variant, prepared) for variant in variants)
    ordered = sorted(variants, key=lambda name: _place_in_turn(VARIANTS[name]))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        needed = VARIANTS[ordered[-1]].needs_ranges
        calibrated = pool.submit(workers.run, CALIBRATE) if needed else None

        def make(variant: str) -> ModelFile:
            if calibrated and VARIANTS[variant].needs_ranges and calibrated.result().error:
                return record(variant, calibrated.result())
            return record(variant, workers.run(variant))

        made = dict(zip(ordered, pool.map(make, ordered), strict=True))
    return tuple(made[variant] for variant in variants)


def _place_in_turn(variant: Variant) -> tuple[bool, bool]:
    long = variant.searched or variant.activations == "INT16"  # which runs on reference kernels
    return variant.needs_ranges, not long


def _converter(variant: Variant) -> str:
    """Names and versions of what a variant is made by."""
    names = ("tensorflow",) if variant.weights == "FLOAT32" else ("tensorflow", "litert-quantizer")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _record(variant: str, outcome: _Outcome, made: Path, output: Path) -> ModelFile:
    """Takes over what a worker made, or notes what stopped it."""
    row = {
        "variant": variant,
        "quantization": VARIANTS[variant].quantization,
        "converter": _converter(VARIANTS[variant]),
        "seconds": outcome.seconds,
        "error": outcome.error,
    }
    if outcome.error:
        _LOG.error("%s: not converted: %s", variant, outcome.error)
        return ModelFile.from_row(row)
    file = output / variant / MODEL_FILE
    file.parent.mkdir(exist_ok=True)
    for name in (MODEL_FILE, *([FRONTIER_FILE] if VARIANTS[variant].searched else [])):
        shutil.copyfile(made / name, file.with_name(name))
    facts = json.loads((made / FACTS_FILE).read_text())
    content = {
        "file": str(file.relative_to(output)),
        "sha256": sha256_of(file),
        "bytes": file.stat().st_size,
    }
    model = ModelFile.from_row({**row, **content, **facts})
    _LOG.info(
        "%s: converted in %.0f s, %.2f MB%s",
        variant,
        model.seconds,
        file.stat().st_size / 1e6,
        f"; {model.note}" if model.note else "",
    )
    return model


def _run(task: str, command: Sequence[str], timeout: float) -> str | None:
    """Runs a conversion and logs how far it says it is; returns what went wrong, or None."""
    environment = {
        # TensorFlow's notes on startup would hide the converter's last words.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Threads that allocate from heaps of their own keep 0.1 GB more.
        "MALLOC_ARENA_MAX": "1",
        **os.environ,
    }
    killed = Event()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):

        def kill() -> None:
            killed.set()
            process.kill()

        timer = Timer(timeout, kill)
        timer.start()
        try:
            for line in process.stdout or ():
                _LOG.info("%s: %s", task, line.rstrip())
            code = process.wait()
        finally:
            timer.cancel()
        errors.seek(0)
        said = errors.read().strip().splitlines()[-ERROR_LINES:]
    if killed.is_set():
        return f"the conversion did not end within {timeout:g} s"
    if code == 0:
        return None
    if code == REFUSED:
        return said[-1]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    last = "\n".join(said)
    return f"the conversion ended with {how}: {last}"
