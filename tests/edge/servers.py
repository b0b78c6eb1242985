"""A registry server in this process: by the OCI distribution protocol, and as faulty as it is told.

    with RegistryServer() as server:
        server.fault("GET", "/manifests/", answer(503), times=2)
        store = RemoteStore(server.location, Connection())

It answers as Debian's docker-registry does, which `tests/peers/test_registry_server.py` holds it
to. Every request is in its `log`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

REPOSITORY = "models/cells"

_ROUTE = re.compile(r"/v2/(?P<name>[a-z0-9/_.-]+)/(?P<kind>manifests|blobs|tags)/(?P<rest>.+)")
_OCI = "application/vnd.oci.image."
_STORAGE = "/storage/"


@dataclass(frozen=True)
class Seen:
    """A request that the server got."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    client: int  # the port on the other side, which tells connections apart
    size: int  # bytes of its body


@dataclass(frozen=True)
class Auth:
    """What the server wants to see before it answers."""

    scheme: str  # "Basic" or "Bearer"
    username: str = "ada"
    password: str = "correct horse"
    identity_token: str | None = None  # what its token service takes, too
    realm: str | None = None  # the token service's URL, when it is another's
    challenge: str | None = None  # the whole header, when it is another one


@dataclass(frozen=True)
class Kind:
    """How a server differs from Debian's docker-registry."""

    create_first: bool = False  # pushes to repositories that exist already, no others
    types: frozenset[str] | None = None  # of configs and artifacts that it takes; None for all
    storage: bool = False  # sends who wants a blob to another host, which takes no Authorization
    cookies: bool = False  # starts a session, and refuses who goes on with it without its token
    page_tokens: bool = False  # names the next page by a token of its own


