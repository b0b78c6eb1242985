"""The search for better settings: what is tried, what trials share, and what the Trainer gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
from keras_tuner import HyperParameters

from pipeline.config import TrainerConfig
from pipeline.training import features, phases, tuner
from pipeline.training.checkpoint import Curves
from pipeline.training.inputs import Job
from pipeline.training.recipe import best
from pipeline.training.setup import tuned
from pipeline.training.tuner import Search, declare
from tests.pipeline.training.conftest import MakeJob

FINE_TUNED = TrainerConfig(fine_tune_epochs=3, fine_tune_layers=5)


def test_what_is_not_trained_is_not_tried() -> None:
    assert "fine_tune_from" not in declare(HyperParameters(), TrainerConfig())
    only_fine_tuning = TrainerConfig(epochs=0, fine_tune_epochs=2)
    assert "learning_rate" not in declare(HyperParameters(), only_fine_tuning)
    assert "fine_tune_learning_rate" in declare(HyperParameters(), FINE_TUNED)


def test_what_was_found_becomes_a_recipe() -> None:
    hp = HyperParameters()
    declare(hp, FINE_TUNED)
    hp.values |= {"fine_tune_from": "conv5_block13", "head": "flatten", "dropout": 0.4}
    found = tuned(FINE_TUNED, HyperParameters.from_config(hp.get_config()).values)
    assert (found.fine_tune_from, found.fine_tune_layers) == ("conv5_block13", None)
    assert (found.head, found.dropout, found.fine_tune_epochs) == ("flatten", 0.4, 3)
    assert tuned(FINE_TUNED, {"fine_tune_from": "none"}).fine_tune_epochs == 0


def test_a_trial_is_judged_by_its_best_epoch_without_smoothing() -> None:
    """Whichever phase it is in: fine-tuning that makes nothing better leaves the head's."""
    curves = {
        "head/val_loss": [0.1],
        "head/val_cross_entropy": [0.6],
        "fine_tune/val_cross_entropy": [0.7, 0.5, 0.9],
    }
    assert best(curves, FINE_TUNED) == 0.5
    assert best(curves | {"head/val_cross_entropy": [0.4]}, FINE_TUNED) == 0.4
    assert best({}, FINE_TUNED) is None
    by_recall = TrainerConfig(early_stopping="mean_recall")
    assert best({"head/val_mean_recall": [0.6, 0.9, 0.8]}, by_recall) == 0.9


def test_trials_compute_in_the_precision_that_is_asked_for(
    make_job: MakeJob, base: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_in: list[bool] = []

    def observed(base: keras.Model, job: Job) -> tuple[keras.Model, Curves]:
        model, curves = phases.train(base, job)
        layers = model.get_layer("head")._flatten_layers()
        trained_in.append("bfloat16" in {layer.compute_dtype for layer in layers})
        return model, curves

    monkeypatch.setattr(tuner, "train", observed)
    for precision in ("bfloat16", "float32"):
        Search(base, make_job(precision, epochs=1, precision=precision), trials=1).search()
    assert trained_in == [True, False]


def test_trials_share_what_the_frozen_layers_say(
    make_job: MakeJob,
    base: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "pipeline.training.tuner")
    computed: list[str] = []
    extract = features.extract_from_pixels

    def counting(*arguments: object) -> None:
        store = arguments[-1]
        assert isinstance(store, features.FeatureStore)
        if store.written < store.rows:
            computed.append(str(store.shape))
        extract(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "extract_from_pixels", counting)
    job = make_job(epochs=2)
    search = Search(base, job, trials=4)
    search.search()
    trials = search.oracle.get_best_trials(4)
    assert len(trials) == 4
    heads = {trial.hyperparameters.get("head") for trial in trials}
    assert len(computed) == 2 * len(heads), "a train and an eval split for each kind of head"
    scores = [trial.score for trial in trials]
    assert scores == sorted(scores)
    assert search.get_best_hyperparameters()[0].values == trials[0].hyperparameters.values
    check_what_it_said(
        [r.getMessage() for r in caplog.records if r.name == "pipeline.training.tuner"], trials
    )
    search.results_summary()
    assert not Path(job.state_dir).exists(), "a search that is over leaves nothing behind"


def check_what_it_said(lines: list[str], best_first: list[Any]) -> None:
    """Of each trial what it tries, and its score against the best so far; then what won."""
    by_number = sorted(best_first, key=lambda trial: trial.trial_id)
    reached = [f"{trial.score:.4f}" for trial in by_number]
    for number, trial in enumerate(by_number, 1):
        tried, scored = lines[2 * (number - 1) :][:2]
        assert tried.startswith(f"trial {number} of 4: dropout ")
        assert f"head {trial.hyperparameters.get('head')}" in tried
        assert scored.startswith(f"trial {number} of 4: eval cross entropy {reached[number - 1]}, ")
    assert lines[1].endswith(", the first")
    assert f"the best is {min(reached[:3])} of" in lines[7] or "(before: " in lines[7]
    won, settings = lines[8:]
    assert won.startswith(
        f"best: trial {int(best_first[0].trial_id) + 1}, eval cross entropy {min(reached)}, "
        f"{best_first[1].score - best_first[0].score:.4f} better than the next, "
    )
    assert (
        settings
        == "the Trainer takes its settings: "
        + next(
            line
            for line in lines
            if line.startswith(won.split(",")[0].removeprefix("best: ") + " of")
        ).split(": ", 1)[1]
    )
