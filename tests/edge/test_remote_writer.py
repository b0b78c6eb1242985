"""A store on a registry server, written: nothing twice, nothing half, and no update lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeline.errors import ConflictError, EdgelineError, RegistryError, UnreachableError
from edgeline.publish import remote
from edgeline.publish.remote import RemoteWriter
from edgeline.publish.store import WriteStore, open_for_writing
from edgeline.registry import transport
from edgeline.registry.format import OCI_INDEX, OCI_MANIFEST, WEIGHTS, Descriptor
from edgeline.registry.push import PushStore
from edgeline.registry.store import Connection
from tests.edge.protocol import index, put, put_release
from tests.edge.servers import (
    Action,
    Auth,
    RegistryServer,
    Seen,
    Unread,
    answer,
    raw,
    redirect,
    reset,
    sha256,
)

LIMIT = 64 << 20
SHORT = 0.5  # seconds, for what never ends by itself
IN_TIME = r"within 0\.5 seconds"
LARGE = bytes(range(256)) * (64 << 10)  # more than a connection takes without being read


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def writer(server: RegistryServer) -> RemoteWriter:
    return RemoteWriter(server.location, Connection())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries and read-backs follow at once: how long they wait has tests of its own."""
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.0)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)
    monkeypatch.setattr(remote, "time", clock)


def check_line(error: EdgelineError, *parts: str) -> None:
    line = str(error)
    assert line.isprintable()
    for part in parts:
        assert part in line


def test_a_tag_that_one_alone_sets_is_pushed_by_one_request(server: RegistryServer) -> None:
    store = PushStore(server.location, Connection())
    for content in (index(), index() + b"\n"):
        before = len(server.log)
        store.put_tag("device", content, OCI_INDEX)
        assert [seen.method for seen in server.log[before:]] == ["PUT"]
        assert store.read_tag("device", limit=LIMIT)[1] == content
    for tag, kind in (("../tuf", OCI_INDEX), ("device", WEIGHTS)):
        with pytest.raises(RegistryError, match=r"cannot be a tag|Expected an OCI index"):
            store.put_tag(tag, content, kind)


def test_a_writer_is_opened_by_its_location_and_asks_nothing_yet(server: RegistryServer) -> None:
    writer: WriteStore = open_for_writing(server.location)
    assert isinstance(writer, RemoteWriter)
    assert server.log == []


# Blobs and manifests.


