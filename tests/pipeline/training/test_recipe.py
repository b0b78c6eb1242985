"""What the settings of a recipe do: learning rates by step, weights, metrics, and imbalance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.examples import png, write_examples
from pipeline.config import TrainerConfig
from pipeline.training.inputs import Job
from pipeline.training.phases import train
from pipeline.training.recipe import (
    MeanRecall,
    WarmUp,
    class_weights,
    compile_model,
    schedule_callbacks,
)
from tests.pipeline.training.conftest import MakeJob, read, untrained

STEPS, EPOCHS = 10, 5


def small_model() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])


def compiled(**settings: Any) -> keras.Model:
    model = small_model()
    compile_model(model, TrainerConfig(**settings), 0.1, STEPS, EPOCHS)
    return model


def rate_at(step: int, **settings: Any) -> float:
    model = compiled(**settings)
    model.optimizer.iterations.assign(step)
    return float(model.optimizer.learning_rate)


RATES = {
    "constant": ({}, [(0, 0.1), (25, 0.1), (49, 0.1)]),
    "constant after a warm-up": (
        {"warmup_epochs": 2},
        [(0, 0.001), (10, 0.0505), (20, 0.1), (49, 0.1)],
    ),
    "cosine": ({"schedule": "cosine"}, [(0, 0.1), (25, 0.05), (50, 0.0)]),
    "cosine after a warm-up": (
        {"schedule": "cosine", "warmup_epochs": 1},
        [(0, 0.001), (10, 0.1), (30, 0.05), (50, 0.0)],
    ),
}


@pytest.mark.parametrize(("settings", "expected"), RATES.values(), ids=RATES)
def test_the_learning_rate_by_step(
    settings: dict[str, Any], expected: list[tuple[int, float]]
) -> None:
    for step, rate in expected:
        assert rate_at(step, **settings) == pytest.approx(rate, abs=1e-6)


def test_before_a_plateau_the_learning_rate_warms_up_by_epoch() -> None:
    model = compiled(schedule="plateau", warmup_epochs=3)
    warm_up = WarmUp(0.1, 3)
    warm_up.set_model(model)
    rates = []
    for epoch in range(5):
        warm_up.on_epoch_begin(epoch)
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_a_plateau_lowers_the_learning_rate(make_job: MakeJob) -> None:
    """With a rate so low that nothing gets better by much, and a patience that is soon over."""
    job = make_job(
        epochs=6, schedule="plateau", patience=3, learning_rate=1e-12, early_stopping="accuracy"
    )
    _, curves = train(untrained(0), job)
    assert curves["head/learning_rate"][-1] < 1e-12


def test_a_plateau_is_told_by_what_is_not_smoothed() -> None:
    config = TrainerConfig(schedule="plateau", label_smoothing=0.1)
    _, plateau = schedule_callbacks(config, 0.1)
    assert (plateau.monitor, plateau.mode) == ("val_cross_entropy", "auto")


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_the_optimizer_is_the_one_that_was_named(name: str) -> None:
    optimizer = compiled(optimizer=name, clip_norm=2.0).optimizer
    assert type(optimizer).__name__.lower() == name
    assert optimizer.global_clipnorm == 2.0


def test_label_smoothing_is_in_the_loss() -> None:
    sure = tf.constant([[1.0, 0.0]])
    assert float(compiled().loss(sure, sure)) == pytest.approx(0, abs=1e-5)
    assert float(compiled(label_smoothing=0.2).loss(sure, sure)) > 1


def test_balanced_weights_make_every_class_weigh_the_same() -> None:
    label_ids = np.array([0] * 20 + [1] + [2] * 9)
    weights = class_weights(TrainerConfig(class_weights="balanced"), label_ids, 3)
    np.testing.assert_allclose(weights * np.bincount(label_ids), 10)
    np.testing.assert_array_equal(class_weights(TrainerConfig(), label_ids, 3), [1, 1, 1])


def test_mean_recall_counts_classes_alike() -> None:
    metric = MeanRecall(2)
    labels = tf.one_hot([0, 0, 0, 1], 2)
    metric.update_state(labels, tf.one_hot([0, 0, 1, 0], 2))
    assert float(metric.result()) == pytest.approx((2 / 3 + 0) / 2)
    np.testing.assert_array_equal(metric.confusion.numpy(), [[2, 1], [1, 0]])


RARE = [("black", "dark")] * 204 + [("gray", "dark")] * 36 + [("gray", "spotted")] * 12
COLOURS = {"black": 0, "gray": 128}


def plain(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[bytes, str]]:
    """Images of one colour each, encoded, with their labels."""
    for colour, label in rows:
        yield png(np.full((40, 40, 3), COLOURS[colour], np.uint8)), label


@pytest.mark.parametrize(("weighting", "mean_recall"), [("none", 0.5), ("balanced", 1.0)])
def test_balanced_weights_lift_the_recall_of_a_class_of_one_in_twenty(
    weighting: str, mean_recall: float, make_job: MakeJob, graph: Path, tmp_path: Path
) -> None:
    """Of the gray images, 12 in 48 are spotted: a quarter, as each of 12 weighs 20 times 87 in 100.

    Both are what training converges to, and far from a half.
    """
    train_files = write_examples(tmp_path / "train.gz", plain(RARE))
    sure = [("black", "dark"), ("gray", "spotted")]
    eval_files = write_examples(tmp_path / "eval.gz", plain(sure))
    splits = {"train": read(train_files, graph), "evaluation": read(eval_files, graph)}
    job = make_job(
        base="densenet121",  # so wide that even an untrained one tells these apart
        epochs=15,
        patience=15,
        class_weights=weighting,
        head="flatten",
        batch_size=63,
        dropout=0.0,
        learning_rate=0.01,
        schedule="cosine",
    )
    _, curves = train(untrained(0, job.config.base), Job(**{**vars(job), **splits}))
    assert curves["head/val_mean_recall"][-1] == mean_recall
