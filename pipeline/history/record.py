"""What stays of a run when it ends: one small file, `<run root>/history/<id>.json`.

Artifacts may be removed, and the metadata store knows nothing of settings before the last step:
a record stands alone. It is written whole or not at all, also of a run that failed, that the gate
refused, or that was interrupted. Records are read as a stranger's files: of bounded size, and by
their schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from components.verdict import Check, Decision, VariantVerdict, Verdict
from edgeline._files import write_whole
from edgeline._text import one_line
from pipeline.config import flattened
from pipeline.errors import UserError

HISTORY = "history"  # folder below a run root
MOST_BYTES = 4 * 2**20  # 1,000 classes of images to count take 0.1 MB
MOST_REASON = 2000  # characters of why a run ended as it did

Outcome = Literal["released", "passed", "refused", "failed", "interrupted"]
ArtifactFolder = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*$")]
RunId = Annotated[str, Field(pattern=r"^[0-9]{8}-[0-9]{6}(-[0-9]{1,4})?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Figure(_Part):
    """A metric over all images: None where it is not defined."""

    value: float | None
    threshold: float | None = None
    bound: Literal["min", "max"] = "min"
    interval: tuple[float, float] | None = None
    decision: Decision | None = None  # None without a threshold


class Judged(_Part):
    """What was found of one model."""

    name: str
    passed: bool
    bytes: int | None = None
    sha256: str | None = None
    figures: Mapping[str, Figure] = {}  # by metric; those of a class or a slice are in the verdict

    @property
    def unproven(self) -> int:
        """How many thresholds it keeps without proof."""
        return sum(figure.decision == "not proved" for figure in self.figures.values())


class Judgement(_Part):
    """What the verdict said.

    Attributes:
        folder: of the TFLiteVerdict artifact, below the run root.
        split: that was judged on.
        images: how many.
        models: the float model, and after it every variant.
        published: the variants that a release may hold.
        fastest: of these, where it was judged; what a device runs that isn't told which.
    """

    folder: ArtifactFolder
    split: str
    images: int
    models: tuple[Judged, ...]
    published: tuple[str, ...]
    fastest: str | None

    def model(self, name: str | None) -> Judged | None:
        """One model by its name, if there is such a one."""
        return next((model for model in self.models if model.name == name), None)


class Released(_Part):
    """The release that a run published, or had published before."""

    tag: str
    digest: str
    registry: str
    channel: str
    created: bool  # by this run


class DoneStep(_Part):
    """A step, and what became of it."""

    name: str
    state: Literal["running", "done", "cached", "failed"]
    seconds: float


class RunRecord(_Part):
    """A run that has ended.

    Attributes:
        id: from when it started, in local time; its log has the same name.
        started: the same, with the time zone.
        seconds: that it took.
        outcome: what became of it; "passed" where there is no registry to release to.
        reason: why there is no release, where there is none.
        config: all settings, as the configuration file has them.
        inputs: digests of what it was made from ("config", "dataset", "code", ...), by algorithm.
        libraries: versions by name.
        images: of the dataset, by split and class.
        steps: those that were reached.
        judgement: None where the run did not come to a verdict.
        models: folder of the TFLiteModels artifact, below the run root; None where there is none.
        trained: folder of the Trainer's Model artifact, likewise.
        curves: folder of its ModelRun artifact, likewise.
        release: None where nothing was published.
    """

    version: Literal[1] = 1
    id: RunId
    started: datetime
    seconds: float
    outcome: Outcome
    reason: str | None = None
    config: Mapping[str, JsonValue]
    inputs: Mapping[str, Mapping[str, str]]
    libraries: Mapping[str, str]
    images: Mapping[str, Mapping[str, int]]
    steps: tuple[DoneStep, ...]
    judgement: Judgement | None = None
    models: ArtifactFolder | None = None
    trained: ArtifactFolder | None = None
    curves: ArtifactFolder | None = None
    release: Released | None = None

    @property
    def made(self) -> tuple[str, ...]:
        """The steps that were not reused; the pusher, which never is, counts if it published."""
        return tuple(
            step.name
            for step in self.steps
            if step.state != "cached"
            and not (step.name == "EdgePusher" and self.release and not self.release.created)
        )

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The settings by their whole names, such as "trainer.epochs"."""
        return flattened(self.config)

    @property
    def unproven(self) -> int:
        """How many thresholds were kept without proof."""
        models = self.judgement.models if self.judgement else ()
        return sum(model.unproven for model in models if model.passed)


def judgement(verdict: Verdict, folder: Path, root: Path) -> Judgement:
    """What a record keeps of a verdict; both folders are absolute."""
    return Judgement(
        folder=folder.relative_to(root).as_posix(),
        split=verdict.split,
        images=verdict.examples,
        models=tuple(_judged(model, verdict) for model in verdict.models),
        published=verdict.publishable,
        fastest=next(iter(verdict.fastest_first), None),
    )


def new_id(root: Path, started: datetime) -> str:
    """An id that no run below a root has."""
    stamp = f"{started:%Y%m%d-%H%M%S}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 10_000)))
    return next(name for name in names if not _file(root, name).exists())


def write(record: RunRecord, root: Path) -> Path:
    """Writes a record below its run root; returns the file.

    Raises:
        OSError: it can't be written.
    """
    file = _file(root, record.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(record.model_dump(mode="json"), indent=2, allow_nan=False)
    write_whole(file, content.encode() + b"\n")
    return file


def read(file: Path) -> RunRecord:
    """Reads a record.

    Raises:
        UserError: the file can't be read, or holds no record of a run of that name.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"{file}: no record of a run: it has more than {MOST_BYTES:,} bytes")
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "content"
        raise UserError(
            f"{file}: no record of a run that this version of edgeline reads: "
            f"{one_line(where)}: {one_line(problem['msg'])}"
        ) from error
    if record.id != file.stem:
        raise UserError(f"{file}: is the record of another run, {record.id}")
    return record


def _file(root: Path, name: str) -> Path:
    return root / HISTORY / f"{name}.json"


def _judged(model: VariantVerdict, verdict: Verdict) -> Judged:
    return Judged(
        name=model.variant,
        passed=model.passed,
        bytes=model.bytes,
        sha256=model.sha256,
        figures={c.metric: _figure(c) for c in model.checks if not c.of_part},
    )


def _figure(check: Check) -> Figure:
    return Figure(
        value=_finite(check.value),
        threshold=None if check.asked is None else _finite(check.asked),
        bound=check.bound,
        interval=_interval(check),
        decision=None if check.asked is None else check.decision,
    )


def _interval(check: Check) -> tuple[float, float] | None:
    low, high = map(_finite, check.interval or (math.nan, math.nan))
    return None if low is None or high is None else (low, high)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
