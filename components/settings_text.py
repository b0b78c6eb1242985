"""Settings of a step as one text, which is what TFX and Kubeflow hand to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Settings = TypeVar("Settings")


def to_text(settings: object) -> str:
    """Writes a dataclass as JSON; equal settings are equal texts, by which results are reused."""
    document = _adapter(type(settings)).dump_python(settings, mode="json")
    return json.dumps(document, sort_keys=True)


def from_text(kind: type[Settings], text: str) -> Settings:
    """Reads what `to_text` wrote.

    Raises:
        pydantic.ValidationError: it is not of this kind.
    """
    return _adapter(kind).validate_json(text)


def _adapter(kind: type[Settings]) -> TypeAdapter[Settings]:
    # Here, not above: most workers of the rewriter read no settings.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