@dataclass
class Repository:
    """What one repository holds."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # type and content
    tags: dict[str, str] = field(default_factory=dict)


Action = Callable[["_Handler"], None]


@dataclass
class _Fault:
    method: str
    path: re.Pattern[str]
    action: Action
    times: int


class RegistryServer:
    """A registry server on a free port of the loopback interface, until its context ends."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        auth: Auth | None = None,
        deleting: bool = True,
        page_size: int | None = None,
        ranges: bool = True,
        absolute_urls: bool = True,
        kind: Kind | None = None,
    ) -> None:
        self.kind = kind or Kind()
        self.auth = auth
        self.deleting = deleting
        self.page_size = page_size
        self.ranges = ranges
        self.absolute_urls = absolute_urls
        self.log: list[Seen] = []
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, list[str]] = {}  # the scopes of each
        self.uploads: set[str] = set()
        self.before: Callable[[Seen], None] | None = None  # called before a request is heeded
        self.after: Callable[[Seen], None] | None = None
        self.stopped = threading.Event()
        self.lock = threading.RLock()
        self.scheme = "http" if tls is None else "https"
        self._faults: list[_Fault] = []
        self._server = _Server(self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> RegistryServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def location(self) -> str:
        return f"oci://{self.host}/{REPOSITORY}"

    @property
    def repository(self) -> Repository:
        """The one that `location` names, which exists once something was written to it."""
        return self.repositories.setdefault(REPOSITORY, Repository())

    def expire_untagged(self) -> None:
        """Remove manifests that no tag leads to, as some servers do after hours or days."""
        for repository in self.repositories.values():
            kept = set(repository.tags.values())
            for digest in tuple(kept):
                document = json.loads(repository.manifests[digest][1])
                kept.update(entry["digest"] for entry in document.get("manifests", ()))
            for digest in repository.manifests.keys() - kept:
                del repository.manifests[digest]

    def put(self, content: bytes, media_type: str | None = None, *tags: str) -> str:
        """Store a blob, or a manifest when it has a type, without a check; return its digest."""
        digest = sha256(content)
        if media_type is None:
            self.repository.blobs[digest] = content
        else:
            self.repository.manifests[digest] = (media_type, content)
            self.repository.tags.update(dict.fromkeys(tags, digest))
        return digest

    def fault(self, method: str, path: str, action: Action, times: int = 1 << 30) -> None:
        """Answer with `action` the next `times` requests whose path has a match of `path`."""
        self._faults.append(_Fault(method, re.compile(path), action, times))

    def heal(self) -> None:
        """Be without faults from now on."""
        self._faults.clear()

    def asked(self, method: str, path: str = "") -> list[Seen]:
        """The requests so far with this method, and a path that has a match of `path`."""
        return [seen for seen in self.log if seen.method == method and re.search(path, seen.path)]

    def take_fault(self, method: str, path: str) -> Action | None:
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault.action
        return None


# What faults do.


def answer(status: int, body: bytes = b"", **headers: str) -> Action:
    """Answer properly, with a status of one's own; `Retry_After="1"` is a header."""

    def act(handler: _Handler) -> None:
        handler.reply(status, body, {name.replace("_", "-"): headers[name] for name in headers})

    return act


def raw(data: bytes, then: str = "close") -> Action:
    """Send bytes as they are, and then "close" or "stall"."""

    def act(handler: _Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)
        handler.wfile.flush()
        if then == "stall":
            handler.owner.stopped.wait()

    return act


def dripping(head: bytes, drop: bytes, seconds: float = 0.02) -> Action:
    """Send `head` and then `drop`, again and again, slowly: there always is a byte in time."""

    def act(handler: _Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not handler.owner.stopped.wait(seconds):
            handler.wfile.write(drop)

    return act


def endless(head: bytes, block: bytes) -> Action:
    """Send `head` and then `block`, again and again, as fast as it is taken."""

    def act(handler: _Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not handler.owner.stopped.is_set():
            handler.wfile.write(block)

    return act


def reset() -> Action:
    """Break the connection off, without an answer."""

    def act(handler: _Handler) -> None:
        handler.close_connection = True
        linger = struct.pack("ii", 1, 0)  # on, for 0 seconds: then the end is no orderly one
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return act


@dataclass(frozen=True)
class Unread:
    """Do what another action does, without having read the request's body."""

    action: Action

    def __call__(self, handler: _Handler) -> None:
        handler.close_connection = True
        self.action(handler)


def redirect(url: str, status: int = 307) -> Action:
    return answer(status, Location=url)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, owner: RegistryServer, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        if tls is not None:
            # The handshake is the business of the connection's thread.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: that clients break off is what most tests are about."""


class _Error(Exception):
    """An answer without success, as OCI prescribes it."""

    def __init__(
        self, status: int, code: str, message: str, detail: object = None, **headers: str
    ) -> None:
        super().__init__(code)
        self.status = status
        error = {"code": code, "message": message, "detail": detail}
        self.body = json.dumps({"errors": [error]}).encode()
        self.headers = {"Content-Type": "application/json", **headers}


class ForwardProxy:
    """A proxy on a free port of the loopback interface, as HTTPS_PROXY names one.

    It knows `hosts`, each by name and port, and where they really are. What it was asked for is in
    its `log`, with the login that it was shown.
    """

    def __init__(self, hosts: Mapping[str, RegistryServer], *, login: str | None = None) -> None:
        self.log: list[tuple[str, str | None]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def do_CONNECT(self) -> None:
                shown = self.headers.get("Proxy-Authorization")
                proxy.log.append((self.path, shown))
                if login is not None and shown != _basic_login(login):
                    self.send_error(407, "Proxy Authentication Required")
                elif self.path not in hosts:
                    self.send_error(403, "Forbidden \x1b[31m by policy")
                else:
                    self.send_response_only(200, "Connection established")
                    self.end_headers()
                    self._pass_on(hosts[self.path].port)
                self.close_connection = True

            def _pass_on(self, port: int) -> None:
                with socket.create_connection(("127.0.0.1", port)) as there:
                    back = threading.Thread(target=_pump, args=(there, self.connection))
                    back.start()
                    _pump(self.connection, there)
                    back.join()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> ForwardProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, until nothing more does."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def owner(self) -> RegistryServer:
        return self.server.owner

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        action = self.owner.take_fault(self.command, parts.path)
        self._body = b"" if isinstance(action, Unread) else self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query)
        client = self.client_address[1]
        self._seen = Seen(self.command, parts.path, query, headers, client, len(self._body))
        if self.owner.before is not None:
            self.owner.before(self._seen)
        self.owner.log.append(self._seen)
        try:
            if action is not None:
                action(self)
            else:
                self.go_on()
        except _Error as error:
            self.reply(error.status, error.body, error.headers)
        if self.owner.after is not None:
            self.owner.after(self._seen)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def go_on(self) -> None:
        """For a fault that lets this request pass."""
        with self.owner.lock:
            self._route(self._seen, self._body)

    def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer properly."""
        self.send_response_only(status)
        cookie = {"Set-Cookie": "sid=1; Path=/; HttpOnly"} if self.owner.kind.cookies else {}
        for name, value in {"Content-Length": str(len(body)), **cookie, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, seen: Seen, body: bytes) -> None:
        if self.owner.kind.cookies and "cookie" in seen.headers:
            raise _Error(403, "FORBIDDEN", "CSRF token not found in request")
        if seen.path == "/token":
            return self._token(seen, body)
        if seen.path.startswith(_STORAGE):
            return self._stored(seen)
        match = _ROUTE.fullmatch(seen.path)
        self._authorize(seen, match["name"] if match else None)
        if seen.path == "/v2/":
            return self.reply(200, b"{}", {"Content-Type": "application/json"})
        if match is None:
            return self.reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if self.owner.kind.create_first and name not in self.owner.repositories:
            raise _Error(404, "NAME_UNKNOWN", "The repository does not exist in the registry")
        if kind == "tags":
            return self._tags(name, seen)
        if kind == "blobs" and seen.method in ("POST", "PUT"):
            return self._upload(name, seen, body)
        repository = self.owner.repositories.get(name, Repository())
        if kind == "blobs":
            return self._blob(repository, rest)
        if seen.method == "PUT":
            repository = self.owner.repositories.setdefault(name, Repository())
            return self._put_manifest(repository, rest, body)
        if seen.method == "DELETE":
            return self._delete_manifest(repository, rest)
        return self._manifest(repository, rest)

    def _authorize(self, seen: Seen, name: str | None) -> None:
        auth, given = self.owner.auth, seen.headers.get("authorization")
        if auth is None:
            return
        challenge = auth.challenge or 'Basic realm="registry"'
        if auth.scheme == "Basic":
            if given == _basic(auth):
                return
        else:
            actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
            scope = f"repository:{name}:{actions.get(seen.method, 'pull,push')}" if name else ""
            token = (given or "").removeprefix("Bearer ")
            if self.owner.tokens.get(token) == [scope]:
                return
            realm = auth.realm or f"{self.owner.url}/token"
            challenge = auth.challenge or f'Bearer realm="{realm}",service="test",scope="{scope}"'
        raise _Error(
            401, "UNAUTHORIZED", "authentication required", **{"WWW-Authenticate": challenge}
        )

    def _token(self, seen: Seen, body: bytes) -> None:
        auth = self.owner.auth or Auth("Bearer")
        if seen.method == "POST":
            asked = parse_qs(body.decode())
            allowed = asked.get("refresh_token") == [auth.identity_token]
        else:
            asked = dict(seen.query)
            allowed = seen.headers.get("authorization") == _basic(auth)
        if not allowed:
            raise _Error(401, "UNAUTHORIZED", "incorrect username or password")
        token = secrets.token_urlsafe()
        self.owner.tokens[token] = asked.get("scope", [""])
        self.reply(200, json.dumps({"token": token}).encode(), {"Content-Type": "application/json"})

    def _tags(self, name: str, seen: Seen) -> None:
        if name not in self.owner.repositories:
            raise _Error(404, "NAME_UNKNOWN", "repository name not known to registry")
        tags = sorted(self.owner.repositories[name].tags)
        headers = {"Content-Type": "application/json"}
        if self.owner.page_size is not None:
            (last,) = seen.query.get("last", [""])
            if self.owner.kind.page_tokens:
                (token,) = seen.query.get("next_page", [""])
                last = bytes.fromhex(token).decode()
            rest = [tag for tag in tags if tag > last]
            tags = rest[: self.owner.page_size]
            if len(rest) > len(tags):
                query = urlencode({"last": tags[-1], "n": self.owner.page_size})
                if self.owner.kind.page_tokens:
                    query = urlencode({"next_page": tags[-1].encode().hex()})
                headers["Link"] = f'<{self._url(seen.path)}?{query}>; rel="next"'
        # docker-registry writes null for an empty list.
        self.reply(200, json.dumps({"name": name, "tags": tags or None}).encode(), headers)

    def _upload(self, name: str, seen: Seen, body: bytes) -> None:
        if seen.method == "POST":
            upload = secrets.token_hex(8)
            self.owner.uploads.add(upload)
            path = f"/v2/{name}/blobs/uploads/{upload}?_state={upload}"
            return self.reply(202, b"", {"Location": self._url(path)})
        (upload,) = seen.query.get("_state", [""])
        if upload not in self.owner.uploads or not seen.path.endswith(f"/uploads/{upload}"):
            raise _Error(404, "BLOB_UPLOAD_INVALID", "blob upload invalid")
        digest = sha256(body)
        if seen.query.get("digest") != [digest]:
            raise _Error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.owner.uploads.remove(upload)
        self.owner.repositories.setdefault(name, Repository()).blobs[digest] = body
        location = self._url(f"/v2/{name}/blobs/{digest}")
        return self.reply(201, b"", {"Location": location, "Docker-Content-Digest": digest})

    def _blob(self, repository: Repository, digest: str) -> None:
        content = repository.blobs.get(digest)
        if content is None:
            raise _Error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.owner.kind.storage:
            where = f"{self.owner.scheme}://localhost:{self.owner.port}{_STORAGE}"
            return self.reply(307, b"", {"Location": f"{where}{digest}?signature=1"})
        return self._content(content, digest)

    def _stored(self, seen: Seen) -> None:
        """Answer as object storage does for a signed URL."""
        if "authorization" in seen.headers:
            raise _Error(400, "InvalidArgument", "Only one auth mechanism allowed")
        digest = seen.path.removeprefix(_STORAGE)
        (content,) = {
            r.blobs[digest] for r in self.owner.repositories.values() if digest in r.blobs
        }
        self._content(content, digest)

    def _content(self, content: bytes, digest: str) -> None:
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or not self.owner.ranges:
            return self.reply(200, content, headers)
        start = int(match[1])
        if start >= len(content):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.reply(206, content[start:], headers)

    def _manifest(self, repository: Repository, reference: str) -> None:
        digest = repository.tags.get(reference, reference)
        if digest not in repository.manifests:
            raise _Error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, content = repository.manifests[digest]
        self.reply(200, content, {"Content-Type": media_type, "Docker-Content-Digest": digest})

    def _put_manifest(self, repository: Repository, reference: str, body: bytes) -> None:
        digest, media_type = sha256(body), self.headers.get("Content-Type", "")
        try:
            document = json.loads(body)
            valid = document["mediaType"] == media_type and media_type.startswith(_OCI)
        except (ValueError, KeyError):
            valid = False
        if not valid:
            raise _Error(400, "MANIFEST_INVALID", "manifest invalid")
        if reference.startswith("sha256:") and reference != digest:
            raise _Error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        layers = [document["config"], *document["layers"]] if "config" in document else []
        for child in layers + document.get("manifests", []):
            if child["digest"] not in (*repository.blobs, *repository.manifests):
                raise _Error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
        types = {document.get("artifactType"), document.get("config", {}).get("mediaType")} - {None}
        if self.owner.kind.types is not None and (unknown := types - self.owner.kind.types):
            raise _Error(
                400, "MANIFEST_INVALID", "manifest invalid", f"unknown media type: {min(unknown)}"
            )
        repository.manifests[digest] = (media_type, body)
        if reference != digest:
            repository.tags[reference] = digest
        self.reply(201, b"", {"Docker-Content-Digest": digest})

    def _delete_manifest(self, repository: Repository, reference: str) -> None:
        if not self.owner.deleting:
            raise _Error(405, "UNSUPPORTED", "The operation is unsupported.")
        if not reference.startswith("sha256:"):
            raise _Error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if reference not in repository.manifests:
            raise _Error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        del repository.manifests[reference]
        for tag in [tag for tag, digest in repository.tags.items() if digest == reference]:
            del repository.tags[tag]
        self.reply(202, b"", {})

    def _url(self, path: str) -> str:
        return f"{self.owner.url}{path}" if self.owner.absolute_urls else path


def _basic(auth: Auth) -> str:
    return _basic_login(f"{auth.username}:{auth.password}")


def _basic_login(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"
