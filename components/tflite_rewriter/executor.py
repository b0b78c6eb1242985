"""Runs the rewriter inside TFX."""

from __future__ import annotations

from components.folder_executor import FolderExecutor
from components.tflite_rewriter.step import convert


class Executor(FolderExecutor):
    """Converts."""

    STEP = staticmethod(convert)
