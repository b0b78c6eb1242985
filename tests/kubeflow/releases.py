"""What is in a registry's directory, for tests that compare releases."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import open_store


def opened(registry: Path, version: int = 1) -> tuple[RegistryReader, Release]:
    """A release, intact, and who reads it."""
    reader = RegistryReader(open_store(str(registry)))
    return reader, reader.open_version(version)


def provenance(reader: RegistryReader, release: Release) -> dict[str, Any]:
    """What the release says of its making: an SLSA statement."""
    envelope = reader.read_provenance(release)
    assert envelope is not None
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return statement


def releases(registry: Path) -> list[str]:
    """The digests of all releases, oldest first."""
    reader = RegistryReader(open_store(str(registry)))
    return [reader.open_version(version).digest for version in reader.versions()]
