"""An object store as Kubeflow's launcher uses it: files only, so that empty folders are lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path


class ObjectStore:
    """Objects by bucket and key, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def upload(self, local: Path, uri: str) -> None:
        """Copies a file, or every file below a folder; nothing where nothing is."""
        if local.is_dir():
            for file in sorted(path for path in local.rglob("*") if path.is_file()):
                self._put(file, self._object(uri) / file.relative_to(local))
        elif local.exists():
            self._put(local, self._object(uri))

    def download(self, uri: str, local: Path) -> None:
        """Copies the object of that name, and every object below it."""
        prefix = self._object(uri)
        for file in self._objects(prefix):
            target = local if file == prefix else local / file.relative_to(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

    def read(self, uri: str) -> Path:
        """The file or folder that holds what is stored there."""
        return self._object(uri)

    def keys(self, uri: str) -> list[str]:
        """The names of all objects below a URI, relative to it."""
        prefix = self._object(uri)
        return sorted(str(file.relative_to(prefix)) for file in self._objects(prefix))

    def _object(self, uri: str) -> Path:
        scheme, _, key = uri.partition("://")
        return self._folder / scheme / key

    @staticmethod
    def _objects(prefix: Path) -> Iterator[Path]:
        if prefix.is_file():
            yield prefix
        yield from (path for path in prefix.rglob("*") if path.is_file())

    @staticmethod
    def _put(file: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
