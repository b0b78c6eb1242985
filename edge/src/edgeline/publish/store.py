"""Writing to a store: blobs and manifests by digest, then tags in one step that may conflict."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from edgeline.publish.garbage import Collected
from edgeline.publish.progress import Notify, say_nothing
from edgeline.registry.connection import NO_SETTINGS, OCI_SCHEME, Connection
from edgeline.registry.format import Descriptor, damaged
from edgeline.registry.store import ReadStore


class WriteStore(ReadStore, Protocol):
    """The writing side of a store.

    Writers prepare with `put_blob` and `put_manifest`, which are idempotent and visible to nobody,
    and then `commit` tags. All of it belongs inside `exclusive`, which keeps other writers out
    where the store can; where it cannot, `commit` notices them.
    """

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other writers out, for a directory; reentrant. It is created if it does not exist.

        In a directory, all tags that are set or removed inside change together at the end, for
        others; whoever holds the lock sees them at once. When something raises, none changes.

        Raises:
            RegistryError: the location is something else than a store.
        """

    def put_blob(
        self, source: bytes | Path, media_type: str, *, limit: int, name: str | None = None
    ) -> Descriptor:
        """Store a blob of 1 to `limit` bytes.

        A blob that the store has already is not sent again. `name`, under which to unpack it, goes
        into the descriptor's TITLE_ANNOTATION.

        Raises:
            RegistryError: it is empty or too large, or the store is full.
        """

    def put_files(
        self, sources: Sequence[Path], media_type: str, *, limit: int, name: str | None = None
    ) -> list[Descriptor]:
        """Store files as `put_blob` does, several at a time where that is faster."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the store has a blob; in a directory, one that is also intact."""

    def put_manifest(self, content: bytes, media_type: str) -> Descriptor:
        """Store an index or a manifest, whose blobs and manifests are stored already."""

    def commit(
        self, tags: Sequence[tuple[str, Descriptor]], *, expected: Mapping[str, str | None]
    ) -> None:
        """Set `tags`, if each tag of `expected` names the manifest of that digest (None: no such).

        A directory takes all of them at once, when `exclusive` ends. A server takes them in the
        order given, and is read back after a while: there a crash may leave the first ones set, and
        a tag that another writer has set meanwhile is the other's.

        Raises:
            ConflictError: a tag is not as expected, or was lost to another writer.
        """

    def remove(self, tags: Collection[str], *, notify: Notify = say_nothing) -> None:
        """Remove tags that exist; on a server together with their manifests.

        `notify` is told how far that has come, by a server's writer: it looks at every tag.

        Raises:
            RegistryError: the server does not allow it.
        """

    def collect(self, *, grace: timedelta, notify: Notify = say_nothing) -> Collected:
        """Remove what no tag leads to and is older than `grace`; tell how far that has come.

        A server collects its blobs itself; there it does nothing.
        """


def open_for_writing(location: str, connection: Connection = NO_SETTINGS) -> WriteStore:
    """Open the store at a directory's path, or an "oci://host[:port]/repository", for writing.

    Nothing is read or created yet.

    Raises:
        RegistryError: the location is malformed.
    """
    if location.startswith(OCI_SCHEME):
        from edgeline.publish.remote import RemoteWriter

        return RemoteWriter(location, connection)
    from edgeline.publish.layout import LayoutWriter

    return LayoutWriter(Path(location))


def verified(store: ReadStore, blob: Descriptor, what: str) -> Iterator[bytes]:
    """Yield a blob's bytes as they come, and see at the end whether they are the right ones.

    Args:
        store: Where it is.
        blob: Which.
        what: What it belongs to, for errors.

    Raises:
        IntegrityError: it was changed or damaged; what was yielded is of no use then.
        UnreachableError: the store stopped answering.
    """
    sha256, size = hashlib.sha256(), 0
    for chunk in store.stream_blob(blob):
        sha256.update(chunk)
        size += len(chunk)
        yield chunk
    digest = f"sha256:{sha256.hexdigest()}"
    if (digest, size) != (blob.digest, blob.size):
        raise damaged(blob, f"of {what} in {store.location}", size, digest)
