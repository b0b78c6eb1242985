"""A device's speed beside this machine's, from what `edgeline benchmark --json` said there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.tflite_models import TFLiteModelsFolder
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import default_threads
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.history.runs import Runs

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


@dataclass(frozen=True)
class DeviceFigures:
    """What was measured of a release on a device.

    Attributes:
        file: that the device wrote.
        figures: of each variant and number of threads.
        models: folder of the TFLiteModels artifact that the release was made of.
    """

    file: Path
    figures: Sequence[_Figures]
    models: Path

    @classmethod
    def load(cls, file: Path, config: Config) -> DeviceFigures:
        """Reads the file, and finds the run that published the release.

        Args:
            file: that the device wrote.
            config: whose runs are looked at.

        Raises:
            UserError: the file is something else, or no run on record published that release.
        """
        found = _read(file)
        root = (config.run.root / config.name).absolute()
        published = [
            run
            for run in Runs.load(root).records
            if run.release and run.release.digest == found.digest
        ]
        if not published or published[-1].models is None:
            raise UserError(
                f"{file}: is of the release {found.digest[:19]}..., which no run below {root} "
                "published; expected figures of a release of this configuration"
            )
        return cls(file, found.figures, root / published[-1].models)

    def slower_than_here(self) -> dict[str, float]:
        """How many times as long each variant takes there as on this machine, where it is timed.

        Of several numbers of threads, the fastest counts.

        Raises:
            UserError: there is no figure of the release's variants, or their files are gone.
        """
        here = _here(self.models)
        there: dict[str, float] = {}
        for each in self.figures:
            if each.error is None and each.variant in here and each.p50 > 0:
                there[each.variant] = min(each.p50, there.get(each.variant, each.p50))
        if not there:
            raise UserError(f"{self.file}: has no figure of {', '.join(here)}")
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
    # Here, not above: a mistake in the file's name should not wait for Keras.
    from pipeline.search.lab import latencies

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
