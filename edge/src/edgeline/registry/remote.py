"""A store in a repository of a registry server, by the OCI distribution protocol.

    store = RemoteStore("oci://registry.example:5000/cells", Connection(ca_file=Path("ca.pem")))

The server is not trusted: what it says is hashed here, read no further than it may be long, and
never used as a path. `transport` bounds the time and holds the logins.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from edgeline._json import parse_object
from edgeline._text import quoted
from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry._sockets import Budget
from edgeline.registry.connection import OCI_SCHEME, Connection
from edgeline.registry.format import (
    MAX_STORE_INDEX,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
    is_tag,
    parse_document,
)
from edgeline.registry.login import DOCKER_HUB
from edgeline.registry.transport import Client, Request, Response

MAX_TAGS = 100_000
MAX_TAG_PAGES = 1_000
TAGS_PER_PAGE = 1_000

ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"}
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SERVER = re.compile(
    rf"({_LABEL}(\.{_LABEL})*|\[[0-9a-f:]+\])(:(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE
)
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(/{_PART})*")
_MAX_NAME = 255  # characters of server and repository, which many a registry takes at most
_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?')


def parse_location(location: str) -> tuple[str, str]:
    """Return the server, a host[:port], and the repository of an "oci://host[:port]/repository".

    Raises:
        RegistryError: it is something else.
    """
    server, _, repository = location.removeprefix(OCI_SCHEME).partition("/")
    match = _SERVER.fullmatch(server)
    port = int(match["port"] or 443) if match else 0
    if (
        location.startswith(OCI_SCHEME)
        and 0 < port < 1 << 16
        and _REPOSITORY.fullmatch(repository)
        and len(server) + 1 + len(repository) <= _MAX_NAME
    ):
        if server.lower() == DOCKER_HUB and "/" not in repository:
            raise RegistryError(
                f"{quoted(location)} lacks a namespace: expected "
                f"{OCI_SCHEME}{DOCKER_HUB}/<account>/{repository}"
            )
        return server.lower(), repository
    raise RegistryError(
        f"{quoted(location)} names no repository of a registry server. Expected "
        "oci://host[:port]/repository, the repository in lower case and without a tag"
    )


class RemoteStore:
    """Reads the store in the repository at `location`, "oci://host[:port]/repository".

    See `ReadStore` for the methods. Connections are kept open between calls.

    Raises:
        RegistryError: the location or the connection's settings are malformed.
    """

    def __init__(self, location: str, connection: Connection) -> None:
        server, repository = parse_location(location)
        self._location = location
        self._path = f"/v2/{repository}"
        self._client = Client(server, repository, connection)

    @property
    def location(self) -> str:
        """Where the store is, as its user wrote it."""
        return self._location

    def tags(self) -> list[str]:
        """Return every tag's name, sorted; see `ReadStore`.

        Names that are no tags by the protocol are passed over.
        """
        budget = self._client.budget()
        found: set[str] = set()
        query: str | None = urlencode({"n": TAGS_PER_PAGE})
        for _ in range(MAX_TAG_PAGES):
            try:
                names, query = self._read_tags_page(f"{self._path}/tags/list?{query}", budget)
            except NotFoundError:
                if found:
                    raise
                # That is what a repository is like to which nothing was pushed yet.
                self._check_is_registry(budget)
                return []
            new = {name for name in names if is_tag(name)} - found
            found |= new
            if len(found) > MAX_TAGS:
                raise IntegrityError(f"{self._location} has more than {MAX_TAGS} tags")
            if query is None:
                return sorted(found)
            if not new:
                raise IntegrityError(
                    f"{self._location} lists its tags without end: a page has nothing new, and "
                    "names a next one"
                )
        raise IntegrityError(f"{self._location} lists its tags on more than {MAX_TAG_PAGES} pages")

    def read_tag(
        self, tag: str, *, limit: int, budget: Budget | None = None
    ) -> tuple[Descriptor, bytes]:
        """Return what `tag` names, hashed here; see `ReadStore`."""
        if not is_tag(tag):
            raise RegistryError(f"{quoted(tag)} cannot be a tag")

        def consume(response: Response) -> tuple[Descriptor, bytes]:
            media_type = _media_type(response)
            data = response.read(limit)
            try:
                parse_document(data, media_type)
            except IntegrityError as error:
                raise IntegrityError(response.line(str(error))) from None
            return Descriptor(media_type, digest_of(data), len(data)), data

        target = f"{self._path}/manifests/{tag}"
        request = self._request(f"reading tag {tag!r}", "GET", target, headers=ACCEPT)
        return self._client.call(request, budget or self._client.budget(), consume)

    def read_manifest(
        self, descriptor: Descriptor, *, limit: int, budget: Budget | None = None
    ) -> bytes:
        """Return an index or a manifest, verified; see `ReadStore`."""
        descriptor.check_size(limit)
        return self._client.call(
            self._reading("manifest", descriptor, headers=ACCEPT),
            budget or self._client.budget(),
            lambda response: _verified(response, descriptor, lasting=False),
        )

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return a blob, verified; see `ReadStore`."""
        descriptor.check_size(limit)
        return self._client.call(
            self._reading("blob", descriptor),
            self._client.budget(),
            lambda response: _verified(response, descriptor, lasting=True),
        )

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, unverified; see `ReadStore`."""
        if not 0 <= offset <= descriptor.size:
            raise ValueError(f"offset {offset} is outside of a blob of {descriptor.size} bytes")
        if offset == descriptor.size:
            return
        request = self._reading(
            "blob",
            descriptor,
            success=frozenset({200, 206, 416}) if offset else frozenset({200}),
            headers={"Range": f"bytes={offset}-"} if offset else {},
        )
        response = self._client.call(request, self._client.budget(), lambda response: response)
        start = _start(response, descriptor, offset)
        _check_length(response, descriptor.size - start)
        position = start
        for chunk in response.chunks(descriptor.size - start, lasting=True):
            # A server may ignore that only a part was asked for.
            wanted = chunk[max(offset - position, 0) :]
            position += len(chunk)
            if wanted:
                yield wanted
        if position < descriptor.size:
            raise _wrong_size(response, descriptor.size, position)

    def _request(self, what: str, method: str, target: Any, **options: Any) -> Request:
        name = self._location.removeprefix(OCI_SCHEME)
        return Request(f"{name}: {what}", method, target, **options)

    def _reading(self, kind: str, descriptor: Descriptor, **options: Any) -> Request:
        target = f"{self._path}/{kind}s/{descriptor.digest}"
        return self._request(f"reading {kind} {descriptor.digest}", "GET", target, **options)

    def _read_tags_page(self, target: str, budget: Budget) -> tuple[list[Any], str | None]:
        """Return the names on a page, and the query of the next one."""

        def consume(response: Response) -> tuple[list[Any], str | None]:
            try:
                # A repository whose last tag was deleted has null.
                names = parse_object(response.read(MAX_STORE_INDEX)).get("tags") or []
                if not isinstance(names, list):
                    raise ValueError("expected 'tags' to be a list")
            except ValueError as error:
                raise IntegrityError(response.line(f"it is broken: {error}")) from None
            return names, self._next_page(response)

        request = self._request("listing tags", "GET", target)
        return self._client.call(request, budget, consume)

    def _next_page(self, response: Response) -> str | None:
        match = _NEXT.search(response.header("Link") or "")
        if match is None:
            return None
        # The page is on this list and no other, wherever the link leads.
        query = dict(parse_qsl(urlsplit(self._client.url(response, match[1])).query))
        return urlencode(query)

    def _check_is_registry(self, budget: Budget) -> None:
        request = self._request("looking for a registry", "GET", "/v2/")
        try:
            self._client.call(request, budget, Response.discard)
        except NotFoundError:
            raise RegistryError(
                f"{self._location} is at no registry: the server does not know /v2/. "
                "Check the host and the port"
            ) from None


_REPAIR = "Publish the release again to restore it"


def _media_type(response: Response) -> str:
    """Return the type of an index or a manifest, which no other response may have."""
    value = (response.header("Content-Type") or "").partition(";")[0].strip().lower()
    if value in (OCI_INDEX, OCI_MANIFEST):
        return value
    response.discard()
    raise IntegrityError(
        response.line(f"expected an OCI index or manifest, got Content-Type {quoted(value)}")
    )


def _verified(response: Response, descriptor: Descriptor, *, lasting: bool) -> bytes:
    """Return the body when it is what the descriptor promises."""
    _check_length(response, descriptor.size)
    data = response.read(descriptor.size, lasting=lasting)
    if len(data) < descriptor.size:
        raise _wrong_size(response, descriptor.size, len(data))
    digest = digest_of(data)
    if digest != descriptor.digest:
        raise IntegrityError(
            response.line(f"it was changed or damaged: its digest is {digest}. {_REPAIR}")
        )
    return data


def _check_length(response: Response, expected: int) -> None:
    """Check what a response says of its length, to not begin with what cannot be right."""
    if response.length not in (None, expected):
        response.discard()
        raise _wrong_size(response, expected, response.length)


def _start(response: Response, descriptor: Descriptor, offset: int) -> int:
    """Return where in the blob the response's body starts."""
    if response.status == 200:
        return 0
    said = response.header("Content-Range") or ""
    if response.status == 206 and said == f"bytes {offset}-{descriptor.size - 1}/{descriptor.size}":
        return offset
    response.discard()
    raise IntegrityError(
        response.line(
            f"asked for the bytes from {offset} on of {descriptor.size}, got HTTP "
            f"{response.status} with Content-Range {quoted(said)}. {_REPAIR}"
        )
    )


def _wrong_size(response: Response, expected: int, size: int | None) -> IntegrityError:
    return IntegrityError(response.line(f"expected {expected} bytes, got {size}. {_REPAIR}"))
