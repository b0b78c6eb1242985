"""Settings of a step as one text, which is what TFX and Kubeflow hand to it."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import TypeAdapter

Settings = TypeVar("Settings")


def to_text(settings: object) -> str:
    """Writes a dataclass as JSON; equal settings are equal texts, by which results are reused."""
    document = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    return json.dumps(document, sort_keys=True)


def from_text(kind: type[Settings], text: str) -> Settings:
    """Reads what `to_text` wrote.

    Raises:
        pydantic.ValidationError: it is not of this kind.
    """
    return TypeAdapter(kind).validate_json(text)
