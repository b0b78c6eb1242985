"""Trains the classifier and saves it with the signatures that the later steps and serving use.

`run_fn` is called by TFX's Trainer; how it trains is in `pipeline.training`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_transform as tft
from keras_tuner import HyperParameters
from tfx.components.trainer.fn_args_utils import FnArgs

from components.examples import LabelIds
from components.feature_names import IMAGE, LABEL, LABEL_ID
from components.trained_model import HISTORY_FILE, TRAINED_FILE, contract_path, recipe_path
from edgeline.contract import PreprocessingContract
from pipeline.data import preprocessing
from pipeline.data.preprocessing import PIXELS
from pipeline.training import warm_start
from pipeline.training.checkpoint import Curves
from pipeline.training.devices import Devices, connect
from pipeline.training.hardware import as_shipped, computing_in, limit_threads
from pipeline.training.inputs import Job
from pipeline.training.model import FEATURES, PROBABILITIES, build_base
from pipeline.training.phases import train
from pipeline.training.setup import Setup, tuned
from pipeline.training.state_folder import state_folder


def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, stops early on the eval split, and writes the SavedModel.

    Args:
        fn_args: of TFX. `custom_config` holds `trainer` (a TrainerConfig as a dict), `height`,
            `width` and `max_side` in pixels, and `checkpoints`, the folder in which a training
            that is killed leaves what its rerun goes on with.

    Raises:
        UserError: the base's weights can't be had, or a setting that can't work with them.
        TrainingError: as `pipeline.training.phases.train`.
    """
    custom = fn_args.custom_config
    limit_threads()
    devices = connect(custom["trainer"]["strategy"])
    with trained(fn_args, devices) as (model, job, history):
        (job.log_dir / HISTORY_FILE).write_text(json.dumps(history))
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        (job.log_dir / TRAINED_FILE).write_text(now)
        contract = preprocessing.contract(
            custom["height"], custom["width"], custom["max_side"], job.labels
        )
        transform = job.train.examples.transform
        folder = Path(fn_args.serving_model_dir)
        save(model, transform, contract, folder)
        recipe_path(folder).write_text(job.config.model_dump_json(indent=2))


@contextmanager
def trained(fn_args: FnArgs, devices: Devices) -> Iterator[tuple[keras.Model, Job, Curves]]:
    """Trains a model; what a rerun would go on with is removed at the end.

    Yields:
        The model, what it was trained on, and its curves.
    """
    custom = fn_args.custom_config
    training = Setup.of(fn_args)
    config = training.config
    if fn_args.hyperparameters:
        config = tuned(config, HyperParameters.from_config(fn_args.hyperparameters).values)
    settings = {
        **custom,
        "labels": training.labels,
        "trainer": config.model_dump(mode="json"),
    }
    with state_folder(Path(custom["checkpoints"]), settings, training.files) as state_dir:
        job = training.job(config, Path(fn_args.model_run_dir), state_dir, devices)
        job = replace(job, keep_features=True)
        model, curves = train_network(custom["height"], custom["width"], job)
        yield model, job, curves


def train_network(height: int, width: int, job: Job) -> tuple[keras.Model, Curves]:
    """Builds what training starts from, and trains it in the precision that is asked for."""
    config = job.config
    with computing_in(config.precision), job.devices.scope():
        keras.utils.set_random_seed(config.seed)
        weights = "random" if config.warm_start else config.base_weights
        base = build_base(height, width, weights, config.base)
        head = warm_start.load(base, config, job.labels) if config.warm_start else None
        model, curves = train(base, job, head)
    plain = model.dtype_policy.name == "float32" and job.devices.strategy is None
    return (model if plain else as_shipped(model)), curves


def save(
    model: keras.Model,
    transform: tft.TFTransformOutput,
    contract: PreprocessingContract,
    folder: Path,
) -> None:
    """Writes the SavedModel with its signatures, and the preprocessing contract in it.

    - `serving_default`: `examples`, serialized raw tf.Examples, string `[batch]`, to
      `probabilities`, float32 `[batch, classes]`;
    - `pixels`: `pixels`, float32 `[batch, height, width, 3]` in [0, 1], to `probabilities`;
    - `features`: as `pixels`, and also to `features`, float32 `[batch, channels]`: what the base
      makes of an image, averaged over its area;
    - `transform_features`: `examples` to `pixels` and `label_id`, int64 `[batch]`.
    """
    module = _ServingModule(model, transform, contract.labels)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={
            "serving_default": module.serving_default,
            "pixels": module.pixels,
            FEATURES: module.features,
            "transform_features": module.transform_features,
        },
    )
    contract_file = contract_path(folder)
    contract_file.parent.mkdir()
    contract_file.write_bytes(contract.to_json())


class _ServingModule(tf.Module):
    """Traces the network once, in `features`; other signatures call that."""

    def __init__(
        self, model: keras.Model, transform: tft.TFTransformOutput, labels: Sequence[str]
    ) -> None:
        super().__init__()
        # Not the model: Keras would have each of its layers traced and saved as functions, too.
        self._weights = model.weights
        raw = transform.raw_feature_spec()
        pixels_spec = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, PIXELS)
        examples_spec = tf.TensorSpec([None], tf.string, "examples")

        transformed = transform.transform_features_layer()  # not tracked either, as it has no state
        label_ids = LabelIds(labels)
        _, normalize, base, head = model.layers  # as `pipeline.training.model.join` made it

        @tf.function(input_signature=[pixels_spec], autograph=False)
        def features(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            found = base(normalize(pixels), training=False)
            pooled = tf.reduce_mean(found, axis=(1, 2))
            return {PROBABILITIES: head(found, training=False), FEATURES: pooled}

        @tf.function(input_signature=[pixels_spec], autograph=False)
        def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {PROBABILITIES: features(pixels)[PROBABILITIES]}

        @tf.function(input_signature=[examples_spec], autograph=False)
        def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            # A client has no label: only the image is parsed, and only pixels come out.
            features = transformed(tf.io.parse_example(examples, {IMAGE: raw[IMAGE]}))
            return pixels(features[PIXELS])

        @tf.function(input_signature=[examples_spec], autograph=False)
        def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            features = transformed(tf.io.parse_example(examples, raw))
            return {PIXELS: features[PIXELS], LABEL_ID: label_ids(features[LABEL])}

        self.features = features
        self.pixels = pixels
        self.serving_default = serving_default
        self.transform_features = transform_features
