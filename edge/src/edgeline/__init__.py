"""edgeline on the device: find a release in an edge model registry, verify it, and predict.

    from edgeline import Classifier

    with Classifier.from_registry("registry", "solar-cells", root="root.json") as classifier:
        print(classifier.predict("cell.png").label)

Importing this package is cheap: NumPy, Pillow and LiteRT are loaded with the first name that needs
them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeline.contract import PreprocessingContract
    from edgeline.device.update import Device
    from edgeline.device.watch import Watcher
    from edgeline.errors import EdgelineError, ImageError
    from edgeline.runtime.classifier import Classifier, Prediction

__all__ = [
    "Classifier",
    "Device",
    "EdgelineError",
    "ImageError",
    "Prediction",
    "PreprocessingContract",
    "Watcher",
]

_MODULES = {
    "Classifier": "edgeline.runtime.classifier",
    "Device": "edgeline.device.update",
    "EdgelineError": "edgeline.errors",
    "ImageError": "edgeline.errors",
    "Prediction": "edgeline.runtime.classifier",
    "PreprocessingContract": "edgeline.contract",
    "Watcher": "edgeline.device.watch",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
