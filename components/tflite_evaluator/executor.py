"""Runs the TFLite evaluator inside TFX."""

from __future__ import annotations

from components.folder_executor import FolderExecutor
from components.tflite_evaluator.step import judge


class Executor(FolderExecutor):
    """Judges."""

    STEP = staticmethod(judge)
