"""Where a registry's content lies: an OCI layout directory, or a repository of a registry server.

    store = open_store("registry")
    store = open_store("oci://registry.example:5000/cells", Connection(ca_file=Path("ca.pem")))

Every store holds blobs and manifests by digest, and tags that name manifests. `ReadStore` is what
the reader and the trust in it are built on; nothing it returns is more than intact.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgeline.registry.connection import NO_SETTINGS, OCI_SCHEME, Connection
from edgeline.registry.format import Descriptor

__all__ = ["OCI_SCHEME", "Connection", "ReadStore", "open_store"]


class ReadStore(Protocol):
    """The reading side of a store. Its methods may be called from one thread at a time.

    Every method raises UnreachableError when the store cannot be reached in time, and RegistryError
    when it refuses or cannot be read, besides what it lists.
    """

    @property
    def location(self) -> str:
        """Where the store is, as its user wrote it."""

    def tags(self) -> list[str]:
        """Return every tag's name, sorted.

        Raises:
            IntegrityError: the store's index is broken.
        """

    def read_tag(self, tag: str, *, limit: int) -> tuple[Descriptor, bytes]:
        """Return the manifest that `tag` names and its bytes, which have the descriptor's digest.

        Raises:
            NotFoundError: there is no such tag.
            IntegrityError: the manifest has more than `limit` bytes, or is damaged.
        """

    def read_manifest(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return an index's or a manifest's bytes when size and SHA-256 are the descriptor's.

        Raises:
            NotFoundError: it is missing.
            IntegrityError: it has more than `limit` bytes, or is not what the descriptor promises.
        """

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return a blob's bytes when size and SHA-256 are the descriptor's.

        Raises:
            NotFoundError: it is missing.
            IntegrityError: it has more than `limit` bytes, or is not what the descriptor promises.
        """

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, as they come and unverified: hash them.

        Raises:
            NotFoundError: it is missing.
            IntegrityError: it has more bytes than the descriptor promises, or fewer.
        """


def open_store(location: str, connection: Connection = NO_SETTINGS) -> ReadStore:
    """Open the store at a directory's path or an "oci://host[:port]/repository".

    Nothing is read but a directory's oci-layout file.

    Raises:
        RegistryError: the location is malformed, or the directory is no OCI layout.
    """
    if location.startswith(OCI_SCHEME):
        from edgeline.registry.remote import RemoteStore

        return RemoteStore(location, connection)
    from edgeline.registry.layout import LayoutStore

    return LayoutStore(Path(location))
