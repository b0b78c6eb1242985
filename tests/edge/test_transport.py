"""Faults, TLS and logins of a registry server, each against the real client.

The server never lets a stalled request go before a test ends, so that a test which ends at all
shows that the client's bounds hold.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeline.errors import IntegrityError, NotFoundError, RegistryError, UnreachableError
from edgeline.registry import _sockets, transport
from edgeline.registry._sockets import Budget
from edgeline.registry.format import OCI_MANIFEST, WEIGHTS, Descriptor
from edgeline.registry.proxy import is_loopback
from edgeline.registry.remote import RemoteStore, parse_location
from edgeline.registry.store import Connection
from edgeline.registry.transport import Client, choose_scheme
from tests.edge.certificates import Authority, server_context
from tests.edge.servers import (
    Action,
    Auth,
    ForwardProxy,
    RegistryServer,
    answer,
    dripping,
    endless,
    raw,
    redirect,
    reset,
    sha256,
)

MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
BLOB = bytes(range(256)) * 1024
DESCRIPTOR = Descriptor(WEIGHTS, sha256(BLOB), len(BLOB))
LIMIT = 1 << 20
SHORT = 0.5  # seconds, for what never ends by itself
IN_TIME = r"within 0\.5 seconds"
PASSWORD = "correct horse"

BOMB = gzip.compress(bytes(1 << 24))
OK = b"HTTP/1.1 200 OK\r\nContent-Type: " + OCI_MANIFEST.encode() + b"\r\n"


@dataclass(frozen=True)
class Fault:
    """What a server does, and what becomes of it."""

    action: Action
    error: type[RegistryError]
    says: str
    tries: int = 1
    timeout: float = 30.0


REFUSED = json.dumps({"errors": [{"code": "DENIED", "message": "two\nlines\u202e" * 50}]}).encode()

FAULTS = {
    "it answers 400": Fault(answer(400), RegistryError, "refuses with HTTP 400"),
    "it answers 401": Fault(answer(401), RegistryError, "docker login 127.0.0.1:"),
    "it answers 403": Fault(answer(403), RegistryError, "access is denied"),
    "it answers 403 at length": Fault(answer(403, REFUSED), RegistryError, r"'DENIED: two\\nlines"),
    "it answers 404": Fault(answer(404), NotFoundError, "it is not there"),
    "it answers 418": Fault(answer(418), RegistryError, "refuses with HTTP 418"),
    "it answers 204": Fault(raw(b"HTTP/1.1 204 No\r\n\r\n"), RegistryError, "HTTP 204"),
    "it answers 304": Fault(raw(b"HTTP/1.1 304 No\r\n\r\n"), RegistryError, "HTTP 304"),
    "it always answers 429": Fault(answer(429), UnreachableError, "asked too much .*5 times", 5),
    "it asks for too long a wait": Fault(
        answer(429, Retry_After="3600"), UnreachableError, "asks to wait 3600 seconds"
    ),
    "it asks for an absurd wait": Fault(
        answer(503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), UnreachableError, "asks to wait"
    ),
    "it asks for a wait that is none": Fault(
        answer(503, Retry_After="soon"), UnreachableError, "cannot answer now", 5
    ),
    "it always answers 500": Fault(answer(500), UnreachableError, "error of its own.*5 times", 5),
    "it answers 501": Fault(answer(501), UnreachableError, "an error of its own .HTTP 501"),
    "it always answers 502": Fault(answer(502), UnreachableError, "HTTP 502.*5 times", 5),
    "it always answers 503": Fault(answer(503), UnreachableError, "HTTP 503.*5 times", 5),
    "it always answers 504": Fault(answer(504), UnreachableError, "HTTP 504.*5 times", 5),
    "it resets connections": Fault(reset(), UnreachableError, "the connection broke", 5),
    "it closes connections": Fault(raw(b""), UnreachableError, "the connection broke", 5),
    "it speaks no HTTP": Fault(raw(b"\x00\x1b[31m\n\n"), UnreachableError, "connection broke", 5),
    "a status is no number": Fault(raw(b"HTTP/1.1 OK\r\n\r\n"), UnreachableError, "broke", 5),
    "a body is truncated": Fault(
        raw(OK + b"Content-Length: 300\r\n\r\n{"), UnreachableError, "the connection broke", 5
    ),
    "a chunked body is truncated": Fault(
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{"), UnreachableError, "broke", 5
    ),
    "a chunk has no length": Fault(
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{"), UnreachableError, "broke", 5
    ),
    "it claims two lengths": Fault(
        raw(OK + b"Content-Length: 1, 2\r\n\r\n{"), UnreachableError, "broke", 5
    ),
    "it says nothing": Fault(raw(b"", "stall"), UnreachableError, IN_TIME, 1, SHORT),
    "it stops among the headers": Fault(raw(OK, "stall"), UnreachableError, IN_TIME, 1, SHORT),
    "it stops within a body": Fault(
        raw(OK + b"Content-Length: 9\r\n\r\n{", "stall"), UnreachableError, IN_TIME, 1, SHORT
    ),
    "its headers drip": Fault(dripping(OK + b"X: ", b"a"), UnreachableError, IN_TIME, 1, SHORT),
    "its body drips": Fault(
        dripping(OK + b"Content-Length: 300\r\n\r\n", b"a"), UnreachableError, IN_TIME, 1, SHORT
    ),
    "it goes on and on before the answer": Fault(
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), UnreachableError, IN_TIME, 1, SHORT
    ),
    "its headers have no end": Fault(endless(OK, b"X: y\r\n"), UnreachableError, "broke", 5),
    "a header has no end": Fault(endless(OK + b"X: ", b"a" * 9999), UnreachableError, "broke", 5),
    "a body has no end": Fault(endless(OK + b"\r\n", b"a" * 9999), IntegrityError, "more than the"),
    "a chunked body has no end": Fault(
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8\r\naaaaaaaa\r\n" * 99),
        IntegrityError,
        "more than the",
    ),
    "a body is said to be huge": Fault(
        raw(OK + b"Content-Length: 999999999999\r\n\r\n{"), IntegrityError, "999999999999"
    ),
    "a body is a gzip bomb": Fault(
        answer(200, BOMB, Content_Type=OCI_MANIFEST, Content_Encoding="gzip"),
        IntegrityError,
        "encoded as 'gzip'",
    ),
    "it redirects to itself": Fault(
        redirect("/v2/again", 302), RegistryError, "more than 5 redirects"
    ),
    "it redirects to plain HTTP": Fault(
        redirect("http://registry.invalid/x"), RegistryError, "plain HTTP, at 'registry.invalid'"
    ),
    "it redirects to a file": Fault(
        redirect("file:///etc/passwd"), RegistryError, "unusable redirect"
    ),
    "it redirects to nowhere": Fault(answer(307), RegistryError, "unusable redirect"),
    "it redirects to a broken URL": Fault(redirect("https://[::1"), RegistryError, "unusable"),
    "it redirects to what is no name": Fault(redirect("https://a..b/"), RegistryError, "unusable"),
    "it redirects with a login": Fault(redirect("https://a:b@c/"), RegistryError, "unusable"),
    "it redirects to who is down": Fault(
        redirect("http://127.0.0.1:1/"), UnreachableError, "cannot be reached at '127.0.0.1'"
    ),
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.put(MANIFEST, OCI_MANIFEST, "v1")
        server.put(BLOB)
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without logins; and no pauses between tries, whose lengths have tests of their own."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.0)
    return tmp_path


def log_in(home: Path, server: RegistryServer, password: str = PASSWORD) -> Path:
    """What `docker login` does."""
    return write_logins(home, {server.host: {"auth": encoded(f"ada:{password}")}})


def write_logins(home: Path, auths: Mapping[str, Any], **more: Any) -> Path:
    file = home / ".docker" / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"auths": auths, **more}))
    return file


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def check_line(error: RegistryError, *parts: str) -> None:
    """An error is one line, for a terminal, and says what failed where."""
    line = str(error)
    assert line.isprintable()
    assert len(line) < 600
    assert PASSWORD not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_clear_error_in_a_bounded_time(server: RegistryServer, name: str) -> None:
    fault = FAULTS[name]
    server.fault("GET", "", fault.action)
    store = RemoteStore(server.location, Connection(timeout=fault.timeout))
    with pytest.raises(RegistryError, match=fault.says) as caught:
        store.read_tag("v1", limit=LIMIT)
    assert type(caught.value) is fault.error
    check_line(caught.value, f"{server.host}/models/cells: reading tag 'v1' failed: ")
    assert len(server.asked("GET", "manifests/v1")) == fault.tries


READS: dict[str, Callable[[RemoteStore], object]] = {
    "reading blob": lambda store: store.read_blob(DESCRIPTOR, limit=LIMIT),
    "reading blob from the middle": lambda store: list(store.stream_blob(DESCRIPTOR, offset=7)),
    "listing tags": lambda store: store.tags(),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
LENGTH = f"Content-Length: {len(BLOB)}\r\n\r\n".encode()


CONTENTS: dict[str, tuple[Action, type[RegistryError]]] = {
    "says nothing": (raw(b"", "stall"), UnreachableError),
    "stalls": (raw(HEAD + LENGTH + BLOB[:9], "stall"), UnreachableError),
    "drips": (dripping(HEAD + LENGTH, b"a"), UnreachableError),
    "is truncated": (raw(HEAD + LENGTH + BLOB[:-1]), UnreachableError),
    "has no end": (endless(HEAD + b"\r\n", bytes(1 << 16)), IntegrityError),
    "is encoded": (answer(200, BLOB, Content_Encoding="br"), IntegrityError),
    "is denied": (answer(403), RegistryError),
    "is an error": (answer(500), UnreachableError),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", CONTENTS)
def test_whatever_is_read_is_bounded_the_same_way(
    server: RegistryServer, read: str, name: str
) -> None:
    action, error = CONTENTS[name]
    server.fault("GET", "", action)
    never_ends = name in ("says nothing", "stalls", "drips")
    store = RemoteStore(server.location, Connection(timeout=SHORT if never_ends else 30.0))
    with pytest.raises(error) as caught:
        READS[read](store)
    check_line(caught.value, server.host, read.removesuffix(" from the middle"))


def test_content_may_take_longer_than_an_operation_unless_it_drips(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count()  # a second passes between any two looks at the clock
    monkeypatch.setattr(_sockets, "time", SimpleNamespace(monotonic=lambda: next(now)))
    budget = Budget(seconds=60, silence=15)

    def read(size: int) -> None:
        for _ in range(1000):
            budget.share(15)
            budget.progress(size)

    read(64 << 10)
    with pytest.raises(TimeoutError):
        read(1)


def test_silence_ends_a_request_before_its_time_is_over(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A connection that went dead unnoticed costs a try, and not the operation.
    monkeypatch.setattr(transport.Client.budget, "__defaults__", (SHORT,))
    server.fault("GET", "manifests", raw(b"", "stall"), times=1)
    store = RemoteStore(server.location, Connection(timeout=600.0))
    assert store.read_tag("v1", limit=LIMIT)[1] == MANIFEST


@pytest.mark.parametrize("fault", ["reset", "truncated", "429", "500", "502", "503", "504"])
def test_a_passing_fault_is_not_noticed(server: RegistryServer, fault: str) -> None:
    truncated = raw(HEAD + LENGTH + BLOB[:-1])
    action = {"reset": reset(), "truncated": truncated}.get(fault) or answer(int(fault))
    server.fault("GET", "blobs", action, times=4)
    store = RemoteStore(server.location, Connection())
    assert store.read_blob(DESCRIPTOR, limit=LIMIT) == BLOB


@pytest.mark.parametrize(
    ("header", "seconds"),
    {"in seconds": ("7", (7.0, 7.0)), "as a date": (None, (5.0, 7.0))}.values(),
    ids=["in seconds", "as a date"],
)
def test_a_wait_that_is_asked_for_is_kept(
    server: RegistryServer,
    monkeypatch: pytest.MonkeyPatch,
    header: str | None,
    seconds: tuple[float, float],
) -> None:
    waits: list[float] = []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "sleep", waits.append)
    date = formatdate(int(now) + 6, usegmt=True)
    server.fault("GET", "manifests", answer(429, Retry_After=header or date), times=1)
    RemoteStore(server.location, Connection()).read_tag("v1", limit=LIMIT)
    assert len(waits) == 1
    assert seconds[0] <= waits[0] <= seconds[1]


def test_tries_are_further_and_further_apart(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 1.0)
    server.fault("GET", "manifests", answer(503))
    with pytest.raises(UnreachableError):
        RemoteStore(server.location, Connection()).read_tag("v1", limit=LIMIT)
    assert [0.5 <= wait / 2**tried <= 1.5 for tried, wait in enumerate(waits)] == [True] * 4


def test_connections_are_kept(server: RegistryServer) -> None:
    store = RemoteStore(server.location, Connection())
    for _ in range(3):
        store.tags()
        store.read_tag("v1", limit=LIMIT)
        store.read_blob(DESCRIPTOR, limit=LIMIT)
        with pytest.raises(NotFoundError):
            store.read_tag("v2", limit=LIMIT)
    assert len({seen.client for seen in server.log}) == 1


def test_other_things_can_be_read_while_a_blob_is_streamed(server: RegistryServer) -> None:
    store = RemoteStore(server.location, Connection())
    first, second = store.stream_blob(DESCRIPTOR), store.stream_blob(DESCRIPTOR, offset=1)
    chunks = [next(first)], [next(second)]
    assert store.read_tag("v1", limit=LIMIT)[1] == MANIFEST
    chunks[0].extend(first)
    chunks[1].extend(second)
    assert (b"".join(chunks[0]), b"".join(chunks[1])) == (BLOB, BLOB[1:])


# Nobody there.


def test_a_server_that_is_down_is_unreachable_at_once(server: RegistryServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"cannot be reached: Connection refused") as caught:
        RemoteStore(f"oci://127.0.0.1:{port}/cells", Connection()).tags()
    check_line(caught.value, f"127.0.0.1:{port}/cells: listing tags failed")


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server that swallows what asks it for a connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(4):  # enough to fill its queue
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_server_that_takes_no_connection_is_given_up(deaf: int) -> None:
    store = RemoteStore(f"oci://127.0.0.1:{deaf}/cells", Connection(timeout=SHORT))
    with pytest.raises(UnreachableError, match=IN_TIME) as caught:
        store.tags()
    check_line(caught.value, "listing tags")


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    store = RemoteStore("oci://registry.invalid/cells", Connection())
    with pytest.raises(UnreachableError, match="its name cannot be resolved") as caught:
        store.tags()
    check_line(caught.value, "registry.invalid/cells: listing tags failed")


def test_a_name_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait())
    store = RemoteStore("oci://registry.invalid/cells", Connection(timeout=SHORT))
    with pytest.raises(UnreachableError, match=IN_TIME):
        store.tags()
    over.set()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    server: RegistryServer, deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
        for port in (1, deaf, server.port)  # the first one refuses at once
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    assert RemoteStore(server.location, Connection(timeout=2 * SHORT)).tags() == ["v1"]


# Redirects.


def test_a_blob_may_be_at_another_server_which_gets_no_login(
    server: RegistryServer, home: Path
) -> None:
    server.auth = Auth("Basic")
    log_in(home, server)
    with RegistryServer() as storage:
        storage.put(BLOB)
        url = f"http://localhost:{storage.port}/v2/models/cells/blobs/{DESCRIPTOR.digest}"
        server.fault("GET", "/blobs/", redirect(url))
        store = RemoteStore(server.location, Connection())
        assert store.tags() == ["v1"]
        assert store.read_blob(DESCRIPTOR, limit=LIMIT) == BLOB
        assert b"".join(store.stream_blob(DESCRIPTOR, offset=1)) == BLOB[1:]
        assert "authorization" in server.asked("GET", "/blobs/")[-1].headers
        assert all("authorization" not in seen.headers for seen in storage.log)
        assert [seen.headers.get("range") for seen in storage.log] == [None, "bytes=1-"]


def test_another_server_is_not_given_a_login_when_it_asks(
    server: RegistryServer, home: Path
) -> None:
    log_in(home, server)
    with RegistryServer(auth=Auth("Basic")) as storage:
        server.fault("GET", "/blobs/", redirect(f"{storage.url}/v2/models/cells/blobs/x"))
        with pytest.raises(RegistryError, match="it wants a login"):
            RemoteStore(server.location, Connection()).read_blob(DESCRIPTOR, limit=LIMIT)
        assert all("authorization" not in seen.headers for seen in storage.log)


def test_five_redirects_are_followed_and_no_more(server: RegistryServer) -> None:
    for hop in range(5):
        server.fault(
            "GET", f"/hop{hop}$", redirect(f"/hop{hop + 1}", (301, 302, 303, 307, 308)[hop])
        )
    server.fault("GET", "/hop5$", answer(200, BLOB))
    server.fault("GET", "/blobs/", redirect("/hop1"))
    store = RemoteStore(server.location, Connection())
    assert store.read_blob(DESCRIPTOR, limit=LIMIT) == BLOB
    server.fault("GET", "/manifests/", redirect("/hop0"))
    with pytest.raises(RegistryError, match="more than 5 redirects in a row"):
        store.read_tag("v1", limit=LIMIT)


# TLS, and doing without.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def secure(authority: Authority) -> Iterator[RegistryServer]:
    with RegistryServer(tls=server_context(authority.issue("127.0.0.1"))) as server:
        server.put(MANIFEST, OCI_MANIFEST, "v1")
        yield server


def test_a_server_with_a_certificate_of_a_given_ca_is_trusted(
    secure: RegistryServer, authority: Authority
) -> None:
    store = RemoteStore(secure.location, Connection(ca_file=authority.file))
    assert store.tags() == ["v1"]
    assert store.read_tag("v1", limit=LIMIT)[1] == MANIFEST
    assert len({seen.client for seen in secure.log}) == 1


@pytest.mark.parametrize("fault", ["it says nothing", "its body drips", "a body is truncated"])
def test_faults_are_bounded_over_tls_too(
    secure: RegistryServer, authority: Authority, fault: str
) -> None:
    secure.fault("GET", "", FAULTS[fault].action)
    store = RemoteStore(secure.location, Connection(ca_file=authority.file, timeout=SHORT))
    with pytest.raises(UnreachableError) as caught:
        store.read_tag("v1", limit=LIMIT)
    check_line(caught.value, secure.host, "reading tag")


def test_a_handshake_that_stalls_is_given_up(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        location = f"oci://127.0.0.1:{mute.getsockname()[1]}/cells"
        with pytest.raises(UnreachableError, match=IN_TIME):
            RemoteStore(location, Connection(ca_file=authority.file, timeout=SHORT)).tags()


def test_a_certificate_of_another_ca_is_not_trusted(secure: RegistryServer, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with pytest.raises(RegistryError, match=r"is not trusted \(.*give the CA's") as caught:
        RemoteStore(secure.location, Connection(ca_file=other.file)).tags()
    check_line(caught.value, secure.host)
    assert secure.log == []


def test_a_certificate_for_another_name_is_not_trusted(authority: Authority) -> None:
    with RegistryServer(tls=server_context(authority.issue("registry.invalid"))) as server:
        with pytest.raises(RegistryError, match=r"is not trusted .*mismatch") as caught:
            RemoteStore(server.location, Connection(ca_file=authority.file)).tags()
        check_line(caught.value, server.host)
        assert server.log == []


def test_a_server_without_tls_is_told_apart(server: RegistryServer, authority: Authority) -> None:
    with pytest.raises(RegistryError, match="it does not speak TLS") as caught:
        RemoteStore(server.location, Connection(ca_file=authority.file)).tags()
    check_line(caught.value, server.host)


def test_a_client_shows_its_certificate(authority: Authority, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    device, stranger = clients.issue("device"), Authority(tmp_path, "others").issue("stranger")
    tls = server_context(authority.issue("127.0.0.1"), clients)
    with RegistryServer(tls=tls) as server:
        server.put(MANIFEST, OCI_MANIFEST, "v1")

        def tags(certificate: Path | None = None, key: Path | None = None) -> list[str]:
            return RemoteStore(server.location, Connection(authority.file, certificate, key)).tags()

        assert tags(device.certificate, device.key) == ["v1"]
        both = tmp_path / "both.pem"
        both.write_bytes(device.certificate.read_bytes() + device.key.read_bytes())
        assert tags(both) == ["v1"]
        for wrong in ((), (stranger.certificate, stranger.key)):
            with pytest.raises(RegistryError, match="it wants a client certificate") as caught:
                tags(*wrong)
            check_line(caught.value, server.host)


def test_other_servers_are_not_shown_the_client_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    device = authority.issue("device")
    home, storage = authority.issue("127.0.0.1"), authority.issue("localhost")
    with (
        RegistryServer(tls=server_context(home, authority)) as server,
        RegistryServer(tls=server_context(storage, authority)) as other,
    ):
        url = f"https://localhost:{other.port}/blob"
        server.fault("GET", "/blobs/", redirect(url))
        store = RemoteStore(
            server.location, Connection(authority.file, device.certificate, device.key)
        )
        with pytest.raises(RegistryError, match="a client certificate at 'localhost'"):
            store.read_blob(DESCRIPTOR, limit=LIMIT)


def test_nothing_is_redirected_from_tls_to_plain_http(
    secure: RegistryServer, server: RegistryServer, authority: Authority
) -> None:
    secure.fault("GET", "", redirect(f"{server.url}/v2/models/cells/manifests/v1"))
    with pytest.raises(RegistryError, match="it redirects to plain HTTP") as caught:
        RemoteStore(secure.location, Connection(ca_file=authority.file)).read_tag("v1", limit=LIMIT)
    check_line(caught.value, secure.host)
    assert server.log == []


PLAIN = Connection()
INSECURE = Connection(insecure=True)
WITH_CA = Connection(ca_file=Path("ca.pem"))


@pytest.mark.parametrize(
    ("host", "connection", "scheme"),
    [
        ("localhost", PLAIN, "http"),
        ("localhost:5000", PLAIN, "http"),
        ("LOCALHOST:5000", PLAIN, "http"),
        ("127.0.0.1:5000", PLAIN, "http"),
        ("127.8.9.10", PLAIN, "http"),
        ("[::1]:5000", PLAIN, "http"),
        ("[::1]", PLAIN, "http"),
        ("127.0.0.1.example", PLAIN, "https"),
        ("localhost.example", PLAIN, "https"),
        ("registry.example:80", PLAIN, "https"),
        ("10.0.0.1", PLAIN, "https"),
        ("[::2]:5000", PLAIN, "https"),
        ("registry.example:5000", INSECURE, "http"),
        ("localhost:5000", WITH_CA, "https"),
    ],
)
def test_tls_is_the_rule(host: str, connection: Connection, scheme: str) -> None:
    assert choose_scheme(host, connection) == scheme


def test_docker_hub_answers_under_another_name() -> None:
    client = Client("docker.io", "ada/cells", Connection())
    assert client._home.url == "https://registry-1.docker.io:443/"
    with pytest.raises(RegistryError, match=r"expected oci://docker.io/<account>/cells"):
        parse_location("oci://docker.io/cells")


def test_an_address_is_this_machine_by_its_bytes_and_not_by_its_looks() -> None:
    assert not is_loopback("127.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("")


def test_settings_that_cannot_be_used_are_refused(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("device")
    sealed = authority.issue("sealed", passphrase=b"secret")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    for connection, says in {
        Connection(ca_file=authority.file, insecure=True): "either insecure",
        Connection(client_key=issued.key): "a key without a client certificate",
        Connection(ca_file=tmp_path / "none.pem"): "none.pem cannot be used as CA: No such file",
        Connection(ca_file=garbage): "garbage.pem cannot be used as CA",
        Connection(client_cert=issued.certificate): "device.pem cannot be used as client cert",
        Connection(client_cert=garbage, client_key=issued.key): "garbage.pem and .*device.key",
        Connection(client_cert=sealed.certificate, client_key=sealed.key): "is encrypted",
        Connection(timeout=0): "a timeout above 0 seconds, got 0",
    }.items():
        with pytest.raises(RegistryError, match=says) as caught:
            RemoteStore("oci://127.0.0.1:1/cells", connection)
        check_line(caught.value)


# Proxies, which HTTPS_PROXY names.

BEHIND = "oci://registry.test/models/cells"  # no resolver knows that host


@pytest.fixture
def behind(authority: Authority) -> Iterator[RegistryServer]:
    with RegistryServer(tls=server_context(authority.issue("registry.test"))) as server:
        server.put(MANIFEST, OCI_MANIFEST, "v1")
        yield server


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Names a proxy in the environment, which then names no other one."""

    def name(url: str, variable: str = "HTTPS_PROXY", without: str = "") -> None:
        for each in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(each, raising=False)
            monkeypatch.delenv(each.lower(), raising=False)
        monkeypatch.setenv(variable, url)
        monkeypatch.setenv("NO_PROXY", without)

    return name


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_server_is_reached_through_a_proxy(
    behind: RegistryServer, authority: Authority, proxied: Callable[..., None], variable: str
) -> None:
    with ForwardProxy({"registry.test:443": behind}) as proxy:
        proxied(proxy.address, variable, without="localhost,example.org")
        store = RemoteStore(BEHIND, Connection(ca_file=authority.file))
        assert store.tags() == ["v1"]
        assert store.read_tag("v1", limit=LIMIT)[1] == MANIFEST
        assert proxy.log == [("registry.test:443", None)], "one tunnel for all"
        behind.fault("GET", "", reset(), times=1)
        assert store.tags() == ["v1"]
        assert proxy.log == [("registry.test:443", None)] * 2, "a new connection has a tunnel, too"


