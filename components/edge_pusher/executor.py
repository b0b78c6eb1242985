"""Runs the pusher inside TFX."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.edge_pusher.push import RELEASE_FILE, push
from components.tflite_models import TFLiteModelsFolder
from components.verdict import REPORT_FILE, Verdict


class Executor(base_executor.BaseExecutor):
    """Hands the artifacts' folders to `push` and records the release."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
        verdict = artifact_utils.get_single_instance(input_dict["verdict"])
        models = artifact_utils.get_single_instance(input_dict["tflite_models"])
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])

        registry, channel = exec_properties["registry"], exec_properties["channel"]
        published = push(
            TFLiteModelsFolder.load(Path(models.uri)),
            Verdict.load(Path(verdict.uri)),
            (Path(verdict.uri) / REPORT_FILE).read_bytes(),
            blessed=model_utils.is_model_blessed(blessing),
            registry=Path(registry),
            model=exec_properties["model_name"],
            channel=channel,
        )
        release = {**asdict(published), "tag": published.tag, "registry": registry}
        (Path(pushed.uri) / RELEASE_FILE).write_text(json.dumps(release, indent=2) + "\n")
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_string_custom_property("pushed_destination", registry)
        pushed.set_string_custom_property("pushed_version", published.tag)
        pushed.set_string_custom_property("digest", published.digest)
