"""What is told while training, and what stops it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import TrainingError
from pipeline.training import callbacks
from pipeline.training.callbacks import Progress, StopOnDivergence
from pipeline.training.phases import train
from tests.pipeline.training.conftest import MakeJob, untrained


def summaries(folder: Path) -> dict[str, list[int]]:
    """The steps at which each tag was written, in every event file below a folder."""
    steps: dict[str, list[int]] = {}
    for file in folder.glob("**/events.*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                steps.setdefault(f"{file.parent.name}: {value.tag}", []).append(event.step)
    return steps


def test_tensorboard_has_curves_augmented_images_and_a_confusion_matrix_an_epoch(
    make_job: MakeJob,
) -> None:
    job = make_job(epochs=3, augment_views=2)
    train(untrained(0), job)
    found = summaries(job.log_dir)
    assert found["augmented: training images"] == [0]
    assert sorted(found["confusion: confusion matrix"]) == [0, 0, 1, 1, 2, 2]  # image and text
    assert found["train: epoch_loss"] == [0, 1, 2]
    assert found["validation: epoch_mean_recall"] == [0, 1, 2]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_what_to_try(loss: float) -> None:
    stop = StopOnDivergence("head", 2, "try less")
    stop.on_train_batch_end(0, {"loss": 0.7})
    with pytest.raises(
        TrainingError, match=rf"diverged in the head phase: the loss is {loss} after .* 4; try less"
    ):
        stop.on_train_batch_end(3, {"loss": loss})


def test_a_loss_far_above_guessing_stops_if_it_stays_there() -> None:
    stop = StopOnDivergence("head", 2, "try less")
    for loss in (9.0, 0.7, 9.0):
        stop.on_epoch_end(0, {"loss": loss})
    with pytest.raises(TrainingError, match=r"the loss is 9 after epoch 5, where guessing has 0\."):
        stop.on_epoch_end(4, {"loss": 9.0})


def test_a_training_that_diverges_fails_and_names_the_setting(make_job: MakeJob) -> None:
    job = make_job(learning_rate=1e38, optimizer="sgd", head="flatten")
    with pytest.raises(TrainingError, match=r"diverged in the head phase.*trainer\.learning_rate"):
        train(untrained(0), job)


def test_out_of_memory_is_named_with_the_batch_size_to_try(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(TrainingError, match=r"in the head phase: try trainer\.batch_size = 16$"):
        train(untrained(0), make_job(batch_size=32))


def test_progress_tells_images_a_second_and_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "SAY_SECONDS", 0.0)
    progress = Progress("head", images=40, batch_size=16, epochs=3)
    with caplog.at_level("INFO", "pipeline"):
        progress.on_train_begin()
        for epoch in range(3):
            progress.on_epoch_begin(epoch)
            for batch in range(3):
                progress.on_train_batch_end(batch, {})
            progress.on_epoch_end(epoch, {"val_accuracy": 0.5, "val_loss": 1.25})
    assert re.fullmatch(
        r"head: epoch 1 of at most 3, image 40 of 40; \d+ images/s, at most \d+ s left",
        caplog.messages[2],
    )
    assert re.fullmatch(
        r"head: epoch 3 of at most 3, eval accuracy 0.500, eval loss 1.250; .* at most 0 s left",
        caplog.messages[-1],
    )


def test_the_extraction_tells_its_pace_and_how_long_it_waits(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "pipeline"):
        train(untrained(0), make_job(epochs=1))
    assert any(
        re.search(r"75 views in .* s, \d+ a second, \d+% of the time waiting for images", message)
        for message in caplog.messages
    )


def test_the_heat_map_shows_shares_by_label() -> None:
    shown = callbacks._heat_map(np.array([[3, 1], [0, 0]], np.int32))
    assert shown.shape == (1, 2 * callbacks.CELL, 2 * callbacks.CELL, 1)
    assert (shown[0, 0, 0, 0], shown[0, 0, -1, 0], shown[0, -1, -1, 0]) == (0.75, 0.25, 0.0)
