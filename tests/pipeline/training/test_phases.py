"""A whole training of few epochs: the same model with a cache and without, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.examples import write_examples
from components.trained_model import FEATURES_FILE
from pipeline.data.preprocessing import PIXELS
from pipeline.errors import UserError
from pipeline.training import features, phases
from pipeline.training.features import FeatureStore
from pipeline.training.inputs import Cache, Job
from pipeline.training.phases import train
from pipeline.training.recipe import best
from tests.pipeline.training.conftest import BASE, MakeJob, images, read, untrained


def trained(job: Job) -> tuple[keras.Model, dict[str, list[float]]]:
    return train(untrained(job.config.seed, job.config.base), job)


def predictions(model: keras.Model, job: Job) -> NDArray[np.float32]:
    pixels = np.concatenate([b[PIXELS].numpy() for b in job.evaluation.examples.batches(32)])
    values: NDArray[np.float32] = model.predict(pixels, verbose=0)
    return values


TWO_PHASES: dict[str, Any] = {
    "fine_tune_epochs": 2,
    "fine_tune_learning_rate": 1e-3,
    "augment_views": 2,
    # The order of the images differs between cached features and pixels: none here.
    "batch_size": 75,
    "dropout": 0.0,
}


@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_the_model_is_the_same_with_a_cache_and_without(make_job: MakeJob, head: str) -> None:
    """Same layers, weights' names and shapes, and within rounding the same predictions.

    Rounding, because batches are of other sizes and convolutions add up in another order.
    """
    cached_job = make_job(cache="auto", head=head, **TWO_PHASES)
    cached, cached_curves = trained(cached_job)
    plain, plain_curves = trained(make_job("other", cache="off", head=head, **TWO_PHASES))
    assert [w.path for w in cached.weights] == [w.path for w in plain.weights]
    assert [w.shape for w in cached.weights] == [w.shape for w in plain.weights]
    assert [layer.name for layer in cached.layers] == [layer.name for layer in plain.layers]
    assert cached_curves.keys() == plain_curves.keys()
    for name in ("head/loss", "head/val_loss", "fine_tune/loss", "fine_tune/val_loss"):
        np.testing.assert_allclose(cached_curves[name], plain_curves[name], rtol=0.01)
    np.testing.assert_allclose(
        predictions(cached, cached_job), predictions(plain, cached_job), atol=0.01
    )


def test_the_joined_model_scores_what_the_parts_scored_on_cached_activations(
    make_job: MakeJob, passes: Counter[str]
) -> None:
    job = make_job(fine_tune_epochs=2, fine_tune_learning_rate=1e-3, fine_tune_from="conv5_block3")
    job = replace(job, keep_features=True)
    model, curves = trained(job)
    assert passes == {"train.gz": 1, "eval.gz": 1}, "one pass over the images, for all epochs"
    reached = best(curves, job.config)
    probabilities = predictions(model, job)
    loss = -np.log(probabilities[np.arange(20), job.evaluation.label_ids]).mean()
    assert loss == pytest.approx(reached, rel=1e-4)

    # What is kept of the training images is what the trained base makes of them.
    _, normalize, base, _ = model.layers
    pixels = np.concatenate([b[PIXELS].numpy() for b in job.train.examples.batches(32)])
    expected = base(normalize(pixels), training=False).numpy().mean(axis=(1, 2))
    with np.load(job.log_dir / FEATURES_FILE, allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["rows"], np.arange(75))
        assert kept["features"].dtype == np.float16
        np.testing.assert_allclose(kept["features"], expected, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("area", [1, 2], ids=["pooled", "flatten"])
def test_features_of_a_frozen_base_are_those_that_are_cached(
    make_job: MakeJob, area: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each image the first view, and of many images some."""
    monkeypatch.setattr(phases, "KEPT_IMAGES", 10)
    job = make_job(augment_views=2)
    job.log_dir.mkdir()
    store = FeatureStore(150, (area, area, 4), None)
    values = np.random.default_rng(0).random((150, area, area, 4), np.float32)
    store.append(values)
    phases._keep_features(None, {phases.HEAD: Cache(store, store)}, job)
    with np.load(job.log_dir / FEATURES_FILE, allow_pickle=False) as kept:
        rows = kept["rows"]
        assert (len(rows), rows[0], rows[-1]) == (10, 0, 74)
        expected = values[rows * 2].mean(axis=(1, 2))
        np.testing.assert_allclose(kept["features"], expected, rtol=1e-3)


