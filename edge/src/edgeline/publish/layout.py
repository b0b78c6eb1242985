"""Writing to an OCI image-layout directory, so that no crash and no other writer does harm.

Writers take turns by a lock that the system frees however they end. Each file is complete and on
the disk before it takes its name, and all tags that a writer sets under the lock change by one
replacement of index.json, when it is done. What a crash leaves is therefore at most what nothing
refers to, and `collect` removes that.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from edgeline._files import locked, sync_folder
from edgeline._json import dump_canonical
from edgeline.errors import ConflictError, IntegrityError, NotFoundError, RegistryError
from edgeline.publish.garbage import Collected, is_manifest, needed_digests
from edgeline.publish.progress import Notify, counted, say_nothing
from edgeline.publish.spool import Spool
from edgeline.registry.format import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    MAX_MANIFEST,
    MAX_STORE_INDEX,
    OCI_INDEX,
    TAG_ANNOTATION,
    TITLE_ANNOTATION,
    Descriptor,
    digest_of,
    hashed,
    is_tag,
)
from edgeline.registry.layout import (
    CHUNK,
    LayoutFiles,
    StoreIndex,
    blob_path,
    check_layout,
    read_file,
)

_PRIVATE = ".edgeline"  # in the layout: the lock, and the files being written
_LOCK_TIMEOUT = 300.0  # seconds to wait for other writers
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class LayoutWriter(LayoutFiles):
    """Writes to the store in the directory `path`, which is made when it is first written to.

    See `WriteStore` for the methods. All that write raise RegistryError when the disk is full or
    the directory cannot be written; what had no name yet is then gone.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._private = path / _PRIVATE
        self._blobs = path / "blobs" / "sha256"
        self._spool: Spool | None = None  # while the lock is held
        self._pending: dict[str, dict[str, Any] | None] = {}  # tags to set, or to remove (None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other writers out, and set all tags in one step at the end; see `WriteStore`.

        What raises inside leaves all tags as they were.

        Raises:
            RegistryError: the directory is something else than a store, or cannot be written.
            ConflictError: another writer does not come to an end.
        """
        with self._locked():
            yield

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return a blob, verified; see `ReadStore`."""
        self._settle(descriptor)
        return super().read_blob(descriptor, limit=limit)

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, unverified; see `ReadStore`."""
        self._settle(descriptor)
        return super().stream_blob(descriptor, offset=offset)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether an intact blob is there, by reading it; see `WriteStore`."""
        self._settle(descriptor)
        return self._is_intact(descriptor)

    def put_blob(
        self, source: bytes | Path, media_type: str, *, limit: int, name: str | None = None
    ) -> Descriptor:
        """Store a blob, unless it is there and intact; see `WriteStore`."""
        if isinstance(source, Path):
            return self.put_files([source], media_type, limit=limit, name=name)[0]
        return _titled(self._put_bytes(source, media_type, limit, name or media_type), name)

    def put_files(
        self, sources: Sequence[Path], media_type: str, *, limit: int, name: str | None = None
    ) -> list[Descriptor]:
        """Store files, unless they are there and intact, several at a time; see `WriteStore`."""
        # A thread for each core, as hashing keeps one busy.
        with self._locked() as spool, ThreadPoolExecutor(os.cpu_count()) as pool:
            put = partial(self._put_file, spool, media_type=media_type, limit=limit)
            return [_titled(blob, name) for blob in pool.map(put, sources)]

    def put_manifest(self, content: bytes, media_type: str) -> Descriptor:
        """Store an index or a manifest, unless it is there and intact; see `WriteStore`."""
        return self._put_bytes(content, media_type, MAX_MANIFEST, media_type)

    def commit(
        self, tags: Sequence[tuple[str, Descriptor]], *, expected: Mapping[str, str | None]
    ) -> None:
        """Set `tags`, which others see when `exclusive` ends; see `WriteStore`."""
        with self.exclusive():
            index = self._read_index()
            for tag, digest in expected.items():
                found = index.resolve(tag)
                if (found.digest if found else None) != digest:
                    raise ConflictError(
                        f"Tag {tag!r} of {self._root} was changed meanwhile: expected "
                        f"{digest or 'no such tag'}, found {found.digest if found else 'none'}"
                    )
            new = {tag: _entry(tag, descriptor) for tag, descriptor in tags}
            self._pending |= {
                tag: entry for tag, entry in new.items() if index.tagged.get(tag) != entry
            }

    def remove(self, tags: Collection[str], *, notify: Notify = say_nothing) -> None:
        """Remove `tags`, for others when `exclusive` ends; see `WriteStore`."""
        with self.exclusive():
            there = self._read_index().tagged
            self._pending |= dict.fromkeys(tag for tag in tags if tag in there)

    def collect(self, *, grace: timedelta, notify: Notify = say_nothing) -> Collected:
        """Remove what index.json does not lead to and is older than `grace`; see `WriteStore`.

        Raises:
            IntegrityError: something that it leads to is missing or damaged, so that nobody knows
                what else belongs to it. Nothing is removed.
        """
        manifests = blobs = size = 0
        oldest = time.time() - grace.total_seconds()
        with self._locked() as spool, self._translated():
            self._set_tags(spool)  # before anything is removed that old ones may need
            needed = needed_digests(self, self._read_index().entries, notify)
            names = sorted(file.name for file in self._blobs.iterdir())
            for name in counted(names, notify, "looking at blob"):
                if f"sha256:{name}" in needed or not _BLOB_NAME.fullmatch(name):
                    continue
                status = (self._blobs / name).lstat()
                if stat.S_ISDIR(status.st_mode) or status.st_mtime > oldest:
                    continue
                is_blob = not self._is_manifest(name)
                (self._blobs / name).unlink()
                manifests += not is_blob
                blobs += is_blob
                size += status.st_size
            sync_folder(self._blobs)
        return Collected(manifests, blobs, size)

    def _put_bytes(self, content: bytes, media_type: str, limit: int, source: str) -> Descriptor:
        _check_size(source, len(content), limit)
        digest = digest_of(content)
        blob = Descriptor(media_type, digest, len(content))
        with self._locked() as spool, self._translated():
            if not self._has(spool, blob):
                spool.put(content, self._path_of(blob))
        return blob

    def _put_file(self, spool: Spool, source: Path, media_type: str, limit: int) -> Descriptor:
        """Copy a file, and hash the copy while the disk takes it."""
        with self._translated():
            copy = spool.write(_source(source, limit))
            digest, size = hashed(_chunks(copy))
            blob = Descriptor(media_type, digest, size)
            if self._has(spool, blob):
                spool.drop(copy)
            else:
                spool.move(copy, self._path_of(blob))
        return blob

    def _has(self, spool: Spool, blob: Descriptor) -> bool:
        path = self._path_of(blob)
        return spool.is_moving(path) or (os.path.lexists(path) and self._is_intact(blob))

    def _is_intact(self, blob: Descriptor) -> bool:
        try:
            return hashed(super().stream_blob(blob)) == (blob.digest, blob.size)
        except (NotFoundError, IntegrityError):
            return False

    def _settle(self, blob: Descriptor) -> None:
        """Wait for a blob that was put and is not in its place yet."""
        if self._spool is not None and self._spool.is_moving(self._path_of(blob)):
            with self._translated():
                self._spool.settle()

    def _path_of(self, blob: Descriptor) -> Path:
        return self._root.joinpath(*blob_path(blob))

    def _read_index(self) -> StoreIndex:
        """Return index.json with the tags that this writer is about to set or to remove."""
        index = super()._read_index()
        changing = {id(index.tagged[tag]) for tag in self._pending if tag in index.tagged}
        kept = [entry for entry in index.entries if id(entry) not in changing]
        new = {tag: entry for tag, entry in self._pending.items() if entry is not None}
        staying = {tag: entry for tag, entry in index.tagged.items() if tag not in self._pending}
        return StoreIndex([*kept, *new.values()], {**staying, **new})

    def _set_tags(self, spool: Spool) -> None:
        """Put everything in its place, and then the tags in theirs, in one step."""
        if not self._pending:
            spool.settle()
            return
        entries = self._read_index().entries
        data = dump_canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        if len(data) > MAX_STORE_INDEX:
            raise RegistryError(
                f"{self._root} would hold too many tags: its {INDEX_FILE} would have {len(data)} "
                f"bytes, at most {MAX_STORE_INDEX} are allowed. Remove old versions first, with "
                "'edgeline registry gc'"
            )
        index = spool.write([data])
        # Blobs must be on the disk, under their names, before anything refers to them.
        spool.settle()
        sync_folder(self._blobs)
        spool.move(index, self._root / INDEX_FILE)
        spool.settle()
        sync_folder(self._root)
        self._pending.clear()

    def _replace(self, spool: Spool, name: str, data: bytes) -> None:
        spool.put(data, self._root / name)
        spool.settle()
        sync_folder(self._root)

    @contextmanager
    def _locked(self) -> Iterator[Spool]:
        if self._spool is not None:
            yield self._spool
            return
        with ExitStack() as stack:
            with self._translated():
                self._lock(stack)
                self._spool = spool = self._open_spool()
                stack.callback(self._end)
                self._initialize(spool)
            yield spool
            with self._translated():
                self._set_tags(spool)

    def _end(self) -> None:
        self._pending.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _open_spool(self) -> Spool:
        folder = self._private / "incoming"
        self._make_directory(folder)
        return Spool(folder)

    def _lock(self, stack: ExitStack) -> None:
        self._check_ours()
        self._make_directory(self._private)
        try:
            # Everybody who may write to the folder may lock it.
            stack.enter_context(locked(self._private / "lock", _LOCK_TIMEOUT, mode=0o666))
        except BlockingIOError:
            raise ConflictError(
                f"{self._root} has been locked by another writer for {_LOCK_TIMEOUT:.0f} s; try "
                "again when it is done, or end it"
            ) from None

    def _check_ours(self) -> None:
        """Check that the root is an OCI layout, or that nobody's files are in the way of one."""
        unclaimed = not self._root.exists() or (
            self._root.is_dir() and all(path.name == _PRIVATE for path in self._root.iterdir())
        )
        if not unclaimed:
            check_layout(self._root)

    def _initialize(self, spool: Spool) -> None:
        """Complete the layout, in an order that no crash can turn into something refused later."""
        if not (self._root / LAYOUT_FILE).exists():
            self._replace(
                spool, LAYOUT_FILE, dump_canonical({"imageLayoutVersion": LAYOUT_VERSION})
            )
        begun = self._blobs.exists()
        if not (self._root / INDEX_FILE).exists():
            if begun:
                raise RegistryError(
                    f"{self._root} holds blobs and no {INDEX_FILE}, so its versions are unknown. "
                    f"Restore {INDEX_FILE}, or publish to a new directory"
                )
            empty: list[object] = []
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": empty}
            self._replace(spool, INDEX_FILE, dump_canonical(index))
        self._make_directory(self._blobs.parent)
        self._make_directory(self._blobs)
        if not begun:
            sync_folder(self._blobs.parent)
            sync_folder(self._root)

    def _make_directory(self, path: Path) -> None:
        """Make a directory of the layout, or check that it is one and not a link to elsewhere."""
        path.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link; expected a plain directory")

    def _is_manifest(self, name: str) -> bool:
        try:
            return is_manifest(read_file(self._blobs, name, limit=MAX_MANIFEST))
        except RegistryError:
            return False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the system says into what its user can act on."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise RegistryError(
                    f"{self._root} could not be written, since there is no space left for it "
                    f"({error.strerror}). What it held is unharmed; make space and try again"
                ) from error
            raise RegistryError(
                f"{self._root} could not be written: {error.strerror} ({error.filename}). "
                "Expected a directory that this user may write to"
            ) from error


def _entry(tag: str, descriptor: Descriptor) -> dict[str, Any]:
    if not is_tag(tag):
        raise RegistryError(f"{tag!r} cannot be a tag: it is longer or holds other characters")
    annotations = {TAG_ANNOTATION: tag}
    return Descriptor(
        descriptor.media_type, descriptor.digest, descriptor.size, annotations
    ).to_json()


def _titled(blob: Descriptor, name: str | None) -> Descriptor:
    return replace(blob, annotations={TITLE_ANNOTATION: name} if name else {})


def _source(path: Path, limit: int) -> Iterator[memoryview]:
    """Yield the bytes of a file that a registry takes."""
    size = 0
    for chunk in _chunks(path):
        size += len(chunk)
        _check_size(str(path), size, limit)
        yield chunk
    _check_size(str(path), size, limit)


def _chunks(path: Path) -> Iterator[memoryview]:
    """Yield a file's bytes, in one buffer: the next chunk takes the place of the last."""
    buffer = memoryview(bytearray(CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield buffer[:size]
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror}") from None


def _check_size(source: str, size: int, limit: int) -> None:
    if not 0 < size <= limit:
        raise RegistryError(f"{source} has {size} bytes; a registry takes 1 to {limit}")
