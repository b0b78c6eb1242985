"""A device in a folder, and releases for it: real models that differ in nothing but their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline import golden
from edgeline.device.update import Device

if TYPE_CHECKING:
    from edgeline.publish.release import Published
    from tests.edge.conftest import Store

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
