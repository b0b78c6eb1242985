"""How a watching device is, told by a small loopback server.

    GET  /metrics   for Prometheus
    GET  /healthz   200 while a model is served; 503 with the reason while none is
    POST /predict   the bytes of an image in, its prediction as JSON out

The server listens on the loopback interface only, answers no page of a browser that was led to it
under another name, and bounds what it reads, how long it waits and how much it does at a time.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgeline.device.watch import Watcher
from edgeline.errors import EdgelineError, ImageError

HOST = "127.0.0.1"
MAX_IMAGE = 32 << 20  # bytes of a request
MAX_CONNECTIONS = 16
MAX_PREDICTIONS = 4  # that are worked on or wait; what is left of the connections asks for health
SILENCE_SECONDS = 10.0  # of a client, before it is given up

_NAMES = ("127.0.0.1", "localhost")

_log = logging.getLogger(__name__)


class HealthServer:
    """Serves a watcher's health on a port of the loopback interface, until it is closed.

    Args:
        watcher: Whose.
        port: The port; 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, watcher: Watcher, port: int) -> None:
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
    watcher: Watcher

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
        return self._json(200, classifier.described(prediction))

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
