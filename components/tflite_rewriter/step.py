"""Hands the artifacts' folders and the chosen images to `rewrite`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.folders import Folders, split_files
from components.settings_text import from_text
from components.tflite_rewriter.choose import balanced_images, first_images
from components.tflite_rewriter.rewrite import rewrite
from components.tflite_rewriter.settings import Settings
from components.trained_model import serving_model

EVALUATION_IMAGES = 500  # at most; `mixed` tries many models on them


def convert(inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str) -> None:
    """Converts; see `components.folders.Step`, and the component for the rest."""
    examples = inputs["examples"].path
    how = from_text(Settings, settings["settings"])
    train, evaluation = split_files(examples, "train"), split_files(examples, "eval")
    rewrite(
        serving_model(inputs["model"].path),
        outputs["tflite_models"].path,
        how.variants,
        calibration=balanced_images(train, how.calibration_images),
        evaluation=first_images(evaluation, EVALUATION_IMAGES) if how.search else None,
        search=how.search,
        timeout=how.timeout,
    )