def test_without_a_cache_no_features_are_kept(make_job: MakeJob) -> None:
    job = make_job()
    phases._keep_features(None, {}, job)
    assert not job.log_dir.exists()


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_fine_tuning_that_makes_nothing_better_leaves_what_the_head_phase_made(
    make_job: MakeJob, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is better than a cross-entropy of 0."""
    monkeypatch.setattr(phases, "best", lambda curves, config: 0.0)
    job = make_job(cache=cache, fine_tune_epochs=2, fine_tune_learning_rate=1e-3)
    model, curves = trained(job)
    assert len(curves["fine_tune/val_cross_entropy"]) == 2
    probabilities = predictions(model, job)
    loss = -np.log(probabilities[np.arange(20), job.evaluation.label_ids]).mean()
    assert loss == pytest.approx(min(curves["head/val_cross_entropy"]), rel=1e-3)


def test_what_is_monitored_is_not_smoothed(make_job: MakeJob) -> None:
    job = make_job(label_smoothing=0.5)
    model, curves = trained(job)
    probabilities = predictions(model, job)
    loss = -np.log(probabilities[np.arange(20), job.evaluation.label_ids]).mean()
    assert loss == pytest.approx(min(curves["head/val_cross_entropy"]), rel=1e-3)
    assert min(curves["head/val_loss"]) != pytest.approx(loss, rel=0.01)


def test_fine_tuning_changes_what_it_may_and_nothing_else(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the head phase reached, so that what was fine-tuned is kept."""
    monkeypatch.setattr(phases, "best", lambda curves, config: float("inf"))
    before = {w.path: w.numpy() for w in untrained(0).weights}
    model, _ = trained(make_job(fine_tune_epochs=1, fine_tune_learning_rate=1e-3))
    base = model.get_layer(BASE)
    changed = {w.path for w in base.weights if not np.array_equal(w.numpy(), before[w.path])}
    assert changed == {"conv5_block3_3_conv/bias", "conv5_block3_3_conv/kernel"}


def test_a_head_may_be_trained_with_the_base_from_the_start(make_job: MakeJob) -> None:
    _, curves = trained(make_job(epochs=0, fine_tune_epochs=2, head="pool"))
    assert {name.partition("/")[0] for name in curves} == {"fine_tune"}


def test_a_cache_on_disk_trains_like_one_in_memory(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TWO_PHASES, "batch_size": 16, "dropout": 0.2}
    _, in_memory = trained(make_job(**settings))
    monkeypatch.setattr(features, "MEMORY_LIMIT", 0)
    job = make_job("other", **settings)
    _, on_disk = trained(job)
    assert (job.state_dir / "conv5_block2_out-train-150.f32").stat().st_size == 150 * 2048 * 4
    for name in in_memory:
        np.testing.assert_allclose(on_disk[name], in_memory[name], rtol=1e-3, atol=1e-4)


def test_a_cache_that_does_not_fit_is_done_without(make_job: MakeJob) -> None:
    job = make_job(cache_max_gb=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "MEMORY_LIMIT", 0)
        _, curves = trained(job)
    assert len(curves["head/loss"]) == 2
    assert not list(job.state_dir.glob("*.f32"))


def test_the_whole_of_an_untrained_base_learns_with_its_batch_norms(
    make_job: MakeJob, graph: Path, tmp_path: Path
) -> None:
    """On spots brighter than anything else: learnt from any start, on any processor.

    The statistics need most of the epochs: until they are learnt, one class is all that is said.
    """
    train_files = write_examples(tmp_path / "train.gz", images(0, 40, 35, contrast=135))
    eval_files = write_examples(tmp_path / "eval.gz", images(1, 10, 10, contrast=135))
    splits = {"train": read(train_files, graph), "evaluation": read(eval_files, graph)}
    job = make_job(
        base="densenet121",  # whose batch norms learn in so few steps
        epochs=0,
        fine_tune_epochs=14,
        fine_tune_from="all",
        fine_tune_learning_rate=1e-3,
        batch_size=16,
    )
    model, curves = trained(Job(**{**vars(job), **splits}))
    statistics = model.get_layer("densenet121").get_layer("bn").moving_mean.numpy()
    assert np.abs(statistics).max() > 0, "batch norms did not learn their statistics"
    assert max(curves["fine_tune/val_accuracy"]) >= 0.9


REFUSED = {
    "a batch larger than the data": (
        {"batch_size": 76},
        r"trainer\.batch_size: expected at most the train split's 75 images; received 76",
    ),
    "zero trainable layers": (
        {"fine_tune_epochs": 1, "fine_tune_layers": 2},
        r"trainer\.fine_tune_layers: the base's last 2 layers have no weights to train",
    ),
    "more layers than there are": (
        {"fine_tune_epochs": 1, "fine_tune_layers": 1000},
        r"trainer\.fine_tune_layers: expected at most the base's 190 layers",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line_before_anything_is_computed(
    make_job: MakeJob,
    settings: dict[str, Any],
    message: str,
    base: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(features, "extract_from_pixels", computed)
    monkeypatch.setattr(phases, "_fit", computed)
    with pytest.raises(UserError, match=message) as caught:
        train(base, make_job(**settings))
    assert len(str(caught.value).splitlines()) == 1
