"""Trains in a process of its own, on one device or on several.

    python -m tests.pipeline.training.train_mirrored FOLDER OUTCOME STRATEGY DEVICES [DIE_AFTER]

FOLDER holds `train.gz`, `eval.gz` and the transform graph. What came of each of `CASES` goes to the
file OUTCOME there. DEVICES CPUs are made of the machine's.
With DIE_AFTER, the process kills itself when it has ended that epoch of the first case's
fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import TrainerConfig
from pipeline.training import checkpoint, features, replicated
from pipeline.training.devices import Devices, connect
from pipeline.training.hardware import as_shipped
from pipeline.training.inputs import Job, PhaseInputs
from pipeline.training.phases import train
from pipeline.training.recipe import MeanRecall, loss
from pipeline.training.state_folder import state_folder
from tests.pipeline.training.conftest import BASE, LABELS, read, untrained

CASES: dict[str, dict[str, Any]] = {
    # 75 images are four batches of 16 and one of 11, which two devices can't share evenly.
    "cached": {
        "epochs": 3,
        "learning_rate": 1e-3,
        "fine_tune_epochs": 3,
        "fine_tune_learning_rate": 1e-4,
        "batch_size": 16,
        "augment_views": 2,
        "class_weights": "balanced",
        "schedule": "cosine",
        "clip_norm": 0.1,
        "dropout": 0.0,
    },
    # The last batch has one image only: there is nothing in it for the second device.
    "not cached": {
        "epochs": 1,
        "learning_rate": 0.01,
        "fine_tune_epochs": 1,
        "fine_tune_learning_rate": 1e-3,
        "batch_size": 74,
        "cache": "off",
        "dropout": 0.0,
    },
}


def small_network() -> keras.Model:
    """With a batch norm that learns, and neither rounding nor depth to blow differences up."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(4, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    return keras.Sequential(layers)


def fit_small_network(devices: Devices) -> dict[str, list[float]]:
    """Fits a network whose batch norm sees every batch whole, though it is shared."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(22, 6, 6, 1)).astype(np.float32)
    y = np.eye(2, dtype=np.float32)[generator.integers(0, 2, 22)]
    training = tf.data.Dataset.from_tensor_slices((x, y, np.ones(22, np.float32))).batch(8)
    evaluation = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    inputs = PhaseInputs(
        lambda first, last: devices.cut(training.repeat(last - first)),
        devices.cut(evaluation),
        [8, 8, 6],
        [8, 8, 6],
    )
    config = TrainerConfig()
    with devices.scope():
        model = small_network()
        model.compile(keras.optimizers.SGD(0.1), loss(config, "sum_over_batch_size"))
        metrics = [keras.metrics.CategoricalAccuracy("accuracy"), MeanRecall(2)]
        history = keras.callbacks.History()
        if devices.strategy:
            replicated.fit(
                model,
                inputs,
                devices,
                loss(config, None),
                metrics,
                first_epoch=0,
                epochs=4,
                callbacks=[history],
            )
        else:
            fitted = inputs.epochs(0, 4)
            model.fit(fitted, steps_per_epoch=3, epochs=4, callbacks=[history], verbose=0)
            return {"loss": history.history["loss"]}
    return {"loss": history.history["loss"]}


def different_draws(devices: Devices) -> int:
    """How many different masks the devices' dropouts draw for the same input."""
    with devices.scope():
        layer = keras.layers.Dropout(0.5, seed=1)
        inputs = keras.Input((64,))
        model = keras.Model(inputs, layer(inputs))
        model.compile("sgd", "mse")
    steps = replicated._Steps(model, devices, loss(TrainerConfig(), None), [])
    steps.draw_apart()
    assert devices.strategy is not None
    masks = devices.strategy.run(tf.function(lambda: model(tf.ones((1, 64)), training=True)))
    local = devices.strategy.experimental_local_results(masks)
    return len({mask.numpy().tobytes() for mask in local})


def train_case(folder: Path, settings: dict[str, Any], devices: Devices) -> dict[str, Any]:
    """Trains as the Trainer does; returns the curves and a digest of the weights."""
    config = TrainerConfig(base=BASE, base_weights="random", **settings)
    files = [str(folder / "train.gz"), str(folder / "eval.gz")]
    splits = [read([file], folder / "graph") for file in files]
    told = {**settings, "replicas": devices.replicas}
    with state_folder(folder / "checkpoints", told, files) as state_dir:
        job = Job(config, LABELS, splits[0], splits[1], folder / "log", state_dir, devices=devices)
        with devices.scope():
            model, curves = train(untrained(config.seed), job)
    shipped = as_shipped(model)
    digest = hashlib.sha256(b"".join(w.tobytes() for w in shipped.get_weights())).hexdigest()
    plain = all(type(v.value).__name__ == "ResourceVariable" for v in shipped.variables)
    return {"curves": curves, "weights": digest, "plain": plain}


def die_after(epoch: int) -> None:
    """Makes the process kill itself when the state after an epoch of fine-tuning is written."""
    save = checkpoint.State.save

    def save_and_die(self: checkpoint.State, path: Path) -> None:
        save(self, path)
        if path.name == "fine_tune.npz" and self.epochs == epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.State.save = save_and_die  # type: ignore[method-assign]


def main(folder: Path, outcome: str, strategy: str, count: int) -> None:
    """Trains all cases."""
    logging.basicConfig(level="INFO", format="LOG %(message)s")
    checkpoint.SAVE_SECONDS = 0.0
    # In a file, so that what was extracted is there for a rerun.
    features.MEMORY_LIMIT = 0
    cpus = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
    devices = connect(strategy)
    found: dict[str, Any] = {
        name: train_case(folder, settings, devices) for name, settings in CASES.items()
    }
    found["small"] = fit_small_network(devices)
    if devices.strategy:
        found["draws"] = different_draws(devices)
    (folder / outcome).write_text(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 5:
        die_after(int(sys.argv[5]))
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
