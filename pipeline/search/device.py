"""A device's speed beside this machine's, from what `edgeline benchmark --json` said there."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.tflite_models import TFLiteModelsFolder
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import default_threads
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.history.runs import Runs
from pipeline.search.lab import latencies

MOST_BYTES = 2**20


class _Figures(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    variant: str
    p50: float = Field(ge=0)  # seconds
    error: str | None = None


class _Benchmark(BaseModel):
    model_config = ConfigDict(strict=True)

    digest: str  # of the release that was measured
    figures: list[_Figures]


def slower_than_here(file: Path, config: Config) -> dict[str, float]:
    """How many times as long each variant of a release takes on a device as on this machine.

    The release is of a run of this configuration, whose files are timed here.

    Args:
        file: that the device wrote; of several numbers of threads, the fastest counts.
        config: whose runs are looked at.

    Raises:
        UserError: the file is something else, or no run on record published that release.
    """
    found = _read(file)
    root = (config.run.root / config.name).absolute()
    published = [
        run for run in Runs.load(root).records if run.release and run.release.digest == found.digest
    ]
    if not published or published[-1].models is None:
        raise UserError(
            f"{file}: is of the release {found.digest[:19]}..., which no run below {root} "
            "published; expected figures of a release of this configuration"
        )
    here = _here(root / published[-1].models)
    there: dict[str, float] = {}
    for each in found.figures:
        if each.error is None and each.variant in here and each.p50 > 0:
            there[each.variant] = min(each.p50, there.get(each.variant, each.p50))
    if not there:
        raise UserError(f"{file}: has no figure of {', '.join(here)}")
    return {variant: 1e3 * seconds / here[variant] for variant, seconds in there.items()}


def _read(file: Path) -> _Benchmark:
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from error
    try:
        if len(content) > MOST_BYTES:
            raise ValueError("too large")
        return _Benchmark.model_validate_json(content)
    except (ValidationError, ValueError) as error:
        raise UserError(
            f"{file}: expected what `edgeline benchmark --json` prints on a device"
        ) from error


def _here(folder: Path) -> dict[str, float]:
    """Median milliseconds of an image by variant, of a TFLiteModels artifact."""
    try:
        made = TFLiteModelsFolder.load(folder)
        models = {
            model.variant: PixelModel(
                made.path(model).read_bytes(),
                height=made.contract.height,
                width=made.contract.width,
                classes=len(made.contract.labels),
                num_threads=default_threads(),
            )
            for model in made.models
            if not model.error
        }
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is gone; expected that run's files") from error
    return latencies(models, made.contract.height, made.contract.width)
