"""Searches for better settings of a training, before the Trainer uses the best.

`tuner_fn` is called by TFX's Tuner. A trial costs little: what the frozen layers say of the images
is computed once for each frontier, in files that all trials share. The search follows KerasTuner's
Bayesian optimization, and goes on where a killed one ended.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from pipeline.config import TrainerConfig
from pipeline.training.bases import BASES
from pipeline.training.hardware import computing_in, limit_threads
from pipeline.training.inputs import Job
from pipeline.training.model import build_base
from pipeline.training.phases import train
from pipeline.training.recipe import MONITORED, best
from pipeline.training.setup import NO_FINE_TUNING, Setup, tuned
from pipeline.training.state_folder import state_digest

_LOG = logging.getLogger(__name__)


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Sets up a search of `trials` trainings; the rest of `custom_config` is the Trainer's.

    Raises:
        UserError: as `pipeline.training.trainer.run_fn`.
    """
    custom = fn_args.custom_config
    limit_threads()
    setup = Setup.of(fn_args)
    name = f"search-{state_digest({**custom, 'labels': setup.labels}, setup.files)}"
    folder = Path(custom["checkpoints"]) / name
    folder.mkdir(parents=True, exist_ok=True)
    job = setup.job(setup.config, folder / "log", folder)
    with computing_in(setup.config.precision):
        config = setup.config
        base = build_base(custom["height"], custom["width"], config.base_weights, config.base)
    return TunerFnResult(tuner=Search(base, job, custom["trials"]), fit_kwargs={})


class Search(keras_tuner.BayesianOptimization):
    """Trains a classifier a trial, and judges it by what stops a training early."""

    def __init__(self, base: keras.Model, job: Job, trials: int) -> None:
        """Opens a search, or an earlier one in the job's folder.

        Args:
            base: what every trial sets out from.
            job: its recipe is what trials vary; its folder is removed when the search is over.
            trials: how many.
        """
        self._job = job
        self._base = base
        self._weights = base.get_weights()
        monitored = MONITORED[job.config.early_stopping]
        super().__init__(
            # What is tried is decided in `run_trial`; this only declares the space.
            hypermodel=_Space(job.config),
            objective=keras_tuner.Objective(monitored.name, monitored.mode),
            max_trials=trials,
            seed=job.config.seed,
            directory=str(job.state_dir),
            project_name="trials",
            overwrite=False,
        )

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Trains with a trial's values; returns the best value of what is monitored."""
        values = declare(trial.hyperparameters, self._job.config)
        number = f"trial {int(trial.trial_id) + 1} of {self.oracle.max_trials}"
        _LOG.info("%s: %s", number, _in_words(values))
        config = tuned(self._job.config, values)
        folder = self._job.state_dir / f"trial-{trial.trial_id}"
        folder.mkdir(exist_ok=True)
        job = replace(
            self._job,
            config=config,
            log_dir=folder / "log",
            state_dir=folder,
            shared_cache_dir=self._job.state_dir / "features",
        )
        self._base.trainable = False
        self._base.set_weights(self._weights)
        keras.utils.set_random_seed(config.seed)
        with computing_in(config.precision):
            _, curves = train(self._base, job)
        shutil.rmtree(folder)
        reached = best(curves, config)
        assert reached is not None
        _LOG.info("%s: %s %.4f, %s", number, self._score, reached, self._against_best(reached))
        return {self.oracle.objective.name: reached}

    def on_search_end(self) -> None:
        """Says what won, and removes all but the result, which is in memory."""
        won, *others = self.oracle.get_best_trials(self.oracle.max_trials)
        ahead = (
            f"{abs(won.score - others[0].score):.4f} better than the next, "
            f"trial {int(others[0].trial_id) + 1}, and {abs(won.score - others[-1].score):.4f} "
            "than the last"
            if others
            else "the only one"
        )
        values = declare(won.hyperparameters, self._job.config)
        number = int(won.trial_id) + 1
        _LOG.info("best: trial %d, %s %.4f, %s", number, self._score, won.score, ahead)
        _LOG.info("the Trainer takes its settings: %s", _in_words(values))
        shutil.rmtree(self._job.state_dir)

    @property
    def _score(self) -> str:
        """What trials are judged by, in words."""
        name: str = self.oracle.objective.name
        return f"eval {name.removeprefix('val_').replace('_', ' ')}"

    def _against_best(self, reached: float) -> str:
        """Compares a score with the best before it."""
        before = [trial for trial in self.oracle.trials.values() if trial.score is not None]
        if not before:
            return "the first"
        choose = min if self.oracle.objective.direction == "min" else max
        best_before = choose(before, key=lambda trial: trial.score)
        if choose(reached, best_before.score) != best_before.score:
            return f"the best so far (before: {best_before.score:.4f})"
        return f"the best is {best_before.score:.4f} of trial {int(best_before.trial_id) + 1}"

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the result; KerasTuner makes its folder anew in order to name it."""
        super().results_summary(num_trials)
        shutil.rmtree(self._job.state_dir, ignore_errors=True)


class _Space(keras_tuner.HyperModel):
    """Declares what can be tried; it builds nothing."""

    def __init__(self, config: TrainerConfig) -> None:
        super().__init__()
        self._config = config

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """See the base class."""
        declare(hp, self._config)
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


def declare(hp: keras_tuner.HyperParameters, config: TrainerConfig) -> dict[str, Any]:
    """Declares the settings that are tried; returns the values of this trial, by setting."""
    values: dict[str, Any] = {
        "dropout": hp.Float("dropout", 0.0, 0.5, step=0.1, default=config.dropout),
        "label_smoothing": hp.Float("label_smoothing", 0.0, 0.1, step=0.05),
        "head": hp.Choice("head", ["pool", "flatten"], default=config.head),
    }
    if config.epochs:
        values["learning_rate"] = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    if config.fine_tune_epochs:
        # Without a head phase, there is nothing but fine-tuning.
        none = [NO_FINE_TUNING] if config.epochs else []
        starts = [*none, *BASES[config.base].tuned_starts]
        values["fine_tune_from"] = hp.Choice("fine_tune_from", starts)
        values["fine_tune_learning_rate"] = hp.Float(
            "fine_tune_learning_rate", 1e-6, 1e-3, sampling="log"
        )
    return values


def _in_words(values: Mapping[str, Any]) -> str:
    """Settings as a person reads them: "dropout 0.2, head pool"."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