def test_a_proxy_is_used_for_what_a_server_redirects_to(
    behind: RegistryServer, authority: Authority, proxied: Callable[..., None]
) -> None:
    with RegistryServer(tls=server_context(authority.issue("storage.test"))) as storage:
        hosts = {"registry.test:443": behind, "storage.test:8443": storage}
        digest = storage.put(BLOB)
        path = f"/v2/models/cells/blobs/{digest}"
        behind.fault("GET", "/blobs/", redirect(f"https://storage.test:8443{path}"))
        with ForwardProxy(hosts) as proxy:
            proxied(f"http://{proxy.address}/")
            store = RemoteStore(BEHIND, Connection(ca_file=authority.file))
            assert store.read_blob(DESCRIPTOR, limit=LIMIT) == BLOB
            assert [host for host, _ in proxy.log] == list(hosts)


def test_a_login_is_shown_to_a_proxy_and_to_nobody_else(
    behind: RegistryServer, authority: Authority, proxied: Callable[..., None]
) -> None:
    with ForwardProxy({"registry.test:443": behind}, login=f"ada:{PASSWORD}") as proxy:
        proxied(f"http://ada:{PASSWORD.replace(' ', '%20')}@{proxy.address}")
        assert RemoteStore(BEHIND, Connection(ca_file=authority.file)).tags() == ["v1"]
        assert not {"authorization", "proxy-authorization"} & set(behind.log[0].headers)
        proxied(f"http://ada:wrong@{proxy.address}")
        with pytest.raises(UnreachableError, match=r"through \(407 Proxy Authentic") as caught:
            RemoteStore(BEHIND, Connection(ca_file=authority.file)).tags()
        check_line(caught.value, "registry.test", f"the proxy {proxy.address} of HTTPS_PROXY")
        assert "wrong" not in str(caught.value)


