"""Where Kubeflow's launcher stages artifacts, and back.

The launcher copies a step's inputs from the object store into folders of its pod before the step
runs, and its outputs from there afterwards. TFX is given the folders instead of the URIs: neither
Beam nor TensorFlow can read `minio://`, and credentials stay with the launcher.

The workers of a distributed Beam runner are other pods. On a volume that they mount, too, a step
has a folder of its own with the same folders in it: inputs are copied there, outputs back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.orchestration.kubeflow.imports import link_recorded

if TYPE_CHECKING:
    from pipeline.orchestration.kubeflow.invocation import ExecutorInput

_FOLDERS = {"minio://": "/minio/", "s3://": "/s3/", "gs://": "/gcs/"}


def staged(uri: str) -> str:
    """The folder of a URI; any other string is returned as it is."""
    for scheme, folder in _FOLDERS.items():
        if uri.startswith(scheme):
            return folder + uri.removeprefix(scheme)
    return uri


def unstaged(path: str) -> str:
    """The URI of a folder; any other string is returned as it is."""
    for scheme, folder in _FOLDERS.items():
        if path.startswith(folder):
            return scheme + path.removeprefix(folder)
    return path


def map_artifacts(artifacts: dict[str, Any], mapping: Callable[[str], str]) -> None:
    """Maps the URIs of artifacts, and those in their metadata, in place; drops empty metadata.

    The launcher fails on a null in an artifact's metadata.

    Args:
        artifacts: by name, as in ExecutorInput and ExecutorOutput.
        mapping: `staged` or `unstaged`.
    """
    for listed in artifacts.values():
        for artifact in listed.get("artifacts", []):
            if "uri" in artifact:
                artifact["uri"] = mapping(artifact["uri"])
            if "metadata" in artifact:
                artifact["metadata"] = _map_value(artifact["metadata"], mapping)


def _map_value(value: Any, mapping: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mapping(value)
    if isinstance(value, list):
        return [_map_value(each, mapping) for each in value]
    if isinstance(value, dict):
        return {key: _map_value(each, mapping) for key, each in value.items() if each is not None}
    return value


def artifacts_of(artifacts: dict[str, Any]) -> list[dict[str, Any]]:
    """All artifacts of an ExecutorInput's inputs or outputs."""
    return [each for listed in artifacts.values() for each in listed.get("artifacts", [])]


@dataclass(frozen=True)
class Staged:
    """Where a step has its artifacts.

    Attributes:
        shared: folder on a volume that other machines see, too; None for the launcher's folders.
    """

    shared: str | None = None

    def take_in(self, executor_input: ExecutorInput) -> None:
        """Has artifacts name folders instead of URIs; those of the inputs are filled, all exist."""
        for artifacts in (executor_input.inputs, executor_input.outputs):
            map_artifacts(artifacts, self._folder)
        for artifact in artifacts_of(executor_input.inputs):
            if self.shared:
                shutil.copytree(self._launcher_s(artifact["uri"]), artifact["uri"])
            link_recorded(Path(artifact["uri"]))
        for artifact in artifacts_of(executor_input.outputs):
            Path(artifact["uri"]).mkdir(parents=True, exist_ok=True)

    def give_back(self, executor_input: ExecutorInput, output: dict[str, Any]) -> None:
        """Leaves outputs where the launcher takes them from, and has the message name URIs."""
        if self.shared:
            for artifact in artifacts_of(executor_input.outputs):
                launcher_s = self._launcher_s(artifact["uri"])
                shutil.copytree(artifact["uri"], launcher_s, dirs_exist_ok=True)
        map_artifacts(output.get("artifacts", {}), self._uri)

    def _folder(self, uri: str) -> str:
        folder = staged(uri)
        return folder if folder == uri else f"{self.shared or ''}{folder}"

    def _uri(self, folder: str) -> str:
        return unstaged(self._launcher_s(folder))

    def _launcher_s(self, folder: str) -> str:
        return folder.removeprefix(self.shared or "")
