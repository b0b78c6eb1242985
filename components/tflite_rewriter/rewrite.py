"""Makes every TFLite variant of a SavedModel, each in a process of its own.

TensorFlow's converter can abort the whole process (it does, for some modes, on some models). In its
own process that is one variant's recorded error, and nothing more.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from components.tflite_models import (
    CONTRACT_FILE,
    MODEL_FILE,
    ModelFile,
    TFLiteModelsFolder,
    sha256_of,
    variant_names,
)
from components.tflite_rewriter.convert import VARIANTS
from edgeline.contract import PreprocessingContract

# More at once would only take memory: one conversion keeps a core busy and up to 2 GB.
PARALLEL_CONVERSIONS = 2
ERROR_LINES = 5  # of the converter's last output, kept in the recorded error


class RewriteError(Exception):
    """No variant could be made."""


def rewrite(
    saved_model: Path, output: Path, variants: Sequence[str], timeout: float
) -> TFLiteModelsFolder:
    """Converts a SavedModel to the variants and writes a TFLiteModels artifact.

    Args:
        saved_model: folder with a `pixels` signature and `assets.extra/preprocessing.json`.
        output: folder of the artifact.
        variants: names among `VARIANTS`.
        timeout: seconds one conversion may take.

    Returns:
        The artifact, which has an entry for every variant asked for, converted or not.

    Raises:
        RewriteError: none could be converted.
    """
    contract_file = saved_model / "assets.extra" / CONTRACT_FILE
    contract = PreprocessingContract.from_json(contract_file.read_bytes())
    output.mkdir(parents=True, exist_ok=True)

    def convert(variant: str) -> ModelFile:
        return _convert_in_process(saved_model, contract_file, output, variant, timeout)

    with ThreadPoolExecutor(PARALLEL_CONVERSIONS) as pool:
        models = TFLiteModelsFolder(output, tuple(pool.map(convert, variants)), contract)
    if not variant_names(models.models):
        errors = "\n".join(f"{model.variant}: {model.error}" for model in models.models)
        raise RewriteError(f"no TFLite variant could be made:\n{errors}")
    models.write()
    return models


def _convert_in_process(
    saved_model: Path, contract_file: Path, output: Path, variant: str, timeout: float
) -> ModelFile:
    file = output / variant / MODEL_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "components.tflite_rewriter.convert"]
    command += [str(saved_model), str(contract_file), variant, str(file)]
    started = time.monotonic()
    error = _run(command, timeout)
    seconds = round(time.monotonic() - started, 3)
    facts = ModelFile(
        variant=variant,
        quantization=VARIANTS[variant].description,
        converter=f"tensorflow {version('tensorflow')}",
        seconds=seconds,
        error=error,
    )
    if error:
        file.unlink(missing_ok=True)
        file.parent.rmdir()
        return facts
    return ModelFile(
        **{
            **vars(facts),
            "file": str(file.relative_to(output)),
            "sha256": sha256_of(file),
            "bytes": file.stat().st_size,
        }
    )


def _run(command: Sequence[str], timeout: float) -> str | None:
    """Runs a conversion; returns what went wrong, or None."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the conversion did not end within {timeout:g} s"
    if done.returncode == 0:
        return None
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
    return f"the conversion ended with {how}: {last}"
