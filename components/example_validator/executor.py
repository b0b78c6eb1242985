"""Runs ExampleValidator inside TFX."""

from __future__ import annotations

from components.example_validator.step import find_anomalies
from components.folder_executor import FolderExecutor


class Executor(FolderExecutor):
    """Finds anomalies."""

    STEP = staticmethod(find_anomalies)
