"""Where reports lie: a folder, or a repository of a registry server with a tag for each device.

A device has one report there, which its next one replaces. So a place grows with the number of
devices and not with time; on a server, what was replaced has no tag and is its garbage. The
repository is one of its own, `<registry>/reports`: a device's login needs to write to nothing else.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgeline._files import read_bounded, write_whole
from edgeline._json import dump_canonical
from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.fleet.report import MAX_REPORT, REPORT_TYPE, check_device
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    OCI_MANIFEST,
    Descriptor,
    parse_document,
)
from edgeline.registry.store import OCI_SCHEME, Connection

MAX_DEVICES = 100_000  # whose reports are read


class Place(Protocol):
    """Where reports lie."""

    def put(self, device: str, report: bytes) -> None:
        """Replace a device's report.

        Raises:
            RegistryError: it cannot be written.
        """

    def reports(self) -> Iterator[tuple[str, bytes]]:
        """Yield devices' ids with their reports, of which nothing was verified.

        What is filed under something else than an id, or is larger than a report, is passed over.

        Raises:
            RegistryError: the place cannot be read.
        """


_NO_SETTINGS = Connection()


def open_place(location: str, connection: Connection = _NO_SETTINGS) -> Place:
    """Open a folder, or the reports beside a registry at "oci://host[:port]/repository".

    Raises:
        RegistryError: the location is malformed.
    """
    if location.startswith(OCI_SCHEME):
        return _Repository(f"{location.rstrip('/')}/reports", connection)
    return _Folder(Path(location))


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, device: str, report: bytes) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            write_whole(self._path / f"{check_device(device)}.json", report)
        except OSError as error:
            raise RegistryError(
                f"The report cannot be written to {self._path}: {error.strerror}"
            ) from None

    def reports(self) -> Iterator[tuple[str, bytes]]:
        try:
            files = sorted(self._path.glob("*.json"))
        except OSError as error:
            raise RegistryError(
                f"Reports cannot be read from {self._path}: {error.strerror}"
            ) from None
        if not self._path.is_dir():
            raise NotFoundError(f"There is no folder {self._path} with reports")
        for file in files[:MAX_DEVICES]:
            try:
                name = check_device(file.stem)
                if file.is_symlink() or not file.is_file():
                    continue
                data = read_bounded(file, MAX_REPORT)
            except (IntegrityError, OSError, ValueError):
                continue
            yield name, data


class _Repository:
    def __init__(self, location: str, connection: Connection) -> None:
        from edgeline.publish.remote import RemoteWriter

        self._store = RemoteWriter(location, connection)

    def put(self, device: str, report: bytes) -> None:
        config = self._store.put_blob(b"{}", EMPTY_CONFIG, limit=MAX_MANIFEST)
        layer = self._store.put_blob(report, REPORT_TYPE, limit=MAX_REPORT)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": REPORT_TYPE,
            "config": config.to_json(),
            "layers": [layer.to_json()],
        }
        manifest = self._store.put_manifest(dump_canonical(document), OCI_MANIFEST)
        self._store.commit([(check_device(device), manifest)], expected={})

    def reports(self) -> Iterator[tuple[str, bytes]]:
        for tag in self._store.tags()[:MAX_DEVICES]:
            try:
                name = check_device(tag)
                _, data = self._store.read_tag(tag, limit=MAX_MANIFEST)
                layers = parse_document(data, OCI_MANIFEST).get("layers")
                if not isinstance(layers, list) or len(layers) != 1:
                    continue
                yield name, self._store.read_blob(Descriptor.from_json(layers[0]), limit=MAX_REPORT)
            except (IntegrityError, NotFoundError):
                continue
