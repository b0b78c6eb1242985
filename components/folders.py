"""How a step of ours sees its artifacts, whatever runs it: folders with properties.

A step that needs no TensorFlow is a function of them. TFX runs it by `components.folder_executor`,
Kubeflow without TFX, whose imports would take most of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Folder:
    """An artifact.

    Attributes:
        path: of the folder, which is there.
        properties: what is known of it; a step adds to those of its outputs, text and whole
            numbers.
    """

    path: Path
    properties: dict[str, Any] = field(default_factory=dict)


SPLIT = "Split-"  # TFX's name of a split's folder begins with it

Folders = Mapping[str, Folder]
# Takes inputs, outputs, settings and the id of the run.
Step = Callable[[Folders, Folders, Mapping[str, Any], str], None]


def split_files(examples: Path, split: str) -> list[str]:
    """The files of a split of an Examples artifact, in order.

    Args:
        examples: the artifact's folder.
        split: its name.
    """
    return sorted(map(str, (examples / f"{SPLIT}{split}").iterdir()))
