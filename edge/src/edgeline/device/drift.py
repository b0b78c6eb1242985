"""Watching for drift: what a device sees, a window of predictions at a time, against its sketch.

    monitor = DriftMonitor(sketch, installed, 500, file)
    monitor.add(pixels, prediction, now=time.time())
    monitor.last                    # what the last full window showed

Counts are kept beside the device's models: no image is, and a restart loses little.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._records import load, save
from edgeline.device.state import DRIFT_FILE, InstalledModel
from edgeline.drift import Seen, Sketch, image_statistics
from edgeline.telemetry.report import Drift

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeline.runtime.classifier import Classifier, Prediction

_MAX_FILE = 2 << 20  # bytes


@dataclass(frozen=True)
class _Kept:
    """What is remembered between two runs."""

    model: str  # its id
    window: int
    since: float  # seconds since 1970
    images: int
    counts: dict[str, list[int]]
    last: Drift | None


class DriftMonitor:
    """Counts what a model is shown and says. Any number of threads may use it.

    Args:
        sketch: Of the test split, as the model saw it.
        installed: The model.
        window: Predictions that are compared with it at a time.
        file: Where counts are kept.
    """

    def __init__(self, sketch: Sketch, installed: InstalledModel, window: int, file: Path) -> None:
        self._sketch = sketch
        self._installed = installed
        self._window = window
        self._file = file
        self._lock = threading.Lock()
        self._since, self._seen, self.last = self._load()

    def is_of(self, classifier: "Classifier") -> bool:
        """Tell whether it watches over what this classifier says."""
        installed = self._installed
        return (classifier.digest, classifier.variant) == (installed.digest, installed.variant)

    def add(
        self, pixels: "NDArray[np.float32]", prediction: "Prediction", *, now: float
    ) -> Drift | None:
        """Count an image; return what its window showed if it was the last one of that.

        Args:
            pixels: The model's input, float32 `[height, width, 3]`, from 0 to 1.
            prediction: What the model said.
            now: The time, in seconds since 1970.
        """
        statistics = image_statistics(pixels)
        label_id = int(prediction.probabilities.argmax())
        with self._lock:
            if not self._seen.images:
                self._since = now
            self._seen.add(label_id, prediction.probability, statistics)
            if self._seen.images < self._window:
                return None
            self.last = Drift(
                digest=self._installed.digest,
                since=self._since,
                until=now,
                images=self._seen.images,
                shifts=self._sketch.compare(self._seen),
            )
            self._seen = self._sketch.empty()
            return self.last

    def save(self) -> None:
        """Keep what was counted.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            seen = self._seen
            kept = _Kept(
                self._installed.id, self._window, self._since, seen.images, seen.counts, self.last
            )
            save(self._file, kept)

    def _load(self) -> tuple[float, Seen, Drift | None]:
        """Return what was counted of this model; nothing the first time, or when damaged."""
        kept, seen = load(_Kept, self._file, _MAX_FILE), self._sketch.empty()
        if kept is None or kept.model != self._installed.id:
            return 0.0, seen, None
        found = Seen(seen.bounds, kept.counts, kept.images)
        if kept.window == self._window and _is_alike(found, seen):
            return kept.since, found, kept.last
        return 0.0, seen, kept.last


def last_drift(folder: Path, model_id: str | None) -> Drift | None:
    """Return what the last window of the model that is served showed, None when there is none."""
    kept = load(_Kept, folder / DRIFT_FILE, _MAX_FILE)
    return kept.last if kept is not None and kept.model == model_id else None


def _is_alike(kept: Seen, empty: Seen) -> bool:
    """Tell whether counts are of the bins that they should be of."""
    return kept.counts.keys() == empty.counts.keys() and all(
        len(each) == len(empty.counts[name]) and sum(each) == kept.images
        for name, each in kept.counts.items()
    )