def test_what_is_there_is_never_sent_again(server: RegistryServer, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(LARGE)

    def publish() -> Descriptor:
        writer = RemoteWriter(server.location, Connection())
        model = writer.put_blob(file, WEIGHTS, limit=LIMIT)
        release, (child,) = put_release(writer, b"weights")
        writer.commit([("v1", release), ("v1-int8", child)], expected={})
        return model

    first = publish()
    sent = [seen for seen in server.log if seen.size > 0 and "/blobs/" in seen.path]
    assert sorted(seen.size for seen in sent) == [2, 7, len(LARGE)]
    server.log.clear()
    assert publish() == first
    assert server.asked("POST") == []
    assert len({seen.client for seen in server.log}) == 1
    # A tag can be set by sending its manifest only.
    assert [seen.path.rpartition("/")[2] for seen in server.asked("PUT")] == ["v1", "v1-int8"]


def test_a_blob_goes_in_one_piece_to_where_the_server_says(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    writer.put_blob(LARGE, WEIGHTS, limit=LIMIT)
    assert [seen.method for seen in server.log] == ["HEAD", "POST", "PUT"]
    upload = server.log[-1]
    (state,) = server.log[-1].query["_state"]
    assert upload.path.endswith(f"/blobs/uploads/{state}")
    assert upload.query["digest"] == [sha256(LARGE)]
    assert upload.headers["content-length"] == str(len(LARGE))
    assert "transfer-encoding" not in upload.headers


def test_a_blob_of_another_length_is_not_taken_for_it(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    server.repository.blobs[sha256(b"weights")] = b"weigh"
    blob = writer.put_blob(b"weights", WEIGHTS, limit=LIMIT)
    assert writer.read_blob(blob, limit=LIMIT) == b"weights"


CHANGES: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda file: file.write_bytes(LARGE[::-1]),
    "more bytes": lambda file: file.write_bytes(b"x" + LARGE),
    "fewer bytes": lambda file: file.write_bytes(LARGE[:-1]),
    "none": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_is_changed_meanwhile_is_not_stored(
    server: RegistryServer, writer: RemoteWriter, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(LARGE)

    def change(seen: Seen) -> None:
        if seen.method == "POST":
            CHANGES[name](file)

    server.before = change
    with pytest.raises(RegistryError, match="was changed while it was uploaded") as caught:
        writer.put_blob(file, WEIGHTS, limit=LIMIT)
    check_line(caught.value, str(file))
    assert server.repository.blobs == {}


def test_what_a_store_cannot_hold_is_not_sent(
    server: RegistryServer, writer: RemoteWriter, tmp_path: Path
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"weights")
    for source, limit, says in (
        (b"", 9, "golden.json has 0 bytes; a registry takes 1 to 9"),
        (b"weights", 6, "golden.json has 7 or more bytes; a registry takes 1 to 6"),
        (file, 6, f"{file} has 7 or more bytes"),
        (tmp_path / "none", 9, "none cannot be read: No such file or directory"),
        (tmp_path, 9, "cannot be read: Is a directory"),
    ):
        with pytest.raises(RegistryError) as caught:
            writer.put_blob(source, WEIGHTS, limit=limit, name="golden.json")
        check_line(caught.value, says)
    for content, media_type in (
        (b"", OCI_INDEX),
        (b"x" * (1 << 20) + b"x", OCI_INDEX),
        (b"{}", "a"),
    ):
        with pytest.raises(RegistryError, match="Expected an OCI index or manifest"):
            writer.put_manifest(content, media_type)
    assert server.log == []


@pytest.mark.parametrize("fault", ["503 at POST", "503 at PUT", "reset at PUT", "closed at PUT"])
def test_an_upload_that_is_interrupted_is_begun_anew(
    server: RegistryServer, writer: RemoteWriter, fault: str
) -> None:
    actions: dict[str, Action] = {
        "503": answer(503),
        "reset": Unread(reset()),
        "closed": Unread(raw(b"")),
    }
    what, _, method = fault.partition(" at ")
    server.fault(method, "/uploads/", actions[what], times=2)
    blob = writer.put_blob(LARGE, WEIGHTS, limit=LIMIT)
    assert writer.read_blob(blob, limit=LIMIT) == LARGE
    uploads = [seen.path for seen in server.asked("PUT")]
    assert len(set(uploads)) == len(uploads)


REFUSALS: dict[str, tuple[str, Action, type[RegistryError], str]] = {
    "no login": ("POST", answer(401), RegistryError, "docker login"),
    "no right": ("POST", answer(403), RegistryError, "access is denied"),
    "no such repository": ("POST", answer(404), RegistryError, "want it to be created first"),
    "no uploads": ("POST", answer(405), RegistryError, "refuses with HTTP 405"),
    "a redirect": ("POST", redirect("https://evil.example/"), RegistryError, "unusable redirect"),
    "no place": ("POST", answer(202), RegistryError, "does not say where to"),
    "a lost upload": ("PUT", answer(404), RegistryError, "lose an upload when they are restarted"),
    "too large": ("PUT", Unread(answer(413)), RegistryError, "refuses with HTTP 413"),
    "another digest": ("PUT", answer(400), RegistryError, "refuses with HTTP 400"),
    "a full disk": ("PUT", answer(500), UnreachableError, "an error of its own"),
    "accepted, not created": ("PUT", answer(202), RegistryError, "refuses with HTTP 202"),
    "always busy": ("PUT", answer(503), UnreachableError, "tried 5 times"),
    "no reading": ("PUT", Unread(raw(b"", "stall")), UnreachableError, IN_TIME),
    "no answer": ("PUT", raw(b"", "stall"), UnreachableError, IN_TIME),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_an_upload_that_is_refused_is_one_clear_error(server: RegistryServer, name: str) -> None:
    method, action, error, says = REFUSALS[name]
    server.fault(method, "/uploads/", action)
    timeout = SHORT if says == IN_TIME else 30.0
    writer = RemoteWriter(server.location, Connection(timeout=timeout))
    with pytest.raises(error, match=says) as caught:
        writer.put_blob(LARGE, WEIGHTS, limit=LIMIT, name="model.tflite")
    assert type(caught.value) is error
    check_line(caught.value, server.host, "uploading model.tflite failed: ")
    assert server.repository.blobs == {}


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/upload",
        "http://evil.example/upload",
        "//evil.example/upload",
        "http://127.0.0.1:1/upload",
        "http://localhost/upload",
        "http://a:b@127.0.0.1/upload",
        "file:///etc/passwd",
        "https://[::1",
        "",
    ],
)
def test_an_upload_goes_to_no_other_server(
    server: RegistryServer, writer: RemoteWriter, location: str
) -> None:
    if location == "http://localhost/upload":
        location = f"http://localhost:{server.port}/upload"
    server.fault("POST", "/uploads/", answer(202, Location=location))
    with pytest.raises(RegistryError) as caught:
        writer.put_blob(b"weights", WEIGHTS, limit=LIMIT)
    check_line(caught.value, server.host)
    # The empty reference is to the very place that was asked.
    assert server.asked("PUT") == [] or location == ""


def test_a_proxy_that_hides_tls_is_told(server: RegistryServer, writer: RemoteWriter) -> None:
    url = f"https://{server.host}/v2/upload?_state=secret"
    server.fault("POST", "/uploads/", answer(202, Location=url))
    with pytest.raises(RegistryError, match="has to pass on Host and X-Forwarded-Proto") as caught:
        writer.put_blob(b"weights", WEIGHTS, limit=LIMIT)
    assert "secret" not in str(caught.value)


def test_writing_asks_for_the_right_to_it_only_when_needed(
    server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.auth = Auth("Bearer")
    (tmp_path / "auth.json").write_text(
        f'{{"auths": {{"{server.host}": {{"auth": "YWRhOmNvcnJlY3QgaG9yc2U="}}}}}}'
    )
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    writer = RemoteWriter(server.location, Connection())
    content = LARGE[: 512 << 10]
    child = put(writer, content)
    writer.commit([("v1", child)], expected={"v1": None})
    writer.remove(["v1"])
    scopes = [seen.query["scope"][0] for seen in server.asked("GET", "/token")]
    assert scopes == [f"repository:models/cells:{what}" for what in ("pull", "pull,push", "delete")]
    # The content is sent once, with a token that is there already.
    sent = [seen.size for seen in server.asked("PUT", "/uploads/")]
    assert sorted(sent) == [2, len(content)]


# Tags.


def test_tags_are_set_in_order(server: RegistryServer, writer: RemoteWriter) -> None:
    release, (child,) = put_release(writer, b"weights")
    tags = [("v1-int8", child), ("v1", release), ("another", child)]
    server.log.clear()
    writer.commit(tags, expected={"v1": None})
    assert [seen.path.rpartition("/")[2] for seen in server.asked("PUT")] == [t for t, _ in tags]


def test_nothing_is_set_that_is_no_tag_or_not_there(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")
    with pytest.raises(RegistryError, match=r"'\.\./v2' cannot be a tag"):
        writer.commit([("v1", child), ("../v2", child)], expected={})
    missing = Descriptor(OCI_INDEX, f"sha256:{'0' * 64}", 2)
    with pytest.raises(RegistryError, match="it is not there"):
        writer.commit([("v1", child), ("v2", missing)], expected={})
    assert writer.tags() == []


def other_writer(server: RegistryServer, tag: str) -> Descriptor:
    """Another writer sets a tag."""
    digest = server.put(index(), OCI_INDEX, tag)
    return Descriptor(OCI_INDEX, digest, len(index()))


def once(condition: Callable[[Seen], bool], action: Callable[[], object]) -> Callable[[Seen], None]:
    """Act on the first request of which something is true."""
    acted: list[Seen] = []

    def act(seen: Seen) -> None:
        if not acted and condition(seen):
            acted.append(seen)
            action()

    return act


def asks(method: str, tag: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.method == method and seen.path.endswith(f"/manifests/{tag}")


def test_a_tag_that_another_writer_sets_afterwards_is_lost(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")
    server.after = once(asks("PUT", "v1"), lambda: other_writer(server, "v1"))
    with pytest.raises(ConflictError, match="another writer set v1 at the same time") as caught:
        writer.commit([("v1", child)], expected={"v1": None})
    check_line(caught.value, server.location)
    assert server.repository.tags["v1"] == sha256(index())


def test_a_writer_looks_again_before_each_further_tag(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")
    server.after = once(asks("PUT", "tuf-1"), lambda: other_writer(server, "tuf"))
    with pytest.raises(ConflictError, match="Tag 'tuf'"):
        writer.commit([("tuf-1", child), ("tuf", child)], expected={"tuf-1": None, "tuf": None})
    assert server.repository.tags["tuf"] == sha256(index())
    assert server.asked("PUT", "manifests/tuf$") == []


def test_a_writer_looks_again_when_its_look_is_old(
    server: RegistryServer, writer: RemoteWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)  # so that every look is old
    child = put(writer, b"weights")
    server.after = once(asks("GET", "tuf"), lambda: other_writer(server, "tuf"))
    with pytest.raises(ConflictError, match="Tag 'tuf'"):
        writer.commit([("tuf", child)], expected={"tuf": None})
    assert server.asked("PUT", "manifests/tuf$") == []


def test_a_writer_looks_again_before_it_tries_again(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")

    def busy(handler: Any) -> None:
        other_writer(server, "tuf")
        answer(503)(handler)

    server.fault("PUT", "manifests/tuf$", busy, times=1)
    with pytest.raises(ConflictError, match="Tag 'tuf'"):
        writer.commit([("tuf", child)], expected={"tuf": None})
    assert server.repository.tags["tuf"] == sha256(index())


def test_a_tag_that_was_set_although_the_answer_was_lost_is_no_conflict(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")

    def lost(handler: Any) -> None:
        server.repository.tags["tuf"] = child.digest
        reset()(handler)

    server.fault("PUT", "manifests/tuf$", lost, times=1)
    writer.commit([("tuf", child)], expected={"tuf": None})
    assert len(server.asked("PUT", "manifests/tuf$")) == 2


@dataclass
class Clock:
    """A time that passes only when it is told to."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_it_is_read_back_when_others_must_be_done(
    server: RegistryServer, writer: RemoteWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)
    child = put(writer, b"weights")
    writer.commit([("v1", child)], expected={})
    assert clock.slept == []  # nobody else is expected to set this tag
    writer.commit([("v2", child)], expected={"v2": None})
    assert clock.slept == [remote.SETTLE_SECONDS]

    def slow(seen: Seen) -> None:
        clock.now += 3.0 if asks("PUT", "v3")(seen) else 0.0

    server.before = slow
    writer.commit([("v3", child)], expected={"v3": None})
    assert clock.slept == [remote.SETTLE_SECONDS, 3.0]
    server.before = None
    hasty = RemoteWriter(server.location, Connection(timeout=0.9))
    with pytest.raises(UnreachableError, match="answers too slowly for a safe change"):
        hasty.commit([("v4", child)], expected={"v4": None})


# Two writers at once, in every order in which the server may get to their requests.


class Schedule:
    """Lets the requests of several writers for one tag pass in a given order."""

    def __init__(self, order: Sequence[str]) -> None:
        self._order = list(order)
        self._writers: dict[int, str] = {}  # by port
        self._changed = threading.Condition()

    def before(self, seen: Seen) -> None:
        """Wait for a request's turn. A writer introduces itself by asking for its name."""
        reference = seen.path.rpartition("/")[2]
        with self._changed:
            if reference in ("a", "b"):
                self._writers[seen.client] = reference
            if reference == "v1":
                writer = self._writers[seen.client]
                assert self._changed.wait_for(lambda: self._order[:1] == [writer], timeout=60)

    def after(self, seen: Seen) -> None:
        if seen.path.endswith("/v1"):
            with self._changed:
                # Not so when the writer has its answer already, and has left.
                if self._order[:1] == [self._writers[seen.client]]:
                    del self._order[0]
                self._changed.notify_all()

    def leave(self, writer: str) -> None:
        """A writer that gave up makes no more requests."""
        with self._changed:
            self._order = [other for other in self._order if other != writer]
            self._changed.notify_all()


def orders() -> Iterator[str]:
    """Each writer looks, sets and reads back; each is fast enough for the other's read-back.

    That is the condition which `RemoteWriter.commit` states: one that looked before the other set
    the tag has set it itself before the other reads back.
    """
    for first in itertools.combinations(range(6), 3):
        order = ["a" if turn in first else "b" for turn in range(6)]
        turns = {writer: [i for i, w in enumerate(order) if w == writer] for writer in "ab"}
        late = False
        for one, other in ("ab", "ba"):
            (look, change, _), (_, other_change, other_back) = turns[one], turns[other]
            late = late or (look < other_change and other_back < change)
        if not late:
            yield "".join(order)


@pytest.mark.parametrize("order", list(orders()))
def test_of_two_writers_at_once_exactly_one_is_told_that_it_won(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 1000.0)  # however slow this machine is
    schedule = Schedule(order)
    server.before, server.after = schedule.before, schedule.after

    def write(name: str) -> Descriptor | None:
        writer = RemoteWriter(server.location, Connection(timeout=10_000.0))
        with pytest.raises(RegistryError):
            writer.read_tag(name, limit=LIMIT)
        child = put(writer, name.encode())
        try:
            writer.commit([("v1", child)], expected={"v1": None})
            return child
        except ConflictError:
            return None
        finally:
            schedule.leave(name)

    with ThreadPoolExecutor(2) as pool:
        (winner,) = [found for found in pool.map(write, "ab") if found is not None]
    assert server.repository.tags["v1"] == winner.digest


# A writer that dies, at any request.


def publish(writer: RemoteWriter) -> None:
    """A release as publishers write it: content, version, variants, and what names the newest."""
    release, children = put_release(writer, b"one", b"two")
    writer.commit([("v1", release)], expected={"v1": None})
    writer.commit([(f"v1-{n}", child) for n, child in enumerate(children)], expected={})
    writer.commit([("tuf-1", release), ("tuf", release)], expected={"tuf-1": None, "tuf": None})


def test_a_writer_that_dies_at_any_request_leaves_whole_manifests_and_a_retry_completes_them() -> (
    None
):
    with RegistryServer() as server:
        publish(RemoteWriter(server.location, Connection()))
        writes = [seen for seen in server.log if seen.method in ("POST", "PUT")]
        expected = dict(server.repository.tags)
    assert len(writes) > 10
    for survived in range(len(writes)):
        with RegistryServer() as server:
            remaining = itertools.count(survived, -1)

            def dead(handler: Any, remaining: Iterator[int] = remaining) -> None:
                if next(remaining) > 0:
                    handler.go_on()
                else:
                    answer(500)(handler)

            server.fault("POST", "", dead)
            server.fault("PUT", "", dead)
            with pytest.raises(UnreachableError):
                publish(RemoteWriter(server.location, Connection()))
            check_whole(server)
            server.heal()
            retry(server)
            assert dict(server.repository.tags) == expected


def check_whole(server: RegistryServer) -> None:
    """Every tag leads to content that is there."""
    store = RemoteWriter(server.location, Connection())
    for tag in store.tags():
        store.read_tag(tag, limit=LIMIT)


def retry(server: RegistryServer) -> None:
    """Write what is missing, expecting what is there."""
    writer = RemoteWriter(server.location, Connection())
    release, children = put_release(writer, b"one", b"two")
    there = dict(server.repository.tags)
    tags = [("v1", release), *((f"v1-{n}", child) for n, child in enumerate(children))]
    tags += [("tuf-1", release), ("tuf", release)]
    writer.commit(tags, expected={tag: there.get(tag) for tag, _ in tags})


# Removing.


def test_an_index_goes_before_its_manifests(server: RegistryServer, writer: RemoteWriter) -> None:
    release, children = put_release(writer, b"one", b"two", b"three")
    tags = [(f"a{n}", child) for n, child in enumerate(children)]
    writer.commit([*tags, ("v1", release)], expected={})
    writer.remove([tag for tag, _ in tags] + ["v1"])
    assert server.asked("DELETE")[0].path.endswith(release.digest)
    assert server.repository.manifests == {}


def test_a_server_that_does_not_delete_is_told_apart(writer: RemoteWriter) -> None:
    with RegistryServer(deleting=False) as server:
        writer = RemoteWriter(server.location, Connection())
        child = put(writer, b"weights")
        writer.commit([("v1", child)], expected={})
        with pytest.raises(
            RegistryError, match=r"does not allow it.*storage\.delete\.enabled"
        ) as e:
            writer.remove(["v1"])
        check_line(e.value, server.host, "UNSUPPORTED")
        assert writer.tags() == ["v1"]


def test_what_another_has_deleted_already_is_gone(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    child = put(writer, b"weights")
    writer.commit([("v1", child)], expected={})
    server.fault("DELETE", "", answer(404), times=1)
    writer.remove(["v1"])


def test_a_server_that_does_not_tell_digests_is_asked_for_content(
    server: RegistryServer, writer: RemoteWriter
) -> None:
    first, second = put(writer, b"first"), put(writer, b"second")
    writer.commit([("v1", first), ("v2", second)], expected={})
    server.fault("HEAD", "/manifests/", answer(200, b"", Content_Type=OCI_MANIFEST))
    writer.remove(["v1"])
    assert server.repository.tags == {"v2": second.digest}
