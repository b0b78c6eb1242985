"""Runs the pusher inside TFX."""

from __future__ import annotations

from components.edge_pusher.step import publish
from components.folder_executor import FolderExecutor


class Executor(FolderExecutor):
    """Publishes."""

    STEP = staticmethod(publish)
