"""Opening files of an OCI layout whose content is not trusted."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

from edgeline._json import parse_object
from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry.format import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    MAX_MANIFEST,
    MAX_STORE_INDEX,
)


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
            f"{LAYOUT_FILE!r}. Publish a release to create one, or check the path"
        ) from None
    version = _parse(root / LAYOUT_FILE, data).get("imageLayoutVersion")
    if version != LAYOUT_VERSION:
        raise IntegrityError(
            f"{root} is an OCI layout of version {version!r}; edgeline reads {LAYOUT_VERSION!r}"
        )


def read_index_entries(root: Path) -> list[dict[str, Any]]:
    """Return the entries of the layout's index.json, which may belong to other tools.

    Raises:
        NotFoundError: there is no index.json.
        IntegrityError: it is not an index.
    """
    path = root / INDEX_FILE
    entries = _parse(path, read_file(root, INDEX_FILE, limit=MAX_STORE_INDEX)).get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise IntegrityError(f"{path} is not an OCI index: expected a list of 'manifests'")
    return entries


def read_file(root: Path, *parts: str, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is not a regular file in `root`, or too large.
    """
    path = root.joinpath(*parts)
    descriptor = _open_inside(root, *parts)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise IntegrityError(
                f"{path} has {status.st_size} bytes; at most {limit} are expected there"
            )
        return file.read(status.st_size)


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
