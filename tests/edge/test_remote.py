"""A store on a registry server, read: what is not as it must be is not believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry import remote
from edgeline.registry.format import OCI_INDEX, OCI_MANIFEST, WEIGHTS, Descriptor
from edgeline.registry.remote import RemoteStore, parse_location
from edgeline.registry.store import Connection, ReadStore, open_store
from tests.edge.protocol import CASES, Case
from tests.edge.servers import REPOSITORY, Action, RegistryServer, answer, raw, redirect, sha256

LIMIT = 1 << 20
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).encode()
INDEX = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
BLOB = bytes(range(256)) * 1024
DESCRIPTOR = Descriptor(WEIGHTS, sha256(BLOB), len(BLOB))


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.put(MANIFEST, OCI_MANIFEST, "v1-int8")
        server.put(INDEX, OCI_INDEX, "v1")
        server.put(BLOB)
        yield server


@pytest.fixture
def store(server: RegistryServer) -> RemoteStore:
    return RemoteStore(server.location, Connection())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("absolute_urls", [True, False], ids=["absolute", "relative"])
def test_the_protocol(case: Case, absolute_urls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeline.publish.remote.SETTLE_SECONDS", 0.01)
    with RegistryServer(absolute_urls=absolute_urls, page_size=2) as server:
        case(server.location, Connection())


# Where it is.


@pytest.mark.parametrize(
    ("location", "parsed"),
    [
        ("oci://localhost/cells", ("localhost", "cells")),
        ("oci://Registry.Example:5000/a/b_c/d--e.f", ("registry.example:5000", "a/b_c/d--e.f")),
        ("oci://127.0.0.1:80/0", ("127.0.0.1:80", "0")),
        ("oci://[::1]:5000/cells", ("[::1]:5000", "cells")),
        ("oci://[fe80::1]/cells", ("[fe80::1]", "cells")),
    ],
)
def test_a_location_names_a_server_and_a_repository(location: str, parsed: tuple[str, str]) -> None:
    assert parse_location(location) == parsed


@pytest.mark.parametrize(
    "location",
    [
        "",
        "cells",
        "oci:",
        "oci://",
        "oci://localhost",
        "oci://localhost/",
        "oci:///cells",
        "OCI://localhost/cells",
        "https://localhost/cells",
        "oci://user@localhost/cells",
        "oci://user:password@localhost/cells",
        "oci://localhost:/cells",
        "oci://localhost:0/cells",
        "oci://localhost:65536/cells",
        "oci://localhost:http/cells",
        "oci://localhost:5000:5000/cells",
        "oci://-host/cells",
        "oci://host-/cells",
        "oci://host..example/cells",
        f"oci://{'a' * 64}.example/cells",
        "oci://ho st/cells",
        "oci://höst/cells",
        "oci://[::1/cells",
        "oci://localhost/Cells",
        "oci://localhost/cells/",
        "oci://localhost//cells",
        "oci://localhost/../cells",
        "oci://localhost/a/../b",
        "oci://localhost/.cells",
        "oci://localhost/cells?n=1",
        "oci://localhost/cells#x",
        "oci://localhost/cells:v1",
        f"oci://localhost/cells@sha256:{'0' * 64}",
        "oci://localhost/cells\n",
        "oci://localhost/a%2fb",
        f"oci://localhost/{'a' * 256}",
    ],
)
def test_another_location_is_refused_in_one_line(location: str) -> None:
    with pytest.raises(RegistryError, match="names no repository of a registry server") as caught:
        RemoteStore(location, Connection())
    assert str(caught.value).isprintable()
    assert "oci://host[:port]/repository" in str(caught.value)


def test_a_store_is_opened_by_its_location_and_asks_nothing_yet(server: RegistryServer) -> None:
    store: ReadStore = open_store(server.location)
    assert isinstance(store, RemoteStore)
    assert store.location == server.location
    assert server.log == []


def test_a_server_that_is_no_registry_is_told_apart(
    server: RegistryServer, store: RemoteStore
) -> None:
    server.fault("GET", "", answer(404, b"<html>", Content_Type="text/html"))
    with pytest.raises(RegistryError, match="is at no registry") as caught:
        store.tags()
    assert not isinstance(caught.value, NotFoundError)


# Manifests.


def test_a_tag_is_what_its_bytes_hash_to(server: RegistryServer, store: RemoteStore) -> None:
    lie = f"sha256:{'0' * 64}"
    server.fault("GET", "", answer(200, INDEX, Content_Type=OCI_INDEX, Docker_Content_Digest=lie))
    found = store.read_tag("v1", limit=LIMIT)
    assert found == (Descriptor(OCI_INDEX, sha256(INDEX), len(INDEX)), INDEX)


def test_a_type_may_have_parameters(server: RegistryServer, store: RemoteStore) -> None:
    server.fault("GET", "", answer(200, INDEX, Content_Type=f"{OCI_INDEX}; charset=utf-8"))
    assert store.read_tag("v1", limit=LIMIT)[0].media_type == OCI_INDEX


DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DEEP = b'{"schemaVersion": 2, "mediaType": "' + OCI_INDEX.encode() + b'", "x": ' + b"[" * 99_999
TAGS: dict[str, tuple[Action, str]] = {
    "a page for people": (answer(200, b"<html>", Content_Type="text/html"), "got Content-Type"),
    "no type": (answer(200, INDEX), "got Content-Type ''"),
    "Docker's type": (answer(200, INDEX, Content_Type=DOCKER), "got Content-Type"),
    "a type that the document has not": (answer(200, INDEX, Content_Type=OCI_MANIFEST), "Expected"),
    "no JSON": (answer(200, b"{", Content_Type=OCI_INDEX), "broken JSON"),
    "a key twice": (answer(200, b'{"a":1,"a":2}', Content_Type=OCI_INDEX), "broken JSON"),
    "JSON without a bottom": (answer(200, DEEP, Content_Type=OCI_INDEX), "nested too deeply"),
    "JSON of another kind": (answer(200, b"[]", Content_Type=OCI_INDEX), "broken JSON"),
    "too much": (answer(200, b" " * (LIMIT + 1), Content_Type=OCI_INDEX), "1048576 are allowed"),
}


@pytest.mark.parametrize("name", TAGS)
def test_what_is_no_manifest_is_not_taken_for_one(
    server: RegistryServer, store: RemoteStore, name: str
) -> None:
    action, says = TAGS[name]
    server.fault("GET", "", action)
    with pytest.raises(IntegrityError, match=says) as caught:
        store.read_tag("v1", limit=LIMIT)
    line = str(caught.value)
    assert line.startswith(f"{server.host}/{REPOSITORY}: reading tag 'v1' failed: ")
    assert line.isprintable()
    # Once is enough to know.
    assert len(server.log) == 1


@pytest.mark.parametrize(
    "tag", ["", "../x", "a/b", ".x", "-x", "a b", "a?b", "ä", "x" * 129, "a\n"]
)
def test_a_name_that_is_no_tag_is_not_asked_for(
    server: RegistryServer, store: RemoteStore, tag: str
) -> None:
    with pytest.raises(RegistryError, match="cannot be a tag"):
        store.read_tag(tag, limit=LIMIT)
    assert server.log == []


def test_a_manifest_is_what_its_descriptor_promises(
    server: RegistryServer, store: RemoteStore
) -> None:
    descriptor = Descriptor(OCI_INDEX, sha256(INDEX), len(INDEX))
    assert store.read_manifest(descriptor, limit=LIMIT) == INDEX
    for content in (INDEX[:-1] + b" ", INDEX[:-1], INDEX + b" ", b""):
        server.fault("GET", "/manifests/", answer(200, content, Content_Type=OCI_INDEX), times=1)
        with pytest.raises(IntegrityError, match=f"reading manifest {descriptor.digest} failed"):
            store.read_manifest(descriptor, limit=LIMIT)
    with pytest.raises(IntegrityError, match=r"said to have 79 bytes; at most 78"):
        store.read_manifest(Descriptor(OCI_INDEX, sha256(INDEX), 79), limit=78)


# Blobs.


@pytest.mark.parametrize("where", ["at the registry", "at another server"])
@pytest.mark.parametrize(
    "content",
    [BLOB[:-1] + b"\0", BLOB[:-1], BLOB + b"\0", b""],
    ids=["other", "less", "more", "no"],
)
def test_a_blob_is_what_its_descriptor_promises(
    server: RegistryServer, store: RemoteStore, content: bytes, where: str
) -> None:
    if where == "at another server":
        server.fault("GET", "/blobs/", redirect(f"http://localhost:{server.port}/storage"))
    server.fault("GET", "/blobs/|/storage", answer(200, content))
    with pytest.raises(IntegrityError, match=r"Publish the release again|are allowed") as caught:
        store.read_blob(DESCRIPTOR, limit=LIMIT)
    assert str(caught.value).startswith(
        f"{server.host}/{REPOSITORY}: reading blob {DESCRIPTOR.digest} failed: "
    )


def test_a_blob_without_a_length_is_what_its_descriptor_promises(
    server: RegistryServer, store: RemoteStore
) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    server.fault("GET", "/blobs/", raw(head + BLOB), times=1)
    assert store.read_blob(DESCRIPTOR, limit=LIMIT) == BLOB
    for content in (BLOB[:-1], BLOB + b"\0"):
        server.fault("GET", "/blobs/", raw(head + content), times=2)
        with pytest.raises(IntegrityError):
            store.read_blob(DESCRIPTOR, limit=LIMIT)
        with pytest.raises(IntegrityError):
            list(store.stream_blob(DESCRIPTOR))


def test_a_blob_larger_than_the_limit_is_not_asked_for(
    server: RegistryServer, store: RemoteStore
) -> None:
    with pytest.raises(IntegrityError, match=f"at most {len(BLOB) - 1} are allowed"):
        store.read_blob(DESCRIPTOR, limit=len(BLOB) - 1)
    assert server.log == []


def test_a_stream_begins_where_it_is_asked_to(server: RegistryServer, store: RemoteStore) -> None:
    assert b"".join(store.stream_blob(DESCRIPTOR, offset=1000)) == BLOB[1000:]
    assert server.log[-1].headers["range"] == "bytes=1000-"
    assert list(store.stream_blob(DESCRIPTOR, offset=len(BLOB))) == []
    assert len(server.log) == 1


@pytest.mark.parametrize("offset", [1, 70_000, len(BLOB) - 1])
def test_a_server_that_knows_no_ranges_is_skipped_through(offset: int) -> None:
    with RegistryServer(ranges=False) as server:
        server.put(BLOB)
        store = RemoteStore(server.location, Connection())
        assert b"".join(store.stream_blob(DESCRIPTOR, offset=offset)) == BLOB[offset:]


@pytest.mark.parametrize("offset", [-1, len(BLOB) + 1])
def test_a_stream_cannot_begin_outside_of_its_blob(store: RemoteStore, offset: int) -> None:
    with pytest.raises(ValueError, match="is outside of a blob"):
        next(store.stream_blob(DESCRIPTOR, offset=offset))


LAST = len(BLOB) - 1
RANGES: dict[str, Action] = {
    "another range": answer(206, BLOB[9:], Content_Range=f"bytes 9-{LAST}/{LAST + 1}"),
    "no range": answer(206, BLOB[10:]),
    "a range of another whole": answer(206, BLOB[10:], Content_Range=f"bytes 10-{LAST}/{LAST}"),
    "a part of the range": answer(206, BLOB[10:20], Content_Range=f"bytes 10-19/{LAST + 1}"),
    "less than the range": answer(206, BLOB[11:], Content_Range=f"bytes 10-{LAST}/{LAST + 1}"),
    "that there is none": answer(416, b"", Content_Range="bytes */5"),
    "more than the whole": answer(200, BLOB + b"\0"),
    "less than the whole": answer(200, BLOB[:-1]),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_server_that_is_wrong_about_ranges_is_found_out(
    server: RegistryServer, store: RemoteStore, name: str
) -> None:
    server.fault("GET", "/blobs/", RANGES[name])
    with pytest.raises(IntegrityError, match=f"reading blob {DESCRIPTOR.digest} failed"):
        list(store.stream_blob(DESCRIPTOR, offset=10))


def test_a_stream_that_is_left_does_no_harm_to_what_follows(store: RemoteStore) -> None:
    stream = store.stream_blob(DESCRIPTOR)
    next(stream)
    del stream
    assert store.tags() == ["v1", "v1-int8"]


# Tags.


def tags(names: object, link: str | None = None) -> Action:
    headers = {"Link": f'<{link}>; rel="next"'} if link else {}
    return answer(200, json.dumps({"name": REPOSITORY, "tags": names}).encode(), **headers)


@pytest.mark.parametrize("page_size", [None, 1, 3, 10, 11])
def test_tags_are_collected_from_all_pages(page_size: int | None) -> None:
    names = sorted(f"v{version}" for version in range(1, 11))
    with RegistryServer(page_size=page_size) as server:
        server.put(INDEX, OCI_INDEX, *names)
        assert RemoteStore(server.location, Connection()).tags() == names


def test_hostile_names_are_no_tags(server: RegistryServer, store: RemoteStore) -> None:
    hostile = ["../../etc", "", "a/b", ".", "-x", "x" * 129, "a b", "a\nb", 7, None, ["v3"], {}]
    server.fault("GET", "/tags/", tags(["v2", *hostile, "v1", "v1"]))
    assert store.tags() == ["v1", "v2"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"tags": "v1"}', b'{"tags": {"v1": 1}}', b"[" * 99_999, b"\xff"]
)
def test_a_list_that_is_none_is_refused(
    server: RegistryServer, store: RemoteStore, body: bytes
) -> None:
    server.fault("GET", "/tags/", answer(200, body))
    with pytest.raises(IntegrityError, match="listing tags failed: it is broken"):
        store.tags()


def test_a_list_without_tags_is_empty(server: RegistryServer, store: RemoteStore) -> None:
    for body in (b'{"tags": null}', b'{"tags": []}', b"{}"):
        server.fault("GET", "/tags/", answer(200, body), times=1)
        assert store.tags() == []


PATH = f"/v2/{REPOSITORY}/tags/list"


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v2/tags",
        "//evil.example/v2",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "https://[::1",
        "http://a:b@127.0.0.1/",
    ],
)
def test_the_next_page_is_at_the_same_server(
    server: RegistryServer, store: RemoteStore, link: str
) -> None:
    server.fault("GET", "/tags/", tags(["v1"], link))
    with pytest.raises(RegistryError, match=r"listing tags failed: (it refers to|unusable)"):
        store.tags()
    assert len(server.log) == 1


def test_the_next_page_is_of_the_same_list(server: RegistryServer, store: RemoteStore) -> None:
    server.fault("GET", "/tags/", tags(["v1"], "/v2/other/tags/list?last=v1&n=1"), times=1)
    server.fault("GET", "/tags/", tags(["v2"]), times=1)
    assert store.tags() == ["v1", "v2"]
    assert [seen.path for seen in server.log] == [PATH, PATH]
    assert server.log[1].query == {"last": ["v1"], "n": ["1"]}


def test_pages_with_nothing_new_are_left(server: RegistryServer, store: RemoteStore) -> None:
    server.fault("GET", "/tags/", tags(["v1"], f"{PATH}?last=v1"))
    with pytest.raises(IntegrityError, match="lists its tags without end"):
        store.tags()
    assert len(server.log) == 2


@pytest.mark.parametrize(
    ("limit", "says"), [("MAX_TAG_PAGES", "more than 7 pages"), ("MAX_TAGS", "more than 7 tags")]
)
def test_pages_without_end_are_left(
    server: RegistryServer,
    store: RemoteStore,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    says: str,
) -> None:
    def next_page(handler: Any) -> None:
        """Always one tag more."""
        tag = f"v{len(server.log)}"
        tags([tag], f"{PATH}?{urlencode({'last': tag})}")(handler)

    server.fault("GET", "/tags/", next_page)
    monkeypatch.setattr(remote, limit, 7)
    with pytest.raises(IntegrityError, match=says):
        store.tags()
    assert len(server.log) in (7, 8)


def test_a_page_that_is_missing_is_not_the_end(server: RegistryServer, store: RemoteStore) -> None:
    server.fault("GET", "/tags/", tags(["v1"], f"{PATH}?last=v1"), times=1)
    server.fault("GET", "/tags/", answer(404))
    with pytest.raises(NotFoundError, match="listing tags failed"):
        store.tags()
