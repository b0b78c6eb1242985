"""A store in an OCI image-layout directory: on a disk, a USB stick, or a mounted volume.

Whoever filled the directory is not trusted: no symbolic link is followed, no FIFO waited for, and
nothing read beyond its expected size. Writers replace files whole, so that readers need no lock.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgeline._json import parse_object
from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry.format import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    MAX_MANIFEST,
    MAX_STORE_INDEX,
    TAG_ANNOTATION,
    Descriptor,
    damaged,
    digest_of,
    is_tag,
    parse_annotations,
)

CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class StoreIndex:
    """What index.json says; some of it may belong to other tools."""

    entries: Sequence[Mapping[str, Any]]
    tagged: Mapping[str, Mapping[str, Any]]  # the entries that have a tag, by tag

    @classmethod
    def parse(cls, path: Path, data: bytes) -> "StoreIndex":
        """Read untrusted bytes.

        Raises:
            IntegrityError: they are no index, or one that has a tag twice.
        """
        entries = _parse(path, data).get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise IntegrityError(f"{path} is not an OCI index: expected a list of 'manifests'")
        tagged: dict[str, Mapping[str, Any]] = {}
        for entry in entries:
            tag = tag_of(entry)
            if tag in tagged:
                raise IntegrityError(f"{path} is broken: tag {tag!r} is there twice")
            if tag is not None:
                tagged[tag] = entry
        return cls(entries, tagged)

    def resolve(self, tag: str) -> Descriptor | None:
        """Return what `tag` names, or None when there is no such tag.

        Raises:
            IntegrityError: it names nothing that could be a manifest.
        """
        if tag not in self.tagged:
            return None
        descriptor = Descriptor.from_json(self.tagged[tag])
        return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def tag_of(entry: Mapping[str, Any]) -> str | None:
    """Return the tag of an entry of index.json; None when it has none that edgeline could use.

    Raises:
        IntegrityError: its annotations are malformed.
    """
    tag = parse_annotations(entry.get("annotations", {})).get(TAG_ANNOTATION)
    return tag if is_tag(tag) else None


class LayoutFiles:
    """The reading methods of `ReadStore`, over a directory that need not be a layout yet.

    Each call sees what was published since the last one.
    """

    def __init__(self, path: Path) -> None:
        self._root = path
        self._index: tuple[tuple[int, ...], StoreIndex] | None = None

    @property
    def location(self) -> str:
        """The directory's path."""
        return str(self._root)

    def tags(self) -> list[str]:
        """Return every tag's name; see `ReadStore`."""
        return sorted(self._read_index().tagged)

    def read_tag(self, tag: str, *, limit: int) -> tuple[Descriptor, bytes]:
        """Return what `tag` names, verified; see `ReadStore`."""
        descriptor = self._read_index().resolve(tag)
        if descriptor is None:
            raise NotFoundError(f"{self._root} has no tag {tag!r}")
        return descriptor, self.read_blob(descriptor, limit=limit)

    def read_manifest(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return an index or a manifest, verified; see `ReadStore`."""
        return self.read_blob(descriptor, limit=limit)

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return a blob, verified; see `ReadStore`."""
        descriptor.check_size(limit)
        data = read_file(self._root, *blob_path(descriptor), limit=descriptor.size)
        digest = digest_of(data)
        if len(data) != descriptor.size or digest != descriptor.digest:
            raise damaged(descriptor, f"in {self._root}", len(data), digest)
        return data

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, unverified; see `ReadStore`."""
        parts = blob_path(descriptor)
        with opened(self._root, *parts, limit=descriptor.size) as (file, _):
            remaining = descriptor.size - file.seek(offset)
            while chunk := file.read(min(CHUNK, max(remaining, 0))):
                remaining -= len(chunk)
                yield chunk
        if remaining > 0:
            raise IntegrityError(
                f"Blob {descriptor.digest} in {self._root} was truncated: {remaining} of its "
                f"{descriptor.size} bytes are missing. Publish the release again to restore it"
            )

    def _read_index(self) -> StoreIndex:
        """Return index.json, parsed again only when it was replaced: it names every version."""
        try:
            with opened(self._root, INDEX_FILE, limit=MAX_STORE_INDEX) as (file, size):
                status = os.fstat(file.fileno())
                signature = (
                    status.st_dev, status.st_ino, status.st_size,
                    status.st_mtime_ns, status.st_ctime_ns,
                )  # fmt: skip
                if self._index is None or self._index[0] != signature:
                    check_layout(self._root)
                    path = self._root / INDEX_FILE
                    self._index = signature, StoreIndex.parse(path, file.read(size))
        except NotFoundError:
            check_layout(self._root)  # which may be all that is wrong, and says more
            raise
        return self._index[1]


class LayoutStore(LayoutFiles):
    """Reads the store in the directory `path`.

    Raises:
        NotFoundError: `path` is not an OCI layout.
        IntegrityError: it is one of another version, or broken.
    """

    def __init__(self, path: Path) -> None:
        check_layout(path)
        super().__init__(path)


def check_layout(root: Path) -> None:
    """Check that `root` is an OCI layout of the version that edgeline knows.

    Raises:
        NotFoundError: it is not a layout at all.
        IntegrityError: it is one of another version, or broken.
    """
    try:
        data = read_file(root, LAYOUT_FILE, limit=MAX_MANIFEST)
    except NotFoundError:
        raise NotFoundError(
            f"{root} is not a model registry: expected an OCI layout, a directory with a file "
            f"{LAYOUT_FILE!r}. Make one with 'edgeline registry init', or check the path"
        ) from None
    version = _parse(root / LAYOUT_FILE, data).get("imageLayoutVersion")
    if version != LAYOUT_VERSION:
        raise IntegrityError(
            f"{root} is an OCI layout of version {version!r}; edgeline reads {LAYOUT_VERSION!r}"
        )


def blob_path(descriptor: Descriptor) -> tuple[str, str, str]:
    """Return where a layout keeps a blob: safe, since a descriptor's digest is."""
    algorithm, _, encoded = descriptor.digest.partition(":")
    return "blobs", algorithm, encoded


def read_file(root: Path, *parts: str, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is not a regular file in `root`, or too large.
        RegistryError: it cannot be read.
    """
    with opened(root, *parts, limit=limit) as (file, size):
        return file.read(size)


@contextmanager
def opened(root: Path, *parts: str, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file of at most `limit` bytes for reading; gives it and its size.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is not a regular file in `root`, or too large.
        RegistryError: it cannot be read.
    """
    path = root.joinpath(*parts)
    descriptor = _open_inside(root, *parts)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise IntegrityError(
                f"{path} has {status.st_size} bytes; at most {limit} are expected there"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file, status.st_size
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _open_inside(root: Path, *parts: str) -> int:
    """Open a path below `root` for reading, following no symbolic link on the way down."""
    directory = -1
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts[:-1]:
            parent = directory
            directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
        # Not to block when a hostile layout holds a FIFO in the file's place.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        raise NotFoundError(f"{root.joinpath(*parts)} does not exist") from None
    except OSError as error:
        linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
        raise (IntegrityError if linked else RegistryError)(
            f"{root.joinpath(*parts)} cannot be opened: {error.strerror}. "
            "Expected a regular file in a plain directory, readable by this user"
        ) from None
    finally:
        if directory >= 0:
            os.close(directory)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return parse_object(data)
    except ValueError as error:
        raise IntegrityError(f"{path} is broken: {error}") from None
