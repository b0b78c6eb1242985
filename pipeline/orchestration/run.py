"""Ingests and runs the pipeline for a person on this machine: checks, progress, a summary.

`pipeline.api` is what people call; this is how it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.verdict import (
    CHECKS_FILE,
    CONFUSION_FILE,
    PREDICTIONS_CSV,
    REPORT_FILE,
    Verdict,
)
from edgeline.errors import EdgelineError
from pipeline.config import Config, IngestConfig
from pipeline.console import Console, console
from pipeline.data.dataset import Dataset, IngestReport
from pipeline.data.work import THIS_MACHINE, Engine
from pipeline.errors import UserError
from pipeline.history.journal import Journal
from pipeline.history.record import RunRecord
from pipeline.history.tracking import track
from pipeline.orchestration.local_step import Step
from pipeline.orchestration.summary import export_line, ingest_outcome, release_line, verdict_tables

# Beam's own default may be a runner that downloads itself. Without a container image, which this
# runner has no use for, TFX packs itself up in each step for workers elsewhere: seconds a step.
BEAM_ARGS = ("--runner=FnApiRunner", "--sdk_container_image=none")
# What it depends on, the registry, is not among its inputs.
NEVER_CACHED = ("EdgePusher",)
STEP_FAILED = 1


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        code: the exit code: 0, or 1 for a step that failed, 2 for a user's mistake, 3 for a gate
            that was not passed.
        reason: why, where it is not 0.
        record: what is on record of it; None where no step began.
    """

    code: int
    reason: str = ""
    record: RunRecord | None = None


def ingest_log(out: Path) -> Path:
    """Where the libraries' output of an ingest goes: beside the dataset."""
    return out.parent / f"{out.name}.ingest.log"


def ingest_for_a_person(
    photos: Path, out: Path, config: IngestConfig, screen: Console, engine: Engine = THIS_MACHINE
) -> IngestReport:
    """Ingests, telling how far it is and what it left out.

    Raises:
        UserError: as `pipeline.data.ingest.ingest`.
    """
    # Here, not above: a second that no `--help` should wait for.
    from pipeline.data.ingest import ingest

    screen.busy("the ingest")
    report = ingest(photos, out, config, engine, screen.say)
    screen.busy("")
    screen.say(ingest_outcome(report, out))
    return report


def run(config: Config, *, verbose: bool) -> Ending:
    """Runs the whole pipeline and prints a summary.

    Args:
        config: all the settings.
        verbose: show the libraries' output instead of writing it to a log file.

    Raises:
        UserError: the settings don't fit the data, or something the run needs is missing.
    """
    dataset = Dataset.load(config.data.path)
    root = (config.run.root / config.name).absolute()
    # Without a log yet: it has the name of a run, and a mistake is none.
    with console(None) as screen:
        screen.say(f"{config.name}: {_describe(dataset)}")
        screen.busy("checking settings, data, registry and weights")
        # Here, not above: SciPy's second is for those who run.
        from pipeline.orchestration import preflight

        preflight.check_root(config)
        warnings = preflight.check(config, dataset)
        journal = Journal(config, dataset, root)
    log = None if verbose else root / "logs" / f"{journal.id}.log"
    with console(log) as screen:
        for warning in warnings:
            screen.say(f"warning: {warning}")
        if log:
            screen.say(f"log: {_shown(log)}")
        with journal.kept(screen.say):
            code, reason = _run_steps(config, dataset, root, screen, journal)
        screen.busy("sending the run to MLflow")
        if journal.file and (line := track(journal.file, journal.output("tflite_models"))):
            screen.say(line)
        return Ending(code, reason, journal.record)


def report_file(config: Config) -> Path:
    """Where the report of the last run is.

    Raises:
        UserError: there was no run yet, or none that came to its verdict.
    """
    file = config.run.root / config.name / REPORT_FILE
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; `python -m pipeline run` writes it when it comes to a verdict"
        )
    return file


