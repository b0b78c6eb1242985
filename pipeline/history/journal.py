"""Follows a run, and puts it on record when it ends, however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from components.destination import RELEASE_FILE
from components.libraries import library_versions
from components.verdict import Verdict
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.history import record
from pipeline.history.record import DoneStep, Outcome, Released, RunRecord
from pipeline.orchestration.local_step import Step
from pipeline.release.lineage import dependencies

GATE_NOT_PASSED = 3  # exit code


class Journal:
    """What is known of a run so far, which it writes down at the end.

    A run of which no step began leaves no record. Neither does one that was killed.
    """

    def __init__(self, config: Config, dataset: Dataset, root: Path) -> None:
        """Notes settings, data and code as they are before the run.

        Args:
            config: all the settings.
            dataset: what `config.data.path` holds.
            root: of the run, absolute.
        """
        self._root = root
        self._started = datetime.now().astimezone()
        self._config = config.model_dump(mode="json")
        self._images = dataset.counts
        self._inputs = {each.name: each.digest for each in dependencies(config, dataset)}
        self._steps: dict[str, Step] = {}
        self._outcome: Outcome | None = None
        self._reason: str | None = None
        self.id = record.new_id(root, self._started)
        self.record: RunRecord | None = None  # once the run has ended
        self.file: Path | None = None  # the same, once it is written

    def step(self, step: Step) -> None:
        """Notes where a step is."""
        self._steps[step.name] = step

    def failed(self, exit_code: int, reason: str) -> None:
        """Notes why the run ends before its end."""
        self._outcome = "refused" if exit_code == GATE_NOT_PASSED else "failed"
        self._reason = reason[: record.MOST_REASON]

    @contextmanager
    def kept(self, say: Callable[[str], None]) -> Iterator[None]:
        """Writes the record at the end of what is done within, also of an error.

        Args:
            say: tells a person what went wrong with the record; the run goes on without.
        """
        try:
            yield
        except KeyboardInterrupt:
            self._outcome = "interrupted"
            raise
        except Exception as error:
            self.failed(1, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._write(say)

    def _write(self, say: Callable[[str], None]) -> None:
        if not self._steps:
            return
        try:
            self.record = self._record()
            self.file = record.write(self.record, self._root)
        except (OSError, ValueError) as problem:
            say(f"warning: this run is not on record: {problem}")

    def _record(self) -> RunRecord:
        verdict, pushed = self.output("verdict"), self.output("pushed_model")
        return RunRecord(
            id=self.id,
            started=self._started,
            seconds=round((datetime.now().astimezone() - self._started).total_seconds(), 1),
            outcome=self._outcome or ("released" if pushed else "passed"),
            reason=self._reason,
            config=self._config,
            inputs=self._inputs,
            libraries=library_versions(),
            images=self._images,
            steps=tuple(
                DoneStep(name=step.name, state=step.state, seconds=round(step.seconds, 3))
                for step in self._steps.values()
            ),
            judgement=record.judgement(Verdict.load(verdict), verdict, self._root)
            if verdict
            else None,
            models=self._below_root("tflite_models"),
            trained=self._below_root("model"),
            curves=self._below_root("model_run"),
            release=_released(pushed) if pushed else None,
        )

    def output(self, name: str) -> Path | None:
        """The folder of an artifact that a step has made."""
        found = (step.outputs[name] for step in self._steps.values() if name in step.outputs)
        return next(found, None)

    def _below_root(self, name: str) -> str | None:
        folder = self.output(name)
        return folder.relative_to(self._root).as_posix() if folder else None


def _released(pushed_model: Path) -> Released:
    release: dict[str, Any] = json.loads((pushed_model / RELEASE_FILE).read_text())
    wanted = ("tag", "digest", "registry", "channel", "created")
    return Released(**{name: release[name] for name in wanted})
