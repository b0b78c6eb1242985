"""Loads a model that was trained before: to go on from it, or to look at it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from components.trained_model import contract_path, recipe_path
from edgeline.contract import PreprocessingContract
from edgeline.errors import EdgelineError
from pipeline.config import TrainerConfig
from pipeline.errors import UserError
from pipeline.training.bases import BASES
from pipeline.training.model import build_base, build_head, finalize_scaling, join

WEIGHTS_SUFFIX = ".weights.h5"
SETTING = "trainer.warm_start"


def load_model(folder: Path) -> keras.Model:
    """The Keras model in a Trainer's SavedModel.

    Args:
        folder: of the SavedModel.

    Returns:
        Pixels, float32 `[batch, height, width, 3]` in [0, 1], to probabilities, float32
        `[batch, classes]`. Its base is frozen.

    Raises:
        UserError: there is no SavedModel of a Trainer of this version.
    """
    try:
        contract = PreprocessingContract.from_json(contract_path(folder).read_bytes())
        recipe = TrainerConfig.model_validate_json(recipe_path(folder).read_bytes())
    except (OSError, ValueError, EdgelineError) as error:
        raise UserError(
            f"{folder} is not a SavedModel of this version's Trainer: {error}"
        ) from error
    base = build_base(contract.height, contract.width, "random", recipe.base)
    before = recipe.model_copy(update={"warm_start": str(folder)})
    return join(base, load(base, before, contract.labels))


def load(base: keras.Model, config: TrainerConfig, labels: Sequence[str]) -> keras.Model:
    """Loads an earlier model's weights into a base, and into a head of their own.

    Args:
        base: its weights are replaced.
        config: `warm_start` is a SavedModel's folder or a .weights.h5 file of the joined model.
        labels: the classes, which must be the earlier model's, in its order.

    Returns:
        The earlier model's head.

    Raises:
        UserError: there is no such model, or it is of another network or of other classes.
    """
    path = Path(str(config.warm_start))
    head = build_head(config.head, base.output_shape[1:], len(labels), config.dropout)
    model = join(base, head)
    if path.is_dir():
        _check_labels(path, labels)
        _load_saved_model(path, model, config)
    elif path.is_file() and path.name.endswith(WEIGHTS_SUFFIX):
        _load_weights(path, model, config)
    else:
        raise UserError(
            f"{SETTING}: {path} is neither the folder of a SavedModel (Format-Serving in the "
            f"Trainer's model) nor a {WEIGHTS_SUFFIX} file"
        )
    finalize_scaling(head)
    return head


def _check_labels(path: Path, labels: Sequence[str]) -> None:
    try:
        before = PreprocessingContract.from_json(contract_path(path).read_bytes()).labels
    except (OSError, EdgelineError) as error:
        raise UserError(f"{SETTING}: {path} is not a SavedModel of a Trainer: {error}") from error
    if before != tuple(labels):
        raise UserError(
            f"{SETTING}: {path} knows the classes {', '.join(before)}; expected the data's: "
            f"{', '.join(labels)}"
        )


def _load_saved_model(path: Path, model: keras.Model, config: TrainerConfig) -> None:
    # The weights are an attribute of what the Trainer saves; once the model was.
    variables = str(path / "variables" / "variables")
    try:
        names = [name for name, _ in tf.train.list_variables(variables)]
        if any(name.startswith("_model/") for name in names):
            checkpoint = tf.train.Checkpoint(_model=model)
        elif sum(name.startswith("_weights/") for name in names) == len(model.weights):
            checkpoint = tf.train.Checkpoint(_weights=model.weights)
        else:
            raise _other_network(path, config)
        checkpoint.read(variables).assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise _other_network(path, config) from error


def _load_weights(path: Path, model: keras.Model, config: TrainerConfig) -> None:
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise _other_network(path, config) from error


def _other_network(path: Path, config: TrainerConfig) -> UserError:
    return UserError(
        f"{SETTING}: {path} does not hold a {BASES[config.base].constructor} with a "
        f"{config.head!r} head for as many classes and this image size: set trainer.base, "
        "trainer.head and [image] as they were, or leave it out"
    )
