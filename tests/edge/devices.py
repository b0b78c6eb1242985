"""A device in a folder, and releases for it: real models that differ in nothing but their bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from edgeline import golden
from edgeline.device.update import Device
from edgeline.registry.format import TAG_ANNOTATION

if TYPE_CHECKING:
    from edgeline.publish.release import Published
    from tests.edge.conftest import Store
    from tests.edge.servers import RegistryServer

MODEL = "pets"


def release(
    store: Store,
    models: Path,
    number: int,
    variants: Iterable[str] = ("float32",),
    **options: Any,
) -> Published:
    """Publish a release of real models to production; each number gives other bytes."""
    # What follows a TFLite file's end is ignored: labels travel there as a zip archive.
    contents = {
        name: (models / f"{name}.tflite").read_bytes() + f"release {number}".encode()
        for name in variants
    }
    options.setdefault("channel", "production")
    return store.publish(contents, model=MODEL, **options)


def golden_pair(models: Path, store: Store, variant: str = "float32") -> bytes:
    """What a model says of some images."""
    return golden.make((models / f"{variant}.tflite").read_bytes(), store.contract).to_json()


def device(store: Store, state: Path, **options: Any) -> Device:
    """A device that follows production."""
    return Device(store.location, MODEL, root=store.root, state=state, **options)


def serving(device: Device) -> int:
    """Return the version that a device serves, with every byte of it verified."""
    return device.folder.load_active().installed.version


def serve(store: Store, server: RegistryServer) -> None:
    """Have a registry server hold what a directory holds now."""
    server.repository.blobs.update(
        (f"sha256:{path.name}", path.read_bytes()) for path in store.blob("").iterdir()
    )
    for entry in json.loads((store.path / "index.json").read_bytes())["manifests"]:
        tag = entry["annotations"][TAG_ANNOTATION]
        server.put(store.blob(entry["digest"]).read_bytes(), entry["mediaType"], tag)


@contextmanager
def signed_days_ago(days: float) -> Iterator[None]:
    """Sign as if it were so many days earlier."""
    when = datetime.now(timezone.utc) - timedelta(days=days)
    with mock.patch("edgeline.publish.signatures.now", return_value=when):
        yield
