"""The libraries that a model is made, measured and published with."""

from __future__ import annotations

import platform
from importlib.metadata import version

LIBRARIES = (
    "ai-edge-litert",
    "apache-beam",
    "edgeline",
    "keras",
    "litert-quantizer",
    "numpy",
    "pillow",
    "tensorflow",
    "tensorflow-model-analysis",
    "tensorflow-transform",
    "tfx",
)


def library_versions() -> dict[str, str]:
    """Their versions by name, and Python's."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