def test_a_proxy_may_refuse(proxied: Callable[..., None]) -> None:
    with ForwardProxy({}) as proxy:
        proxied(proxy.address)
        with pytest.raises(UnreachableError, match=r"does not let us through \(403 Forb") as caught:
            RemoteStore(BEHIND, Connection()).tags()
        check_line(caught.value, "registry.test", proxy.address)
        assert len(proxy.log) == 1, "it is not asked again"


def test_a_proxy_that_is_not_there_is_told(proxied: Callable[..., None]) -> None:
    proxied("http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match=r"127.0.0.1:1 of HTTPS_PROXY cannot be") as caught:
        RemoteStore(BEHIND, Connection()).tags()
    check_line(caught.value, "registry.test", "Connection refused")


def test_a_proxy_may_be_named_by_its_ipv6_address(proxied: Callable[..., None]) -> None:
    proxied("http://[::1]:1")
    with pytest.raises(UnreachableError, match=r"\[::1\]:1 of HTTPS_PROXY cannot be") as caught:
        RemoteStore(BEHIND, Connection()).tags()
    assert "resolved" not in str(caught.value)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["at once", "in its answer"])
def test_a_proxy_that_stalls_is_given_up(proxied: Callable[..., None], said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        proxied(f"http://127.0.0.1:{mute.getsockname()[1]}")
        held: list[socket.socket] = []

        def answer_in_part() -> None:
            held.append(mute.accept()[0])
            held[0].sendall(said)

        threading.Thread(target=answer_in_part).start()
        with pytest.raises(UnreachableError, match=IN_TIME):
            RemoteStore(BEHIND, Connection(timeout=SHORT)).tags()
        held[0].close()


def test_a_proxy_does_not_stand_in_for_the_server(
    behind: RegistryServer, authority: Authority, proxied: Callable[..., None], tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    with ForwardProxy({"registry.test:443": behind, "another.test:443": behind}) as proxy:
        proxied(proxy.address)
        with pytest.raises(RegistryError, match="is not trusted"):
            RemoteStore(BEHIND, Connection(ca_file=other.file)).tags()
        with pytest.raises(RegistryError, match=r"is not trusted .*mismatch"):
            RemoteStore("oci://another.test/x", Connection(ca_file=authority.file)).tags()
    assert behind.log == []


@pytest.mark.parametrize("without", ["registry.test", ".test", "a.example,registry.test:443", "*"])
def test_some_hosts_are_reached_without_a_proxy(proxied: Callable[..., None], without: str) -> None:
    with ForwardProxy({}) as proxy:
        proxied(proxy.address, without=without)
        with pytest.raises(UnreachableError, match="its name cannot be resolved"):
            RemoteStore(BEHIND, Connection()).tags()
        assert proxy.log == []


def test_this_machine_is_reached_without_a_proxy(
    secure: RegistryServer, authority: Authority, proxied: Callable[..., None]
) -> None:
    proxied("http://127.0.0.1:1")
    assert RemoteStore(secure.location, Connection(ca_file=authority.file)).tags() == ["v1"]


@pytest.mark.parametrize(
    "url",
    ["socks5://ada:secret@proxy.test", "https://ada:secret@proxy.test", "http://", "http://a:b:c"],
)
def test_what_is_no_proxy_is_told(proxied: Callable[..., None], url: str) -> None:
    proxied(url)
    with pytest.raises(RegistryError, match="HTTPS_PROXY names a proxy that cannot be") as caught:
        RemoteStore(BEHIND, Connection()).tags()
    check_line(caught.value, "expected http://", "NO_PROXY")
    assert "secret" not in str(caught.value)


# Logins.


def test_a_login_is_shown_to_a_server_that_asks(server: RegistryServer, home: Path) -> None:
    server.auth = Auth("Basic")
    log_in(home, server)
    store = RemoteStore(server.location, Connection())
    assert store.tags() == store.tags() == ["v1"]
    # It is shown only once asked for, and then without being asked again.
    assert ["authorization" in seen.headers for seen in server.log] == [False, True, True]


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_missing_login_is_told_with_where_it_was_looked_for(
    server: RegistryServer, home: Path, scheme: str
) -> None:
    server.auth = Auth(scheme)
    with pytest.raises(RegistryError) as caught:
        RemoteStore(server.location, Connection()).tags()
    check_line(caught.value, f"{home}/.docker/config.json has none: docker login {server.host}")


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_login_that_is_refused_is_told_with_where_it_is_from(
    server: RegistryServer, home: Path, scheme: str
) -> None:
    server.auth = Auth(scheme)
    file = log_in(home, server, password="wrong")
    with pytest.raises(RegistryError) as caught:
        RemoteStore(server.location, Connection()).tags()
    check_line(caught.value, f"the login in {file} was refused", f"docker login {server.host}")
    assert len(server.log) <= 3


def test_a_login_buys_a_token_for_each_scope(server: RegistryServer, home: Path) -> None:
    server.auth = Auth("Bearer")
    log_in(home, server)
    store = RemoteStore(server.location, Connection())
    assert store.tags() == ["v1"]
    assert store.read_tag("v1", limit=LIMIT)[1] == MANIFEST
    (asked,) = server.asked("GET", "/token")
    assert asked.query == {"service": ["test"], "scope": ["repository:models/cells:pull"]}


def test_a_token_that_has_run_out_is_renewed(server: RegistryServer, home: Path) -> None:
    server.auth = Auth("Bearer")
    log_in(home, server)
    store = RemoteStore(server.location, Connection())
    store.tags()
    server.tokens.clear()
    assert store.tags() == ["v1"]
    assert len(server.asked("GET", "/token")) == 2


def test_an_identity_token_is_exchanged(server: RegistryServer, home: Path) -> None:
    server.auth = Auth("Bearer", identity_token="long lived")
    write_logins(home, {server.host: {"identitytoken": "long lived"}})
    assert RemoteStore(server.location, Connection()).tags() == ["v1"]
    (asked,) = server.asked("POST", "/token")
    assert "authorization" not in asked.headers


def test_a_token_may_be_given_to_nobody_in_particular(server: RegistryServer) -> None:
    server.auth = Auth("Bearer")
    server.tokens["public"] = ["repository:models/cells:pull"]
    server.fault("GET", "/token", answer(200, b'{"access_token": "public"}'))
    assert RemoteStore(server.location, Connection()).tags() == ["v1"]
    assert "authorization" not in server.asked("GET", "/token")[0].headers


def test_a_token_service_may_be_another_server_of_this_machine(
    server: RegistryServer, home: Path
) -> None:
    with RegistryServer() as service:
        server.auth = Auth("Bearer", realm=f"{service.url}/token?fixed=1")
        service.tokens = server.tokens
        log_in(home, server)
        assert RemoteStore(server.location, Connection()).tags() == ["v1"]
        (asked,) = service.asked("GET", "/token")
        assert asked.query["fixed"] == ["1"]


TOKENS: dict[str, tuple[Action, type[RegistryError], str]] = {
    "is down": (answer(503), UnreachableError, "cannot answer now"),
    "does not exist": (answer(404), RegistryError, "it is not there"),
    "denies": (answer(403), RegistryError, "access is denied"),
    "says nothing": (raw(b"", "stall"), UnreachableError, IN_TIME),
    "gives no JSON": (answer(200, b"token"), RegistryError, "gave no usable token"),
    "gives no token": (answer(200, b"{}"), RegistryError, "gave no usable token"),
    "gives a number": (answer(200, b'{"token": 1}'), RegistryError, "gave no usable token"),
    "gives a header": (answer(200, b'{"token": "a\\r\\nX: b"}'), RegistryError, "no usable token"),
    "has no end": (endless(OK + b"\r\n", b" " * 9999), RegistryError, "gave no usable token"),
    "redirects to plain HTTP": (redirect("http://registry.invalid"), RegistryError, "plain HTTP"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_service_with_a_fault_is_one_clear_error(
    server: RegistryServer, home: Path, name: str
) -> None:
    action, error, says = TOKENS[name]
    server.auth = Auth("Bearer")
    log_in(home, server)
    server.fault("GET", "/token", action)
    store = RemoteStore(server.location, Connection(timeout=SHORT if "nothing" in name else 30.0))
    with pytest.raises(error, match=says) as caught:
        store.tags()
    assert type(caught.value) is error
    check_line(caught.value, server.host, "listing tags: the login failed")


CHALLENGES = {
    "plain HTTP to a stranger": ('Bearer realm="http://stranger.invalid/t"', "over plain HTTP"),
    "no realm": ("Bearer", "no usable token service"),
    "a realm that is no URL": ('Bearer realm="registry"', "no usable token service"),
    "a realm that is a file": ('Bearer realm="file:///etc/passwd"', "no usable token service"),
    "a realm with a login": ('Bearer realm="https://a:b@c/"', "no usable token service"),
    "a scheme of its own": ('Negotiate realm="x"', "was refused"),
    "an unclosed quote": ('Basic" realm="registry', "was refused"),
    "nothing": ("", "was refused"),
}


@pytest.mark.parametrize("name", CHALLENGES)
def test_a_login_is_not_given_away_to_a_strange_challenge(
    server: RegistryServer, home: Path, name: str
) -> None:
    challenge, says = CHALLENGES[name]
    server.auth = Auth("Basic", password="another", challenge=challenge or " ")
    log_in(home, server)
    with pytest.raises(RegistryError, match=says) as caught:
        RemoteStore(server.location, Connection()).tags()
    check_line(caught.value, server.host)
    if name != "an unclosed quote":
        assert all("authorization" not in seen.headers for seen in server.log)


def test_a_server_with_tls_cannot_have_the_login_sent_in_the_clear(
    secure: RegistryServer, server: RegistryServer, authority: Authority, home: Path
) -> None:
    secure.auth = Auth("Bearer", realm=f"{server.url}/token")
    log_in(home, secure)
    with pytest.raises(RegistryError, match=r"over plain HTTP to '127\.0\.0\.1'"):
        RemoteStore(secure.location, Connection(ca_file=authority.file)).tags()
    assert server.log == []


def test_the_stronger_of_two_challenges_is_taken(server: RegistryServer, home: Path) -> None:
    realm = f'Bearer realm="{server.url}/token",scope="repository:models/cells:pull"'
    server.auth = Auth("Bearer", challenge=f'Basic realm="a, b", {realm}')
    log_in(home, server)
    assert RemoteStore(server.location, Connection()).tags() == ["v1"]
