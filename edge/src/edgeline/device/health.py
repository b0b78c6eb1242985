"""How a watching device is: counters in Prometheus' text format, and a small loopback server.

    GET  /metrics   for Prometheus
    GET  /healthz   200 while a model is served; 503 with the reason while none is
    POST /predict   the bytes of an image in, its prediction as JSON out

The server listens on the loopback interface only, answers no page of a browser that was led to it
under another name, and bounds what it reads, how long it waits and how much it does at a time.
"""

import bisect
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from edgeline.errors import EdgelineError, ImageError

if TYPE_CHECKING:
    from edgeline.device.state import InstalledModel, State
    from edgeline.device.watch import Watcher
    from edgeline.runtime.classifier import Prediction

HOST = "127.0.0.1"
MAX_IMAGE = 32 << 20  # bytes of a request
MAX_CONNECTIONS = 16
MAX_PREDICTIONS = 4  # that are worked on or wait; what is left of the connections asks for health
SILENCE_SECONDS = 10.0  # of a client, before it is given up

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_NAMES = ("127.0.0.1", "localhost")

_log = logging.getLogger(__name__)


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

    def render(self, channel: str, installed: "InstalledModel | None", state: "State") -> str:
        """Return all of it in Prometheus' text format."""
        with self._lock:
            return "\n".join([*_about(channel, installed, state), *self._lines(), ""])

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


class HealthServer:
    """Serves a watcher's health on a port of the loopback interface, until it is closed.

    Args:
        watcher: Whose.
        port: The port; 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, watcher: "Watcher", port: int) -> None:
        self._server = _Server((HOST, port), _Handler)
        self._server.watcher = watcher
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    watcher: "Watcher"

    def __init__(self, *arguments: Any) -> None:
        self.busy = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.waiting = threading.BoundedSemaphore(MAX_PREDICTIONS)
        self.predicting = threading.Lock()  # a decoded image may take 300 MB
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, unless there are as many as are good for the device."""
        if self.busy.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.busy.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what is no client that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("A request failed in a way that it should not")


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        watcher = self.server.watcher
        if self._is_for_another():
            self._answer(403, "text/plain", b"expected Host: localhost\n")
        elif self.path == "/metrics":
            text = watcher.render_metrics()
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", text.encode())
        elif self.path == "/healthz":
            reason = watcher.unhealthy()
            status = 200 if reason is None else 503
            self._answer(status, "text/plain; charset=utf-8", f"{reason or 'ok'}\n".encode())
        else:
            self._answer(404, "text/plain", b"expected /metrics, /healthz or POST /predict\n")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self._is_for_another():
            self._answer(403, "text/plain", b"expected Host: localhost\n")
        elif self.path != "/predict":
            self._answer(404, "text/plain", b"expected POST /predict\n")
        elif not length.isascii() or not length.isdecimal():
            self._answer(411, "text/plain", b"expected an image with Content-Length\n")
        elif len(length) > 9 or int(length) > MAX_IMAGE:
            self._answer(413, "text/plain", b"expected an image of at most 32 MiB\n")
        elif not self.server.waiting.acquire(blocking=False):
            self._answer(503, "text/plain", b"other predictions are waiting; try again\n")
        else:
            try:
                self._predict(int(length))
            finally:
                self.server.waiting.release()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the counters do."""

    def _predict(self, length: int) -> None:
        image = self.rfile.read(length)
        try:
            with self.server.predicting:
                classifier, prediction = self.server.watcher.classify(image)
        except EdgelineError as error:
            status = 422 if isinstance(error, ImageError) else 503
            return self._json(status, {"error": str(error)})
        probabilities = dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True))
        return self._json(
            200,
            {
                "label": prediction.label,
                "probability": prediction.probability,
                "probabilities": probabilities,
                "model": classifier.model,
                "version": classifier.version,
                "variant": classifier.variant,
            },
        )

    def _is_for_another(self) -> bool:
        """Tell whether this is a browser's request that somebody else's page had it make."""
        name = self.headers.get("Host", "localhost").partition(":")[0]
        return name not in _NAMES or "Origin" in self.headers

    def _json(self, status: int, document: Mapping[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(document).encode() + b"\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
    yield f"edgeline_stale {int(0 < state.expires < max(time.time(), state.floor))}"
    yield from _family("edgeline_last_check_failed", "gauge", "Whether the last check failed.")
    yield f"edgeline_last_check_failed {int(state.error is not None)}"
    if state.error_kind is not None:
        # The kind and not the text, or each text would be another time series.
        yield from _family("edgeline_last_error_info", "gauge", "Why the last check failed.")
        yield f"edgeline_last_error_info{_labels({'kind': state.error_kind})} 1"


def _family(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
