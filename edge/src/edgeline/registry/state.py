"""What a device has trusted last, kept so that neither a crash nor a copy makes it forget.

The TUF client's files are in one file, with a checksum. It is replaced whole once it is on the
disk, so that there is the old state or the new one whenever the power fails; and damage that comes
later is noticed, in the place of taking an older copy of the registry for the newest.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeline._files import locked, read_bounded, write_whole
from edgeline._json import dump_canonical, parse_object
from edgeline._text import one_line
from edgeline.errors import ConflictError, RegistryError, TrustError

ROOTS = "root_history"  # where the TUF client keeps roots, below its folder
NAME = re.compile(rf"({ROOTS}/[1-9][0-9]*\.)?[a-z0-9]+(-[a-z0-9]+)*\.json")  # of its files

LOCK_SECONDS = 60.0  # to wait for another process, which may be asking a slow registry

_FILE = "trusted.json"
_FORMAT = 1
_MAX_SIZE = 64 << 20  # bytes
_PROTECTS = re.compile(rf"{ROOTS}/.*|(timestamp|snapshot)\.json")  # what going back is seen by


@dataclass(frozen=True)
class Kept:
    """What a device has trusted last."""

    files: Mapping[str, bytes] = field(default_factory=dict)  # of the TUF client, by their names
    # When files that were signed for too long were first seen, by SHA-256, in seconds since 1970.
    seen: Mapping[str, float] = field(default_factory=dict)


class State:
    """The state in a folder, which is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / _FILE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep out other processes that use the folder.

        Raises:
            ConflictError: another one has not finished within `LOCK_SECONDS`.
            RegistryError: the folder cannot be used.
        """
        with ExitStack() as stack:
            with self._translated():
                self._folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder / "lock", LOCK_SECONDS))
            yield

    def load(self) -> Kept:
        """Return what was saved last; nothing when this is the first time.

        Raises:
            TrustError: they are damaged.
            RegistryError: they cannot be read.
        """
        try:
            with self._translated():
                try:
                    data = read_bounded(self._file, _MAX_SIZE)
                except FileNotFoundError:
                    return Kept()
            return _unpack(data)
        except ValueError as error:
            raise TrustError(
                f"{self._file} is damaged ({one_line(error)}), so that an older copy of the "
                "registry could not be told from the newest. Restore the file; or delete it, if "
                "the registry is known to be the genuine one now"
            ) from None

    def save(self, kept: Kept) -> None:
        """Replace what was saved, unless it is the same.

        Raises:
            RegistryError: they cannot be written.
        """
        data = pack(kept)
        if len(data) > _MAX_SIZE:
            # The rest can be downloaded again, and tells nothing about what is old.
            files = {name: data for name, data in kept.files.items() if _PROTECTS.fullmatch(name)}
            data = pack(replace(kept, files=files))
        with self._translated():
            with suppress(FileNotFoundError):
                if self._file.read_bytes() == data:
                    return
            write_whole(self._file, data)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            # It may be waiting for a slow registry.
            raise ConflictError(
                f"Another process has used {self._folder} for {LOCK_SECONDS:g} seconds. Try again "
                "when it is done"
            ) from None
        except OSError as error:
            raise RegistryError(
                f"The state folder {self._folder} cannot be used: {error.strerror}. It has to be a "
                "folder that this user can write"
            ) from error


def pack(kept: Kept) -> bytes:
    """Return what the state's file holds then."""
    texts = {name: data.decode() for name, data in kept.files.items()}
    seen = dict(kept.seen)
    checksum = _checksum(texts, seen)
    return dump_canonical({"format": _FORMAT, "sha256": checksum, "files": texts, "seen": seen})


def _unpack(data: bytes) -> Kept:
    """Return what a state's file holds.

    Raises:
        ValueError: it is damaged.
    """
    document = parse_object(data)
    files = document.get("files")
    if not isinstance(files, dict) or document.get("format") != _FORMAT:
        raise ValueError("it is of another format")
    seen = document.get("seen", {})  # earlier versions have none
    if document.get("sha256") != _checksum(files, seen):
        raise ValueError("its checksum does not fit")
    if not all(NAME.fullmatch(name) and isinstance(text, str) for name, text in files.items()):
        raise ValueError("it holds something else than metadata")
    return Kept({name: text.encode() for name, text in files.items()}, seen)


def _checksum(files: Mapping[str, Any], seen: Mapping[str, float]) -> str:
    data = dump_canonical(files) + (dump_canonical(seen) if seen else b"")
    return hashlib.sha256(data).hexdigest()
