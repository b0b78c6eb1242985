"""Trains the classifier and saves it with the signatures that the later steps and serving use.

`run_fn` is called by TFX's Trainer. A frozen base gives the same features every epoch, so the head
phase computes them once; the optional second phase fine-tunes the base's last layers on pixels.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from numpy.typing import NDArray
from tfx.components.trainer.fn_args_utils import FnArgs

from components.examples import TransformedExamples
from components.trained_model import HISTORY_FILE, contract_path
from pipeline import preprocessing
from pipeline.config import TrainerConfig
from pipeline.model import (
    PROBABILITIES,
    build_base,
    build_head,
    join,
    normalization,
    unfreeze,
)
from pipeline.preprocessing import IMAGE, LABEL_ID, PIXELS

PROGRESS_SECONDS = 5.0
PREDICT_BATCH = 32  # images; larger batches are no faster on a CPU and take more memory

_LOG = logging.getLogger(__name__)


def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, stops early on the eval split, and writes the SavedModel.

    Args:
        fn_args: of TFX. `custom_config` holds `trainer` (a TrainerConfig as a dict), `height`,
            `width` and `max_side` in pixels, and `labels`.

    Raises:
        UserError: the base's weights can't be had, or a setting that can't work with them.
    """
    custom = fn_args.custom_config
    config = TrainerConfig(**custom["trainer"])
    labels: list[str] = custom["labels"]
    keras.utils.set_random_seed(config.seed)

    train = TransformedExamples(fn_args.train_files, fn_args.transform_output)
    evaluation = TransformedExamples(fn_args.eval_files, fn_args.transform_output)
    log_dir = Path(fn_args.model_run_dir)

    base = build_base(custom["height"], custom["width"], config.base_weights)
    head, history = train_head(base, train, evaluation, len(labels), config, log_dir / "head")
    model = join(base, head)
    if config.fine_tune_epochs:
        unfreeze(base, config.fine_tune_layers)
        history |= fine_tune(model, train, evaluation, config, log_dir / "fine_tune")
    (log_dir / HISTORY_FILE).write_text(json.dumps(history))

    contract = preprocessing.contract(custom["height"], custom["width"], custom["max_side"], labels)
    save(model, train.transform, Path(fn_args.serving_model_dir))
    contract_file = contract_path(Path(fn_args.serving_model_dir))
    contract_file.parent.mkdir()
    contract_file.write_bytes(contract.to_json())


def train_head(
    base: keras.Model,
    train: TransformedExamples,
    evaluation: TransformedExamples,
    classes: int,
    config: TrainerConfig,
    log_dir: Path,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Builds a head and fits it on features that the frozen base computes once.

    Returns:
        The head, and its training curves by name: "head/loss" and so on, a value an epoch.
    """
    extractor = _extractor(base)
    features, label_ids = extract(extractor, train)
    head = build_head(config.head, features, classes, config.dropout)
    _compile(head, config.learning_rate)
    fitted = head.fit(
        features,
        label_ids,
        validation_data=extract(extractor, evaluation),
        batch_size=config.batch_size,
        epochs=config.epochs,
        callbacks=[*_callbacks(config, log_dir), _Progress("head", config.epochs)],
        verbose=2,
    )
    return head, _curves("head", fitted)


def fine_tune(
    model: keras.Model,
    train: TransformedExamples,
    evaluation: TransformedExamples,
    config: TrainerConfig,
    log_dir: Path,
) -> dict[str, list[float]]:
    """Fits whatever is trainable in the joined model, on pixels; returns its training curves."""
    _compile(model, config.fine_tune_learning_rate)
    fitted = model.fit(
        train.batches(config.batch_size, shuffle_seed=config.seed).map(_inputs_and_targets),
        validation_data=evaluation.batches(PREDICT_BATCH).map(_inputs_and_targets),
        epochs=config.fine_tune_epochs,
        callbacks=[
            *_callbacks(config, log_dir),
            _Progress("fine-tuning", config.fine_tune_epochs),
        ],
        verbose=2,
    )
    return _curves("fine_tune", fitted)


def extract(
    extractor: keras.Model, examples: TransformedExamples
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Runs a model over a split once.

    Returns:
        Features, float32 `[images, height, width, channels]`, and label ids, int64 `[images]`.
    """
    features, label_ids = [], []
    said, images = time.monotonic(), 0
    for batch in examples.batches(PREDICT_BATCH):
        features.append(extractor.predict_on_batch(batch[PIXELS]))
        label_ids.append(batch[LABEL_ID].numpy())
        images += len(label_ids[-1])
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            _LOG.info("features: %d images done", images)
    return np.concatenate(features), np.concatenate(label_ids)


def save(model: keras.Model, transform: tft.TFTransformOutput, folder: Path) -> None:
    """Writes the SavedModel with its three signatures.

    - `serving_default`: `examples`, serialized raw tf.Examples, string `[batch]`, to
      `probabilities`, float32 `[batch, classes]`;
    - `pixels`: `pixels`, float32 `[batch, height, width, 3]` in [0, 1], to `probabilities`;
    - `transform_features`: `examples` to every transformed feature.
    """
    module = _ServingModule(model, transform)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={
            "serving_default": module.serving_default,
            "pixels": module.pixels,
            "transform_features": module.transform_features,
        },
    )


