"""Makes every TFLite variant of a SavedModel, each in a process of its own.

TensorFlow's converter can abort the whole process (it does, for some modes, on some models). In its
own process that is one variant's recorded error, and nothing more.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from components.tflite_models import (
    CALIBRATION_FILE,
    MODEL_FILE,
    ModelFile,
    TFLiteModelsFolder,
    sha256_of,
    variant_names,
)
from components.tflite_rewriter.images import Images
from components.tflite_rewriter.variants import VARIANTS
from components.trained_model import contract_path
from edgeline.contract import PreprocessingContract

# In the folder that is shared with the workers.
CALIBRATION = "calibration"
EVALUATION = "evaluation"
FACTS_FILE = "facts.json"

# More at once would only take memory: one conversion keeps a core busy and up to 2 GB.
PARALLEL_CONVERSIONS = 2
ERROR_LINES = 5  # of the converter's last output, kept in the recorded error

_LOG = logging.getLogger(__name__)


class RewriteError(Exception):
    """No variant could be made."""


def rewrite(
    saved_model: Path,
    output: Path,
    variants: Sequence[str],
    *,
    calibration: Images,
    evaluation: Images | None = None,
    max_drop: float = 0.0,
    timeout: float,
) -> TFLiteModelsFolder:
    """Converts a SavedModel to the variants and writes a TFLiteModels artifact.

    Args:
        saved_model: folder with a `pixels` signature and `assets.extra/preprocessing.json`.
        output: folder of the artifact.
        variants: names among `VARIANTS`.
        calibration: images of the train split, from which integer variants take their ranges and
            by which every variant is checked.
        evaluation: images of the eval split; only `int8_selective` needs them.
        max_drop: accuracy that `int8_selective` may lose on them.
        timeout: seconds one conversion may take.

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

        def make(variant: str) -> ModelFile:
            arguments = [str(saved_model), variant, str(work), str(max_drop)]
            return _make(variant, arguments, work / variant, output, timeout)

        with ThreadPoolExecutor(PARALLEL_CONVERSIONS) as pool:
            models = TFLiteModelsFolder(output, tuple(pool.map(make, variants)), contract)
    if not variant_names(models.models):
        errors = "\n".join(f"{model.variant}: {model.error}" for model in models.models)
        raise RewriteError(f"no TFLite variant could be made:\n{errors}")
    chosen = {"split": "train", "image_ids": calibration.image_ids}
    (output / CALIBRATION_FILE).write_text(json.dumps(chosen, indent=2) + "\n")
    models.write()
    return models


def _make(
    variant: str, arguments: Sequence[str], made: Path, output: Path, timeout: float
) -> ModelFile:
    """Runs a worker and takes over what it made."""
    _LOG.info("%s: conversion started", variant)
    started = time.monotonic()
    error = _run([sys.executable, "-m", "components.tflite_rewriter.worker", *arguments], timeout)
    row = {
        "variant": variant,
        "quantization": VARIANTS[variant],
        "converter": f"tensorflow {version('tensorflow')}",
        "seconds": round(time.monotonic() - started, 3),
        "error": error,
    }
    if error:
        _LOG.error("%s: not converted: %s", variant, error)
        return ModelFile.from_row(row)
    file = output / variant / MODEL_FILE
    file.parent.mkdir(exist_ok=True)
    shutil.copyfile(made / MODEL_FILE, file)
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


def _run(command: Sequence[str], timeout: float) -> str | None:
    """Runs a conversion; returns what went wrong, or None."""
    # TensorFlow's notes on startup would hide the converter's last words.
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"the conversion did not end within {timeout:g} s"
    if done.returncode == 0:
        return None
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
    return f"the conversion ended with {how}: {last}"
