"""Threads and precision, as the machine has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import trainer
from pipeline.training.checkpoint import Curves
from pipeline.training.hardware import as_shipped, compute_policy
from pipeline.training.inputs import Job
from pipeline.training.phases import train
from tests.pipeline.training.conftest import SIDE, MakeJob, untrained


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([], "float32"), ([(7, 5)], "mixed_float16"), ([(8, 0), (6, 1)], "float32")],
)
def test_precision_is_mixed_where_every_gpu_gains_by_it(
    capabilities: list[tuple[int, int]], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def details(gpu: int) -> dict[str, Any]:
        return {"compute_capability": capabilities[gpu]}

    gpus = list(range(len(capabilities)))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    assert compute_policy("auto") == precision


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert compute_policy("float32") == "float32"
    assert compute_policy("bfloat16") == "mixed_bfloat16"


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed(request: pytest.FixtureRequest) -> Iterator[None]:
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("mixed")
def test_a_model_trained_with_mixed_precision_is_shipped_as_shipped(make_job: MakeJob) -> None:
    job = make_job(fine_tune_epochs=1)
    trained, curves = train(untrained(0), job)
    assert np.isfinite(curves["fine_tune/loss"]).all()
    keras.config.set_dtype_policy("float32")
    shipped = as_shipped(trained)
    layers = shipped._flatten_layers()
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    pixels = np.random.default_rng(0).random((4, SIDE, SIDE, 3), np.float32)
    np.testing.assert_allclose(
        shipped(pixels).numpy(), trained(pixels).numpy().astype(np.float32), atol=0.02
    )
    assert [w.path for w in shipped.weights] == [w.path for w in trained.weights]


def test_training_computes_in_the_precision_that_is_asked_for(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(epochs=1, base_weights="random", precision="bfloat16")
    trained_in: list[str] = []

    def observed(base: keras.Model, job: Job, head: None) -> tuple[keras.Model, Curves]:
        model, curves = train(base, job, head)
        trained_in.extend({layer.compute_dtype for layer in model._flatten_layers()})
        return model, curves

    monkeypatch.setattr(trainer, "train", observed)
    model, curves = trainer.train_network(SIDE, SIDE, job)
    assert "bfloat16" in trained_in
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    assert np.isfinite(curves["head/loss"]).all()
