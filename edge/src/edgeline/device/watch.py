"""Watching a channel: check now and then, switch when it moves, go on whatever happens.

    with Watcher(device, on_update=print) as watcher:
        watcher.predict("cell.png")     # always with the newest good model

Checks are spread by chance, so that a fleet that was switched on together does not ask together; a
registry that does not answer is asked ever more rarely. Nothing that a check finds ends the watch.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgeline import _records as records
from edgeline.device.metrics import Metrics
from edgeline.device.state import DRIFT_FILE, SHADOW_FILE, InstalledModel, LoadedModel, State
from edgeline.device.update import Device
from edgeline.errors import (
    EdgelineError,
    ImageError,
    IntegrityError,
    ModelError,
    NotFoundError,
    RejectedError,
)

if TYPE_CHECKING:
    from edgeline.device.drift import DriftMonitor
    from edgeline.device.examples import HardExamples
    from edgeline.device.reporting import Reporter
    from edgeline.device.shadow import Comparison, Shadow, ShadowSettings
    from edgeline.preprocessing import ImageSource
    from edgeline.runtime.classifier import Classifier, Prediction
    from edgeline.telemetry.report import Drift

LOOK_SECONDS = 3600.0  # between two looks at every byte of what is installed

_JITTER = 0.2  # part of the interval by which it is longer or shorter, at random
_LONGEST_INTERVAL = 3600.0  # seconds that failures let the interval grow to

_log = logging.getLogger(__name__)


class Watcher:
    """Keeps a device up to date, and predicts with what it serves.

    Any number of threads may predict while it switches: each prediction is made with one model.

    Args:
        device: What to keep up to date.
        preference: Variants, best first, none for the publisher's choice; by default as said last
            time.
        interval: Seconds between two checks, give or take a fifth; failures double it each time, up
            to an hour.
        on_update: Called with the new model after each switch, also when the process ended between
            the two, and with the model that is there at the very first; what it raises is logged.
        predicts: Whether to load models; without, it only keeps the state folder up to date.
        reporter: Reports how the device does; by default nothing is reported.
        shadow: For how long a new model runs beside the one that is served before it takes over;
            by default not at all. The models' memory is needed twice meanwhile.
        drift: After how many predictions each what was seen is compared with the test split of the
            release, if that has a sketch of it; by default never.
        hard_examples: Keeps images that the model is least sure of; by default none is kept.

    Raises:
        ValueError: the interval is not above 0.
    """

    def __init__(
        self,
        device: Device,
        *,
        preference: Sequence[str] | None = None,
        interval: float = 300.0,
        on_update: Callable[[InstalledModel], object] | None = None,
        predicts: bool = True,
        reporter: "Reporter | None" = None,
        shadow: "ShadowSettings | None" = None,
        drift: int | None = None,
        hard_examples: "HardExamples | None" = None,
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval: expected more than 0 seconds, got {interval}")
        self.device = device
        self.metrics = Metrics()
        self._preference = preference
        self._interval = interval
        self._on_update = on_update
        self._predicts = predicts
        self._reporter = reporter
        self._shadowing = shadow
        self._shadow: Shadow | None = None
        self._shadow_file = device.folder.path / SHADOW_FILE
        self._resumed: Comparison | None = None
        self._drift_window = drift
        self._drift: DriftMonitor | None = None
        self._hard_examples = hard_examples
        self._failures = 0
        self._look_again = 0.0  # monotonic time at which to read all that is installed
        self._serving: InstalledModel | None = None
        self._classifier: Classifier | None = None
        self._state = State()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Watch until `stop` is called from another thread or a signal handler."""
        try:
            self._follow()
            self._go_on(0.0)
        finally:
            self._close()

    def check(self) -> float:
        """Check once, and switch if there is something newer; return the seconds to wait then."""
        problem = None
        try:
            outcome = self.device.update(self._preference)
            # Only now: with the registry there, what has rotted is brought anew at once.
            if time.monotonic() >= self._look_again:
                if self.device.repair():
                    outcome = self.device.update(self._preference)
                self._look_again = time.monotonic() + LOOK_SECONDS
        except EdgelineError as error:
            self.metrics.checked("failed")
            problem = str(error)
            # A release that does not run here is no reason to ask more rarely for the next one.
            self._failures = 0 if isinstance(error, RejectedError) else self._failures + 1
        except Exception:
            # A bug of ours must not be the end of the device's updates.
            self.metrics.checked("failed")
            _log.exception("A check failed in a way that it should not")
            self._failures += 1
        else:
            self.metrics.checked(outcome.action)
            self._failures = 0
        self._follow()
        if problem:
            # Not before: who reads it may ask for the state at once.
            _log.warning("%s", problem)
        self._keep_shadow()
        self._keep_seen()
        self._report()
        return self._pause()

    def wake(self) -> None:
        """Have the next check start at once."""
        self._wake.set()

    def stop(self) -> None:
        """Have `run` return, after the check that is being made."""
        self._stopping = True
        self._wake.set()

    def predict(self, image: "ImageSource") -> "Prediction":
        """Classify an image with the model that is served, and count what comes of it.

        Raises:
            NotFoundError: there is no model yet.
            ImageError: the image cannot be read.
            ModelError: the model fails on it.
        """
        return self.classify(image)[1]

    def classify(self, image: "ImageSource") -> tuple["Classifier", "Prediction"]:
        """Predict, and return also which model said so; see `predict`."""
        classifier = self._classifier
        if classifier is None:
            raise NotFoundError(
                self._state.error or f"No model of {self.device.model} is loaded (yet)"
            )
        started = time.perf_counter()
        try:
            pixels = classifier.prepare(image)
            prediction = classifier.predict_pixels(pixels)
        except ImageError:
            self.metrics.refused_image()
            if self._reporter:
                self._reporter.refused_image()
            raise
        except ModelError:
            if self._reporter:
                self._reporter.model_failed()
            raise
        seconds = time.perf_counter() - started
        self.metrics.predicted(prediction, seconds)
        if self._reporter:
            self._reporter.predicted(prediction, seconds)
        monitor = self._drift
        # A switch may come between: what one model says is not counted as another's.
        if monitor is not None and monitor.is_of(classifier):
            _warn_of(monitor.add(pixels, prediction, now=time.time()))
        self._offer(classifier, image, prediction)
        shadow = self._shadow
        if shadow is not None:
            shadow.offer(image, prediction, seconds)
        return classifier, prediction

    def unhealthy(self) -> str | None:
        """Return why no model is served, None while one is."""
        if self._serving is not None:
            return None
        return self._state.error or "there is no model yet"

    def render_metrics(self) -> str:
        """Return what is known in Prometheus' text format."""
        monitor = self._drift
        last = monitor.last if monitor else None
        return self.metrics.render(self.device.channel, self._serving, self._state, last)

    def __enter__(self) -> "Watcher":
        self._follow()
        pause = self.check() if self._serving is None else 0.0
        self._thread = threading.Thread(
            target=self._go_on, args=(pause,), name="edgeline-watch", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._close()

    def _go_on(self, pause: float) -> None:
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            pause = self.check()

    def _pause(self) -> float:
        longest = max(self._interval, _LONGEST_INTERVAL)
        interval = min(self._interval * 2.0 ** min(self._failures, 30), longest)
        return interval * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _follow(self) -> None:
        """Serve what the state folder says, which a rollback from outside changes, too."""
        try:
            self._state = self.device.folder.read()
            active = self._state.active
            if active is None or (self._serving is not None and self._serving.id == active):
                self._drop_shadow()
                return
            self._resume_comparison(active)
            if self._stays_in_the_shadow(active):
                return
            self._drop_shadow()
            if self._predicts:
                installed = self._load(self.device.folder.load_active())
            else:
                installed = self.device.folder.describe(active)
        except EdgelineError as error:
            _log.warning("%s", str(error))
            return
        # When the previous one had to step in, the next check brings the active one anew.
        if installed.id != active:
            self._look_again = 0.0
        self._begin_to_serve(installed)

    def _begin_to_serve(self, installed: InstalledModel) -> None:
        self._serving = installed
        self.metrics.new_model()
        if self._reporter:
            with _logged():
                self._reporter.serves(installed, now=time.time())
        _log.info("serving %s", installed.name)
        self._tell(installed)

    def _resume_comparison(self, active: str) -> None:
        """Serve the model before when an earlier process was comparing the active one with it."""
        if self._shadowing is None or self._classifier is not None or not self._predicts:
            return
        from edgeline.device.shadow import MAX_COMPARISON, Comparison

        kept, state = records.load(Comparison, self._shadow_file, MAX_COMPARISON), self._state
        if kept is None or (kept.model, kept.served) != (active, state.previous):
            return
        if state.root != self.device.folder.root:
            return  # what is installed is another root's, which is told where it is loaded
        try:
            self._begin_to_serve(self._load(self.device.folder.load(kept.served)))
        except EdgelineError as error:
            _log.warning("there is no comparison: %s", str(error))
        else:
            self._resumed = kept

    def _stays_in_the_shadow(self, model_id: str) -> bool:
        """Tell whether a new model is to be compared for longer; begin with that when it is new."""
        if self._shadowing is None or self._classifier is None or not self._predicts:
            return False
        if self._shadow is not None and self._shadow.model_id == model_id:
            return not self._shadow.is_done
        from edgeline.device.shadow import Shadow
        from edgeline.runtime.classifier import Classifier

        self._drop_shadow()
        resumed, self._resumed = self._resumed, None
        try:
            loaded = self.device.folder.load(model_id)
            classifier = Classifier.from_installed(loaded, num_threads=1)
        except EdgelineError as error:
            _log.warning("there is no comparison: %s", str(error))
            return False
        installed = loaded.installed
        self._shadow = Shadow(
            classifier,
            installed,
            self._shadowing,
            on_disagreement=self._disagreed,
            resumed=resumed,
        )
        if self._reporter:
            self._reporter.compares(self._shadow.compared)
        _log.info("comparing %s %s with what is served", installed.tag, installed.variant)
        return True

    def _drop_shadow(self) -> None:
        self._close_shadow()
        with suppress(OSError):
            self._shadow_file.unlink(missing_ok=True)

    def _close_shadow(self) -> None:
        if self._shadow is not None:
            self._shadow.close()
            self._shadow = None

    def _keep_shadow(self) -> None:
        if self._shadow is None or self._serving is None:
            return
        with _logged(), self.device.folder.translated():
            records.save(self._shadow_file, self._shadow.comparison(self._serving.id))

    def _report(self) -> None:
        if self._reporter is None:
            return
        try:
            last = self._drift.last if self._drift else None
            if self._reporter.report(self._state, now=time.time(), drift=last):
                _log.info("reported")
        except EdgelineError as error:
            _log.warning("not reported: %s", str(error))
        except Exception:
            # What is only told must not be the end of the device's updates.
            _log.exception("A report failed in a way that it should not")

    def _close(self) -> None:
        self._keep_shadow()
        self._close_shadow()
        self._keep_seen()
        if self._reporter:
            with _logged():
                self._reporter.close()

    def _load(self, loaded: LoadedModel) -> InstalledModel:
        from edgeline.runtime.classifier import Classifier

        # The one before is let go, not closed: a thread may be predicting with it.
        self._classifier = Classifier.from_installed(loaded, num_threads=self.device.num_threads)
        self._keep_seen()
        self._drift = self._monitor(loaded, self._classifier.labels)
        return loaded.installed

    def _monitor(self, loaded: LoadedModel, labels: Sequence[str]) -> "DriftMonitor | None":
        """Return what watches for drift, None when it is not to be, or cannot be told."""
        if self._drift_window is None:
            return None
        if loaded.sketch is None:
            _log.warning(
                "%s has no sketch of its test split: drift cannot be told", loaded.installed.tag
            )
            return None
        from edgeline.device.drift import DriftMonitor
        from edgeline.drift import Sketch

        try:
            sketch = Sketch.from_json(loaded.sketch, classes=len(labels))
        except IntegrityError as error:
            _log.warning("%s", str(error))
            return None
        file = self.device.folder.path / DRIFT_FILE
        return DriftMonitor(sketch, loaded.installed, self._drift_window, file)

    def _offer(
        self,
        classifier: "Classifier",
        image: "ImageSource",
        prediction: "Prediction",
        shadow: str | None = None,
    ) -> None:
        """Offer an image to those that are kept for the owner."""
        if self._hard_examples is None or classifier.digest is None:
            return
        from edgeline.telemetry.examples import Guess

        second = prediction.top(2)[-1][1]
        guess = Guess(
            label=prediction.label,
            probability=prediction.probability,
            margin=prediction.probability - second,
            digest=classifier.digest,
            shadow=shadow,
            time=time.time(),
        )
        self._hard_examples.offer(image, guess, max_side=classifier.contract.max_side)

    def _disagreed(self, image: "ImageSource", served: "Prediction", shadow: str) -> None:
        classifier = self._classifier
        if classifier is not None:
            self._offer(classifier, image, served, shadow)

    def _keep_seen(self) -> None:
        """Write what was counted for drift, and the images that are kept for the owner."""
        for seen in (self._drift, self._hard_examples):
            if seen is not None:
                with _logged("what was seen is not kept: "), self.device.folder.translated():
                    seen.save()

    def _tell(self, installed: InstalledModel) -> None:
        if self._on_update is None or self._state.told == installed.id:
            return
        try:
            self._on_update(installed)
        except Exception as error:
            self.metrics.hook_failed()
            _log.warning("on_update failed: %s", str(error))
        with _logged():
            self.device.remember_told(installed)


@contextmanager
def _logged(what: str = "") -> Iterator[None]:
    """Have what goes wrong here logged, and no more."""
    try:
        yield
    except (BlockingIOError, EdgelineError) as error:
        _log.warning("%s%s", what, str(error))


def _warn_of(drift: "Drift | None") -> None:
    if drift is not None and drift.shifted:
        _log.warning(
            "what this device sees has drifted from what the model was judged on: %s of the last "
            "%d images",
            ", ".join(drift.shifted), drift.images,
        )  # fmt: skip
