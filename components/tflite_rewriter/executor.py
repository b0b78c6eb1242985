"""Runs the rewriter inside TFX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.tflite_rewriter.rewrite import rewrite


class Executor(base_executor.BaseExecutor):
    """Hands the artifacts' folders to `rewrite`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        model = artifact_utils.get_single_instance(input_dict["model"])
        output = artifact_utils.get_single_instance(output_dict["tflite_models"])
        rewrite(
            saved_model=Path(path_utils.serving_model_path(model.uri)),
            output=Path(output.uri),
            variants=json.loads(exec_properties["variants"]),
            timeout=exec_properties["timeout"],
        )