class _Progress(keras.callbacks.Callback):
    """Logs how far a phase is, every few seconds."""

    def __init__(self, phase: str, epochs: int) -> None:
        super().__init__()
        self._phase = phase
        self._epochs = epochs
        self._said = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See the base class."""
        if time.monotonic() - self._said < PROGRESS_SECONDS and epoch + 1 < self._epochs:
            return
        self._said = time.monotonic()
        figures = logs or {}
        _LOG.info(
            "%s: epoch %d of at most %d, eval accuracy %.3f, eval loss %.3f",
            self._phase,
            epoch + 1,
            self._epochs,
            figures.get("val_accuracy", float("nan")),
            figures.get("val_loss", float("nan")),
        )


class _ServingModule(tf.Module):
    """Traces the network once, in `pixels`; the signature for raw examples calls that."""

    def __init__(self, model: keras.Model, transform: tft.TFTransformOutput) -> None:
        super().__init__()
        self._model = model
        self._layer = transform.transform_features_layer()
        raw = transform.raw_feature_spec()
        pixels_spec = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, PIXELS)
        examples_spec = tf.TensorSpec([None], tf.string, "examples")

        @tf.function(input_signature=[pixels_spec])
        def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {PROBABILITIES: self._model(pixels, training=False)}

        @tf.function(input_signature=[examples_spec])
        def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            # A client has no label: only the image is parsed, and only pixels come out.
            features = self._layer(tf.io.parse_example(examples, {IMAGE: raw[IMAGE]}))
            return pixels(features[PIXELS])

        @tf.function(input_signature=[examples_spec])
        def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._layer(tf.io.parse_example(examples, raw))

        self.pixels = pixels
        self.serving_default = serving_default
        self.transform_features = transform_features


def _inputs_and_targets(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    return batch[PIXELS], batch[LABEL_ID]


def _extractor(base: keras.Model) -> keras.Model:
    pixels = keras.Input(base.input_shape[1:])
    return keras.Model(pixels, base(normalization()(pixels)))


def _compile(model: keras.Model, learning_rate: float) -> None:
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def _curves(phase: str, fitted: keras.callbacks.History) -> dict[str, list[float]]:
    return {
        f"{phase}/{name}": [float(v) for v in values] for name, values in fitted.history.items()
    }


def _callbacks(config: TrainerConfig, log_dir: Path) -> list[keras.callbacks.Callback]:
    return [
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=config.patience, restore_best_weights=True
        ),
        keras.callbacks.TensorBoard(log_dir=str(log_dir)),
        keras.callbacks.TerminateOnNaN(),
    ]
