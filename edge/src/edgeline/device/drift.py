"""Watching for drift: what a device sees, a window of predictions at a time, against its sketch.

    monitor = DriftMonitor(sketch, installed, 500, file)
    monitor.add(pixels, prediction, now=time.time())
    monitor.last                    # what the last full window showed

Counts are kept beside the device's models: no image is, and a restart loses little.
"""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._files import write_whole
from edgeline._json import dump_canonical, read_kept
from edgeline.device.state import DRIFT_FILE, InstalledModel
from edgeline.drift import Seen, Sketch, image_statistics
from edgeline.errors import EdgelineError
from edgeline.telemetry.report import Drift, number, parse_drift

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeline.runtime.classifier import Classifier, Prediction

_MAX_FILE = 2 << 20  # bytes


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
            document = {
                "model": self._installed.id,
                "window": self._window,
                "since": self._since,
                "images": self._seen.images,
                "counts": self._seen.counts,
                "last": self.last and asdict(self.last),
            }
            write_whole(self._file, dump_canonical(document))

    def _load(self) -> tuple[float, Seen, Drift | None]:
        """Return what was counted of this model; nothing the first time, or when damaged."""
        document, seen = read_kept(self._file, _MAX_FILE), self._sketch.empty()
        last = _last(document, self._installed.id)
        try:
            kept = Seen(seen.bounds, dict(document["counts"]), document["images"])
            is_ours = (document["model"], document["window"]) == (self._installed.id, self._window)
            if is_ours and _is_alike(kept, seen):
                return number(document["since"]), kept, last
        except (KeyError, TypeError, ValueError):
            pass
        return 0.0, seen, last


def last_drift(folder: Path, model_id: str | None) -> Drift | None:
    """Return what the last window of the model that is served showed, None when there is none."""
    return _last(read_kept(folder / DRIFT_FILE, _MAX_FILE), model_id)


def _last(document: Mapping[str, Any], model_id: str | None) -> Drift | None:
    if document.get("model") != model_id:
        return None
    try:
        return parse_drift(document.get("last"))
    except (KeyError, TypeError, ValueError, EdgelineError):
        return None


def _is_alike(kept: Seen, empty: Seen) -> bool:
    """Tell whether counts are of the bins that they should be of."""
    counts: Mapping[str, list[int]] = kept.counts
    return counts.keys() == empty.counts.keys() and all(
        len(each) == len(empty.counts[name])
        and all(type(count) is int and count >= 0 for count in each)
        and sum(each) == kept.images
        for name, each in counts.items()
    )
