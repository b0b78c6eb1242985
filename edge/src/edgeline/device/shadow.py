"""A new model in the shadow of the one that is served: it predicts the same images, to compare.

The shadow runs in a thread of its own, on those images for which it has time: what comes while it
is busy, or over its budget, is passed over. It answers nobody, and what it fails at is counted. How
far it has come is kept beside the models, so that a restart of the process goes on with it.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeline.device.state import InstalledModel
from edgeline.errors import EdgelineError
from edgeline.telemetry.report import Compared

if TYPE_CHECKING:
    from edgeline.preprocessing import ImageSource
    from edgeline.runtime.classifier import Classifier, Prediction

MAX_COMPARISON = 1 << 16  # bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowSettings:
    """For how long a new model runs in the shadow before it is served."""

    predictions: int = 1000  # that are compared at most
    seconds: float = 86_400.0  # after which it is served in any case
    budget: float = 0.25  # share of the time that it may compute


@dataclass(frozen=True)
class Comparison:
    """What is remembered of a comparison when the process ends."""

    model: str  # id of the model in the shadow
    served: str  # id of the one that is served meanwhile
    compared: Compared
    elapsed: float  # seconds that it ran
    spent: float  # of them, seconds that it computed


class Shadow:
    """Compares a model with the one that is served.

    Args:
        classifier: The model.
        installed: What it is.
        settings: When it is done, and what it may take.
        on_disagreement: Called with an image to which it gave another label than the model that is
            served, with what that said, and with its own label.
        resumed: What an earlier process came to, to go on with.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self,
        classifier: "Classifier",
        installed: InstalledModel,
        settings: ShadowSettings,
        on_disagreement: "Callable[[ImageSource, Prediction, str], object] | None" = None,
        resumed: Comparison | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._classifier = classifier
        self.model_id = installed.id
        self.compared = resumed.compared if resumed else Compared(installed.digest)
        self._settings = settings
        self._on_disagreement = on_disagreement
        self._clock = clock
        self._started = clock() - (resumed.elapsed if resumed else 0.0)
        self._spent = resumed.spent if resumed else 0.0  # seconds that it computed
        self._jobs: queue.Queue[tuple[ImageSource, Prediction, float] | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._work, name="edgeline-shadow", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has been compared for long enough."""
        tried = self.compared.predictions + self.compared.errors
        elapsed = self._clock() - self._started
        return tried >= self._settings.predictions or elapsed >= self._settings.seconds

    def offer(self, image: "ImageSource", served: "Prediction", seconds: float) -> None:
        """Let it predict an image, too, if it has time; what was said of it, and how fast."""
        if self.is_done or self._spent > self._settings.budget * (self._clock() - self._started):
            return
        if self._jobs.full():
            return
        # A camera's buffer may hold the next frame by the time that it is looked at.
        kept = image.copy() if isinstance(image, np.ndarray) else image
        try:
            self._jobs.put_nowait((kept, served, seconds))
        except queue.Full:
            return

    def comparison(self, served: str) -> Comparison:
        """Return what to remember of it, beside the id of the model that is served."""
        elapsed = self._clock() - self._started
        return Comparison(self.model_id, served, self.compared, elapsed, self._spent)

    def close(self) -> None:
        """Stop, once the image that it works on is done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            image, served, seconds = job
            started = self._clock()
            try:
                said = self._classifier.predict(image)
                if said.label != served.label and self._on_disagreement is not None:
                    self._on_disagreement(image, served, said.label)
            except EdgelineError:
                self.compared.errors += 1
            except Exception:
                # Whoever closes it waits for this thread, which must not end before.
                self.compared.errors += 1
                _log.exception("A model in the shadow failed in a way that it should not")
            else:
                self.compared.add(said, self._clock() - started, served, seconds)
            self._spent += self._clock() - started
