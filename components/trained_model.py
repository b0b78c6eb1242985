"""What the Trainer leaves beside a SavedModel for the steps that come after it."""

from __future__ import annotations

from pathlib import Path

SERVING_FOLDER = "Format-Serving"  # as TFX names it in a Model artifact
CONTRACT_FILE = "preprocessing.json"
RECIPE_FILE = "recipe.json"  # the settings of [trainer] that it was trained with, tuned ones too
# In the ModelRun artifact.
HISTORY_FILE = "history.json"  # training curves by name
TRAINED_FILE = "trained.txt"  # when the training ended: ISO 8601, UTC
# `features`, float16 [images, channels], of training images, and which: `rows`, int64 [images], in
# the order of the split's files. Missing where the training kept no features.
FEATURES_FILE = "train_features.npz"


def serving_model(artifact: Path) -> Path:
    """The folder of the SavedModel in a Model artifact."""
    return artifact / SERVING_FOLDER


def contract_path(saved_model: Path) -> Path:
    """Where a SavedModel's preprocessing contract is.

    In `assets.extra`, a folder that TensorFlow carries along and does not read.
    """
    return saved_model / "assets.extra" / CONTRACT_FILE


def recipe_path(saved_model: Path) -> Path:
    """Where the recipe is that a SavedModel was trained by."""
    return contract_path(saved_model).with_name(RECIPE_FILE)
