"""What a watching device counts, in Prometheus' text format."""

import bisect
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeline.device.state import InstalledModel, State
    from edgeline.runtime.classifier import Prediction
    from edgeline.telemetry.report import Drift

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Histogram:
    """How many values were at most each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Yield it in Prometheus' text format."""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What a watcher counts. Any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checks: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._image_errors = 0
        self._hook_failures = 0
        self._seconds = Histogram(_SECONDS)
        self._probabilities = Histogram(_PROBABILITIES)

    def checked(self, result: str) -> None:
        """Count a check: "updated", "current", "held" or "failed"."""
        with self._lock:
            self._checks[result] += 1

    def predicted(self, prediction: "Prediction", seconds: float) -> None:
        """Count a prediction."""
        label, probability = prediction.label, prediction.probability
        with self._lock:
            self._labels[label] += 1
            self._seconds.add(seconds)
            self._probabilities.add(probability)

    def refused_image(self) -> None:
        """Count an image that could not be read."""
        with self._lock:
            self._image_errors += 1

    def hook_failed(self) -> None:
        """Count an `on_update` that failed."""
        with self._lock:
            self._hook_failures += 1

    def new_model(self) -> None:
        """Begin to count predictions anew: another model may have other labels."""
        with self._lock:
            self._labels.clear()
            self._probabilities = Histogram(_PROBABILITIES)

    def render(
        self,
        channel: str,
        installed: "InstalledModel | None",
        state: "State",
        drift: "Drift | None" = None,
    ) -> str:
        """Return all of it in Prometheus' text format."""
        with self._lock:
            about, drifted = _about(channel, installed, state), _drift(drift)
            return "\n".join([*about, *self._lines(), *drifted, ""])

    def _lines(self) -> Iterator[str]:
        yield from _family("edgeline_checks_total", "counter", "Checks of the registry by result.")
        for result in ("updated", "current", "held", "failed"):
            yield f'edgeline_checks_total{{result="{result}"}} {self._checks[result]}'
        yield from _family("edgeline_hook_failures_total", "counter", "on_update that failed.")
        yield f"edgeline_hook_failures_total {self._hook_failures}"
        yield from _family("edgeline_image_errors_total", "counter", "Images that were no images.")
        yield f"edgeline_image_errors_total {self._image_errors}"
        yield from _family(
            "edgeline_prediction_seconds", "histogram", "Time from an image to its prediction."
        )
        yield from self._seconds.lines("edgeline_prediction_seconds")
        yield from _family(
            "edgeline_predictions_total", "counter", "Predictions of this model by label."
        )
        for label, count in sorted(self._labels.items()):
            yield f"edgeline_predictions_total{_labels({'label': label})} {count}"
        yield from _family(
            "edgeline_prediction_probability", "histogram", "Probabilities of predicted labels."
        )
        yield from self._probabilities.lines("edgeline_prediction_probability")


def _about(channel: str, installed: "InstalledModel | None", state: "State") -> Iterator[str]:
    if installed is not None:
        labels = {
            "model": installed.model,
            "channel": channel,
            "version": installed.tag,
            "digest": installed.digest,
            "variant": installed.variant,
        }
        yield from _family("edgeline_model_info", "gauge", "The model that is served.")
        yield f"edgeline_model_info{_labels(labels)} 1"
        yield from _family("edgeline_model_version", "gauge", "Its version as a number.")
        yield f"edgeline_model_version {installed.version}"
    yield from _family(
        "edgeline_last_check_timestamp_seconds", "gauge", "When the registry was last genuine."
    )
    yield f"edgeline_last_check_timestamp_seconds {state.checked:.0f}"
    yield from _family(
        "edgeline_signatures_expire_timestamp_seconds", "gauge", "When the first one does."
    )
    yield f"edgeline_signatures_expire_timestamp_seconds {state.expires:.0f}"
    yield from _family("edgeline_stale", "gauge", "Whether the signatures seen last expired.")
    yield f"edgeline_stale {int(state.is_stale())}"
    yield from _family("edgeline_last_check_failed", "gauge", "Whether the last check failed.")
    yield f"edgeline_last_check_failed {int(state.error is not None)}"
    if state.error_kind is not None:
        # The kind and not the text, or each text would be another time series.
        yield from _family("edgeline_last_error_info", "gauge", "Why the last check failed.")
        yield f"edgeline_last_error_info{_labels({'kind': state.error_kind})} 1"


def _drift(drift: "Drift | None") -> Iterator[str]:
    if drift is None:
        return
    for name, kind, text in (
        ("edgeline_drift", "major", "Whether what is seen differs from the test split."),
        ("edgeline_drift_stability_index", "index", "Population stability index."),
        ("edgeline_drift_p_value", "p", "Of the chi-square test that it is chance."),
    ):
        yield from _family(name, "gauge", text)
        for quantity, shift in drift.shifts.items():
            value = {"major": int(shift.is_major), "index": shift.index, "p": shift.p_value}[kind]
            yield f"{name}{_labels({'quantity': quantity})} {value:.6g}"
    yield from _family(
        "edgeline_drift_window_timestamp_seconds", "gauge", "When the last window was full."
    )
    yield f"edgeline_drift_window_timestamp_seconds {drift.until:.0f}"


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
