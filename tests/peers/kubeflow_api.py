"""A Kubeflow Pipelines API on loopback, as its swagger (backend/api/v2beta1) has it.

It keeps what it is sent, refuses what the real one's validation refuses, and has each run succeed,
fail or stay as the test says.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Document = dict[str, Any]
PREFIX = "/apis/v2beta1"


class Api:
    """The server's state.

    Attributes:
        pipelines: by id.
        versions: by id; each holds the uploaded file.
        runs: the bodies of the runs that were created, by id.
        recurring: those of the recurring runs.
        states: that a run goes through, one a look; the last one stays.
        tokens: bearer tokens that were sent.
    """

    def __init__(self) -> None:
        self.pipelines: dict[str, Document] = {}
        self.versions: dict[str, Document] = {}
        self.experiments: dict[str, Document] = {}
        self.runs: dict[str, Document] = {}
        self.recurring: dict[str, Document] = {}
        self.states = ["RUNNING", "SUCCEEDED"]
        self.tokens: set[str] = set()
        self.url = ""

    def get(self, path: str, query: dict[str, list[str]]) -> Document | None:
        if path == "/healthz":
            return {"multi_user": False}
        if path == "/pipelines":
            (predicate,) = json.loads(query["filter"][0])["predicates"]
            assert predicate["operation"] == "EQUALS"
            named = [
                p
                for p in self.pipelines.values()
                if p[predicate["key"]] == predicate["stringValue"]
            ]
            return {"pipelines": named} if named else {}
        if path.startswith("/pipelines/") and path.endswith("/versions"):
            pipeline = path.split("/")[2]
            of_it = [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
            return {"pipeline_versions": [{**v, "file": None} for v in of_it]}
        if path == "/experiments":
            return {"experiments": list(self.experiments.values())}
        if path.startswith("/runs/"):
            return self._look(path.split("/")[2])
        return None

    def post(self, path: str, query: dict[str, list[str]], body: bytes) -> Document | None:
        if path == "/pipelines/upload":
            return self._upload(query["name"][0], body)
        if path == "/pipelines/upload_version":
            return self._version(query["pipelineid"][0], query["name"][0], body)
        if path == "/experiments":
            created = {**json.loads(body), "experiment_id": f"e{len(self.experiments)}"}
            self.experiments[created["experiment_id"]] = created
            return created
        if path == "/runs":
            run = self._check(json.loads(body))
            run["run_id"] = f"r{len(self.runs)}"
            self.runs[run["run_id"]] = run
            return {**run, "state": "PENDING"}
        if path == "/recurringruns":
            recurring = self._check(json.loads(body))
            recurring["recurring_run_id"] = f"j{len(self.recurring)}"
            self.recurring[recurring["recurring_run_id"]] = recurring
            return recurring
        return None

    def _upload(self, name: str, body: bytes) -> Document:
        if any(p["display_name"] == name for p in self.pipelines.values()):
            raise Refused(409, f"The name {name} already exists")
        pipeline = {"pipeline_id": f"p{len(self.pipelines)}", "display_name": name}
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        self._version(pipeline["pipeline_id"], name, body)
        return pipeline

    def _version(self, pipeline: str, name: str, body: bytes) -> Document:
        version = {
            "pipeline_id": pipeline,
            "pipeline_version_id": f"v{len(self.versions)}",
            "display_name": name,
        }
        self.versions[version["pipeline_version_id"]] = {**version, "file": body.decode()}
        return version

    def _check(self, run: Document) -> Document:
        reference = run["pipeline_version_reference"]
        version = self.versions[reference["pipeline_version_id"]]
        for name in run["runtime_config"].get("parameters", {}):
            if f"{name}:" not in version["file"]:
                raise Refused(400, f"parameter(s) provided are not required by pipeline: {name}")
        return run

    def _look(self, run_id: str) -> Document:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        run = {**self.runs[run_id], "state": state}
        if state == "FAILED":
            run["run_details"] = {
                "task_details": [
                    {"display_name": "Trainer", "state": "SUCCEEDED"},
                    {"display_name": "EdgePusher", "state": "FAILED"},
                ]
            }
        return run


class Refused(Exception):  # noqa: N818 - names what the server did
    """The server answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """Serves it; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda path, query: api.get(path, query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(lambda path, query: api.post(path, query, body))

        def _answer(self, act: Any) -> None:
            api.tokens.add(self.headers.get("authorization", ""))
            url = urlsplit(self.path)
            try:
                answer = act(url.path.removeprefix(PREFIX), parse_qs(url.query))
                status = 200 if answer is not None else 404
                answer = answer if answer is not None else {"message": f"no {url.path}"}
            except Refused as error:
                status, answer = error.status, {"code": 3, "message": str(error), "details": []}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
