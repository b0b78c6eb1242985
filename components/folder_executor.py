"""Runs inside TFX what is a function of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.folders import Folder, Folders, Step


class FolderExecutor(base_executor.BaseExecutor):
    """Has `STEP` do the work; a subclass names it, as a static method."""

    STEP: Step

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See the base class."""
        # Where TFX is not told of runs, the id of this execution is known by its scratch folder.
        run = self._context.pipeline_run_id or Path(self._context.get_tmp_path()).name
        outputs = _folders(output_dict)
        self.STEP(_folders(input_dict), outputs, exec_properties, str(run))
        for name, folder in outputs.items():
            artifact = artifact_utils.get_single_instance(output_dict[name])
            for key, value in folder.properties.items():
                if key in (artifact.PROPERTIES or {}):
                    setattr(artifact, key, value)
                elif isinstance(value, int):
                    artifact.set_int_custom_property(key, value)
                else:
                    artifact.set_string_custom_property(key, value)


def _folders(artifacts: dict[str, list[types.Artifact]]) -> Folders:
    single = {name: artifact_utils.get_single_instance(each) for name, each in artifacts.items()}
    return {name: Folder(Path(each.uri), _properties(each)) for name, each in single.items()}


def _properties(artifact: types.Artifact) -> dict[str, Any]:
    """The custom properties that are text or whole numbers."""
    stored = artifact.mlmd_artifact.custom_properties
    kinds = {name: value.WhichOneof("value") for name, value in stored.items()}
    return {
        name: getattr(stored[name], kind)
        for name, kind in kinds.items()
        if kind in ("int_value", "string_value")
    }
