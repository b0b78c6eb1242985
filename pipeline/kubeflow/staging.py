"""Where Kubeflow's launcher stages artifacts, and back.

The launcher copies a step's inputs from the object store into folders of its pod before the step
runs, and its outputs from there afterwards. TFX is given the folders instead of the URIs: neither
Beam nor TensorFlow can read `minio://`, and credentials stay with the launcher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
