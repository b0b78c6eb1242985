"""Debian's docker-registry as a process on the loopback interface, and a token service for it."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.edge.certificates import Authority, Issued

USERNAME = "ada"
PASSWORD = "correct horse"
BASIC = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

_SERVICE = "edgeline test registry"
_STARTING = 60.0  # seconds


class DockerRegistry:
    """The server, with its files in `folder`; it runs within its context."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: Issued | None = None,
        clients: Authority | None = None,
        auth: Mapping[str, Any] | None = None,
        deleting: bool = True,
    ) -> None:
        self._folder = folder
        self._config = folder / "config.yml"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        http: dict[str, Any] = {"addr": self.host, "secret": secrets.token_hex()}
        if tls is not None:
            http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
            if clients is not None:
                http["tls"]["clientcas"] = [str(clients.file)]
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(folder / "storage")},
                "delete": {"enabled": deleting},
            },
            "http": http,
            **({"auth": auth} if auth else {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(json.dumps(config))  # which is YAML, too

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def location(self, repository: str = "cells") -> str:
        return f"oci://{self.host}/{repository}"

    def __enter__(self) -> DockerRegistry:
        with (self._folder / "log").open("ab") as log:
            command = ["docker-registry", "serve", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(int(_STARTING / 0.05)):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError("docker-registry does not start")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def collect_garbage(self) -> str:
        """Do what its operator does: stop it, remove what no tag leads to, start it again."""
        self.__exit__()
        command = ["docker-registry", "garbage-collect", "--delete-untagged", str(self._config)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.__enter__()
        return done.stdout


def htpasswd(folder: Path) -> dict[str, Any]:
    """Return the registry's setting that lets in one user, who logs in with Basic."""
    file = folder / "htpasswd"
    command = ["htpasswd", "-cbB", str(file), USERNAME, PASSWORD]
    subprocess.run(command, check=True, capture_output=True)
    return {"htpasswd": {"realm": "test", "path": str(file)}}


@contextmanager
def token_service(authority: Authority) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Run a token service; yield the registry's setting that trusts it, and what it was asked."""
    issued = authority.issue("tokens")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            (scope,) = parse_qs(urlsplit(self.path).query).get("scope", [""])
            asked.append(scope)
            allowed = self.headers.get("Authorization") == f"Basic {BASIC}"
            body = json.dumps({"token": _token(issued, scope)} if allowed else {}).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield (
            {
                "token": {
                    "realm": f"http://127.0.0.1:{server.server_address[1]}/token",
                    "service": _SERVICE,
                    "issuer": "test",
                    "rootcertbundle": str(authority.file),
                }
            },
            asked,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _token(issued: Issued, scope: str) -> str:
    """Return a JSON Web Token that allows what a scope asks for."""
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    key = serialization.load_pem_private_key(issued.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    der = certificate.public_bytes(serialization.Encoding.DER)
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    now = int(time.time())
    claims = {
        "iss": "test",
        "sub": USERNAME,
        "aud": _SERVICE,
        "iat": now,
        "nbf": now - 60,
        "exp": now + 600,
        "jti": secrets.token_hex(),
        "access": [{"type": kind, "name": name, "actions": actions.split(",")}] if scope else [],
    }
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
