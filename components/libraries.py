"""The libraries that a model is made, measured and published with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from edgeline._distribution import edgeline_version

LIBRARIES = (
    "ai-edge-litert",
    "apache-beam",
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
    ours = {"python": platform.python_version(), "edgeline": edgeline_version()}
    return ours | {name: version(name) for name in LIBRARIES}