def _run_steps(
    config: Config, dataset: Dataset, root: Path, screen: Console, journal: Journal
) -> tuple[int, str]:
    """Runs the steps; returns the exit code, and the reason where it is not 0."""
    screen.say("loading TFX ...")
    screen.busy("loading TFX")
    # Here, not above: it takes 20 seconds that no user's mistake should wait for.
    from absl import logging
    from tfx.orchestration.metadata import sqlite_metadata_connection_config

    from components.edge_pusher.push import GateNotPassed
    from pipeline.orchestration import local_runner
    from pipeline.orchestration.dag import create_pipeline
    from pipeline.release.deployed import baseline_digest
    from pipeline.training.devices import connect

    logging.set_verbosity(logging.INFO)
    # Before a step makes TensorFlow compute.
    connect(config.trainer.strategy).check(config.trainer.batch_size)
    store = root / "metadata.sqlite"
    store.parent.mkdir(parents=True, exist_ok=True)
    definition = create_pipeline(
        config,
        dataset,
        pipeline_root=str(root),
        baseline_digest=baseline_digest(config, dataset),
        metadata_connection_config=sqlite_metadata_connection_config(str(store)),
        beam_pipeline_args=[*BEAM_ARGS, *config.beam.args],
    )

    judged: list[Path] = []

    def report_step(step: Step) -> None:
        screen.step(step)
        journal.step(step)
        judged.extend([step.outputs["verdict"]] if "verdict" in step.outputs else [])

    failure: Exception | None = None
    steps: Mapping[str, Step] = {}
    try:
        steps = local_runner.run(definition, NEVER_CACHED, report_step)
    except local_runner.StepFailed as error:
        logging.exception("%s", error)
        failure = error
    for folder in judged:
        for file in (REPORT_FILE, CHECKS_FILE, CONFUSION_FILE, PREDICTIONS_CSV):
            shutil.copyfile(folder / file, root / file)
        screen.say(f"\n{verdict_tables(Verdict.load(folder))}")
        screen.say(f"\nReport\n  {_shown(root / REPORT_FILE)}")
    screen.say()
    if not failure and config.registry is None:
        try:
            screen.say(_export(steps, root))
        except GateNotPassed as error:
            failure = error
    if failure:
        code, reason = explain(failure)
        journal.failed(code, reason)
        screen.say(reason)
        return code, reason
    if config.registry:
        screen.say(release_line(config, steps["EdgePusher"].outputs["pushed_model"]))
    return 0, ""


def _export(steps: Mapping[str, Step], root: Path) -> str:
    """Writes the files that passed; returns what to say of it.

    Raises:
        GateNotPassed: there are none.
    """
    from tfx.components.evaluator.constants import BLESSED_FILE_NAME

    from pipeline.release.export import FOLDER, export

    folder = root / FOLDER
    exported = export(
        steps["TFLiteRewriter"].outputs["tflite_models"],
        steps["TFLiteEvaluator"].outputs["verdict"],
        folder,
        blessed=(steps["Evaluator"].outputs["blessing"] / BLESSED_FILE_NAME).is_file(),
    )
    return export_line(exported, _shown(folder))


def explain(failure: Exception) -> tuple[int, str]:
    """The exit code for a step that failed, and why it did, which is the failure's cause."""
    cause = failure.__cause__ or failure
    code = getattr(cause, "exit_code", None)
    if code is not None:  # one of ours: its message stands alone
        # The device package numbers its errors by another table.
        return STEP_FAILED if isinstance(cause, EdgelineError) else int(code), str(cause)
    return STEP_FAILED, (
        f"{failure}: {type(cause).__name__}: {cause}\n"
        "The log has the details. A rerun picks up at this step."
    )


def _describe(dataset: Dataset) -> str:
    splits = ", ".join(
        f"{sum(by_label.values()):,} {split}" for split, by_label in dataset.counts.items()
    )
    return f"{splits} images of {len(dataset.labels)} classes in {dataset.path}"


def _shown(path: Path) -> Path:
    """The path from here, where it is below here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
