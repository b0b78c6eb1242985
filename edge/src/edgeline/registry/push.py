"""Pushing to a repository of a registry server, by the OCI distribution protocol.

    store = PushStore("oci://registry.example:5000/cells/reports", Connection())
    layer = store.put_blob(b"...", "application/json", limit=1 << 20)
    store.put_tag("latest", manifest, OCI_MANIFEST)

Blobs and manifests go by their digests, and only when the server has not got them. A device leaves
its reports so; `publish.remote` adds what publishing needs.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

from edgeline._text import quoted
from edgeline.errors import NotFoundError, RegistryError
from edgeline.registry._sockets import Budget
from edgeline.registry.format import (
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE_ANNOTATION,
    Descriptor,
    digest_of,
    is_tag,
)
from edgeline.registry.remote import ACCEPT, RemoteStore
from edgeline.registry.transport import Response

_CHUNK = 64 << 10  # bytes
_NO_REPOSITORY = (
    "it does not know the repository. Some servers want it to be created first, or lose an upload "
    "when they are restarted"
)


class PushStore(RemoteStore):
    """Reads and adds to the store in the repository at `location`.

    Raises:
        RegistryError: the location or the connection's settings are malformed.
    """

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the server has a blob, going by its word."""
        response = self._head(f"{self._path}/blobs/{descriptor.digest}", descriptor.digest)
        return response is not None and response.length in (None, descriptor.size)

    def put_blob(
        self, source: bytes | Path, media_type: str, *, limit: int, name: str | None = None
    ) -> Descriptor:
        """Store a blob of 1 to `limit` bytes, unless it is there.

        A file is read twice, to know its digest before anything is sent. `name`, under which to
        unpack it, goes into the descriptor's TITLE_ANNOTATION.

        Raises:
            RegistryError: it is empty or too large, cannot be read, or is changed meanwhile; or the
                server refuses.
        """
        label = str(source) if isinstance(source, Path) else name or media_type
        try:
            with _opened(source) as file:
                digest, size = _hashed(file, limit, label)
                annotations = {TITLE_ANNOTATION: name} if name else {}
                descriptor = Descriptor(media_type, digest, size, annotations)
                if not self.has_blob(descriptor):
                    self._upload(file, descriptor, label)
        except OSError as error:
            raise RegistryError(f"{label} cannot be read: {error.strerror}") from None
        return descriptor

    def put_manifest(self, content: bytes, media_type: str) -> Descriptor:
        """Store an index or a manifest, unless it is there.

        Raises:
            RegistryError: it is something else or too large, or the server refuses.
        """
        descriptor = _described(content, media_type)
        digest = descriptor.digest
        if self._head(f"{self._path}/manifests/{digest}", digest) is None:
            what = f"storing manifest {digest}"
            self._put_manifest(digest, descriptor, content, self._client.budget(), what=what)
        return descriptor

    def put_tag(self, tag: str, content: bytes, media_type: str) -> None:
        """Store an index or a manifest under a tag, whatever that named before.

        Raises:
            RegistryError: it is something else or too large, it cannot be a tag, or the server
                refuses.
        """
        if not is_tag(tag):
            raise RegistryError(f"{quoted(tag)} cannot be a tag")
        descriptor = _described(content, media_type)
        what = f"setting tag {tag!r}"
        self._put_manifest(tag, descriptor, content, self._client.budget(), what=what)

    def _upload(self, file: BinaryIO, descriptor: Descriptor, label: str) -> None:
        # A server may need a while, once it has all, to store and check it.
        budget = self._client.budget(silence=self._client.timeout)
        what = f"uploading {label}"

        def start() -> str:
            """Open an upload: anew at each try, as nobody knows what came of the last one."""
            request = self._request(
                what,
                "POST",
                f"{self._path}/blobs/uploads/",
                success=frozenset({202}),
                hints={404: _NO_REPOSITORY},
            )
            url = self._client.call(request, budget, self._upload_url)
            query = urlencode({"digest": descriptor.digest})
            return f"{url}{'&' if '?' in url else '?'}{query}"

        request = self._request(
            what,
            "PUT",
            start,
            success=frozenset({201}),
            hints={404: _NO_REPOSITORY},
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(descriptor.size),
            },
            body=lambda: _body(file, descriptor, label, budget),
        )
        self._client.call(request, budget, Response.discard)

    def _upload_url(self, response: Response) -> str:
        location = response.header("Location")
        response.discard()
        if location is None:
            raise RegistryError(response.line("it does not say where to, in a Location"))
        return self._client.url(response, location)

    def _put_manifest(
        self,
        reference: str,
        descriptor: Descriptor,
        content: bytes,
        budget: Budget,
        *,
        what: str,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Store a manifest under a digest or a tag; `before` is called before each try."""

        def target() -> str:
            before()
            return f"{self._path}/manifests/{reference}"

        request = self._request(
            what,
            "PUT",
            target,
            success=frozenset({201}),
            hints={404: _NO_REPOSITORY},
            headers={"Content-Type": descriptor.media_type},
            body=content,
        )
        self._client.call(request, budget, Response.discard)

    def _head(self, target: str, what: str) -> Response | None:
        """Return the headers of what is there; None if it is not."""
        request = self._request(f"looking for {what}", "HEAD", target, headers=ACCEPT)
        try:
            return self._client.call(request, self._client.budget(), _without_body)
        except NotFoundError:
            return None


def _described(content: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of an index or a manifest."""
    if media_type not in (OCI_INDEX, OCI_MANIFEST) or not 0 < len(content) <= MAX_MANIFEST:
        raise RegistryError(
            f"Expected an OCI index or manifest of 1 to {MAX_MANIFEST} bytes, "
            f"got {len(content)} of {quoted(media_type)}"
        )
    return Descriptor(media_type, digest_of(content), len(content))


def _without_body(response: Response) -> Response:
    response.discard()
    return response


def _opened(source: bytes | Path) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _hashed(file: BinaryIO, limit: int, label: str) -> tuple[str, int]:
    """Return the digest and the size of a file that a store takes."""
    sha256, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            break
        sha256.update(chunk)
    if not 0 < size <= limit:
        more = " or more" if size else ""
        raise RegistryError(f"{label} has {size}{more} bytes; a registry takes 1 to {limit}")
    return f"sha256:{sha256.hexdigest()}", size


def _body(file: BinaryIO, descriptor: Descriptor, label: str, budget: Budget) -> Iterator[bytes]:
    """Yield a file's bytes to be sent; the last ones only if all of them are what was hashed."""
    sha256, left = hashlib.sha256(), descriptor.size
    try:
        file.seek(0)
        while left and (chunk := file.read(min(_CHUNK, left))):
            sha256.update(chunk)
            left -= len(chunk)
            if left == 0 and f"sha256:{sha256.hexdigest()}" != descriptor.digest:
                break
            yield chunk
            budget.progress(len(chunk))
        else:
            if left == 0:
                return
    except OSError as error:
        raise RegistryError(f"{label} cannot be read: {error.strerror}") from None
    raise RegistryError(
        f"{label} was changed while it was uploaded. Publish it when it is complete"
    )
