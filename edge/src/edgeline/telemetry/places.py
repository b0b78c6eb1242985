"""Where devices leave things: a folder, or a repository of a registry server with a tag for each.

A device has one report at a place, which its next one replaces. So a place grows with the number of
devices and not with time; on a server, what was replaced has no tag and is its garbage. Hard
examples have a name each, and are the owner's to remove. The repositories are ones of their own,
`<registry>/reports` and `<registry>/examples`: a device's login needs to write to nothing else.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from edgeline._files import read_bounded, write_named
from edgeline._json import dump_canonical
from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    OCI_MANIFEST,
    Descriptor,
    parse_document,
)
from edgeline.registry.store import OCI_SCHEME, Connection
from edgeline.telemetry.report import REPORTS, Kind

MAX_ENTRIES = 100_000  # that are read of a place


class Place(Protocol):
    """Where things of a kind lie, by name: by a device's id, or one that begins with it."""

    def put(self, name: str, data: bytes) -> None:
        """Write one, or replace it.

        Raises:
            RegistryError: it cannot be written.
            IntegrityError: the name is not of this kind.
        """

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """Yield names with contents, of which nothing was verified.

        What has another kind of name, or is larger than its kind, is passed over.

        Raises:
            RegistryError: the place cannot be read.
        """


_NO_SETTINGS = Connection()


def open_place(
    location: str, connection: Connection = _NO_SETTINGS, *, kind: Kind[Any] = REPORTS
) -> Place:
    """Open a folder, or a repository beside a registry at "oci://host[:port]/repository".

    Raises:
        RegistryError: the location is malformed.
    """
    if location.startswith(OCI_SCHEME):
        return _Repository(f"{location.rstrip('/')}/{kind.name}s", connection, kind)
    return _Folder(Path(location), kind)


class _Folder:
    def __init__(self, path: Path, kind: Kind[Any]) -> None:
        self._path = path
        self._kind = kind

    def put(self, name: str, data: bytes) -> None:
        write_named(self._path / f"{self._kind.check(name)}{self._kind.suffix}", data)

    def entries(self) -> Iterator[tuple[str, bytes]]:
        try:
            files = sorted(self._path.glob(f"*{self._kind.suffix}"))
        except OSError as error:
            raise RegistryError(
                f"The {self._kind.name}s in {self._path} cannot be read: {error.strerror}"
            ) from None
        if not self._path.is_dir():
            raise NotFoundError(f"There is no folder {self._path} with {self._kind.name}s")
        for file in files[:MAX_ENTRIES]:
            try:
                name = self._kind.check(file.stem)
                if file.is_symlink() or not file.is_file():
                    continue
                data = read_bounded(file, self._kind.limit)
            except (IntegrityError, OSError, ValueError):
                continue
            yield name, data


class _Repository:
    def __init__(self, location: str, connection: Connection, kind: Kind[Any]) -> None:
        from edgeline.registry.push import PushStore

        self._store = PushStore(location, connection)
        self._kind = kind

    def put(self, name: str, data: bytes) -> None:
        config = self._store.put_blob(b"{}", EMPTY_CONFIG, limit=MAX_MANIFEST)
        layer = self._store.put_blob(data, self._kind.media_type, limit=self._kind.limit)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": self._kind.media_type,
            "config": config.to_json(),
            "layers": [layer.to_json()],
        }
        self._store.put_tag(self._kind.check(name), dump_canonical(document), OCI_MANIFEST)

    def entries(self) -> Iterator[tuple[str, bytes]]:
        for tag in self._store.tags()[:MAX_ENTRIES]:
            try:
                name = self._kind.check(tag)
                _, manifest = self._store.read_tag(tag, limit=MAX_MANIFEST)
                layers = parse_document(manifest, OCI_MANIFEST).get("layers")
                if not isinstance(layers, list) or len(layers) != 1:
                    continue
                layer = Descriptor.from_json(layers[0])
                yield name, self._store.read_blob(layer, limit=self._kind.limit)
            except (IntegrityError, NotFoundError):
                continue
