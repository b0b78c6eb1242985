"""Runs the rewriter inside TFX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from components.settings_text import from_text
from components.tflite_rewriter.choose import balanced_images, first_images
from components.tflite_rewriter.rewrite import rewrite
from components.tflite_rewriter.settings import Settings

EVALUATION_IMAGES = 500  # at most; `mixed` tries many models on them


class Executor(base_executor.BaseExecutor):
    """Hands the artifacts' folders and the chosen images to `rewrite`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        inputs = {key: artifact_utils.get_single_instance(input_dict[key]) for key in input_dict}
        output = artifact_utils.get_single_instance(output_dict["tflite_models"])
        graph = Path(inputs["transform_graph"].uri)
        settings = from_text(Settings, exec_properties["settings"])

        def split(name: str) -> list[str]:
            uri = artifact_utils.get_split_uri(input_dict["examples"], name)
            return [io_utils.all_files_pattern(uri)]

        rewrite(
            Path(path_utils.serving_model_path(inputs["model"].uri)),
            Path(output.uri),
            settings.variants,
            calibration=balanced_images(split("train"), graph, settings.calibration_images),
            evaluation=(
                first_images(split("eval"), graph, EVALUATION_IMAGES) if settings.search else None
            ),
            search=settings.search,
            timeout=settings.timeout,
        )
