"""The device's client, spoken to by the protocol of tuf-conformance, the suite for TUF clients.

The suite's repositories are files on a web server, where a registry has a manifest that lists them
and blobs. This puts one into the place of the other, a file at a time and only when the client
asks for it; what is fetched when, and what is believed, is the client's doing. An error that
edgeline doesn't raise on purpose leaves with a code that the suite takes for no refusal.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import urllib3

from edgeline._json import dump_canonical
from edgeline.errors import EdgelineError, IntegrityError, NotFoundError, UnreachableError
from edgeline.registry import bundle, state, trust
from edgeline.registry.format import (
    EMPTY_CONFIG,
    LAYOUT_FILE,
    MAX_TUF_METADATA,
    OCI_MANIFEST,
    TUF_METADATA,
    Descriptor,
    digest_of,
)
from edgeline.registry.layout import LayoutStore

# A role of a registry has a name in lower case, and the suite has roles A to D. What is done with
# them is the same, so that only here they are let in.
bundle._FILE = re.compile(bundle._FILE.pattern, re.IGNORECASE)
state.NAME = re.compile(state.NAME.pattern, re.IGNORECASE)
vars(trust).update(NAME=state.NAME)

REFUSED, BROKEN = 1, 2  # exit codes: the client refused, or this is a bug
MAX_ARTIFACT = 1 << 20  # bytes
SECONDS = 10.0  # for the server to answer


class WebStore:
    """A store of one bundle whose manifest lists nothing but the file that was asked for last."""

    def __init__(self, url: str) -> None:
        self.location = url
        self._pool = urllib3.PoolManager(retries=False, timeout=SECONDS)
        self._manifest = b""
        self._blobs: dict[str, bytes] = {}

    def tags(self) -> list[str]:
        return ["tuf"]

    def read_tag(self, tag: str, *, limit: int) -> tuple[Descriptor, bytes]:
        return _describe(OCI_MANIFEST, self._manifest), self._manifest

    def read_manifest(self, descriptor: Descriptor, *, limit: int) -> bytes:
        return self._blobs[descriptor.digest]

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        return self._blobs[descriptor.digest]

    def stream_blob(self, descriptor: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        yield self._blobs[descriptor.digest][offset:]

    def listed(self, name: str) -> Descriptor:
        """Return a file of the repository as a bundle lists it.

        Raises:
            NotFoundError: the repository lacks it.
            IntegrityError: it is none that could be in a bundle.
        """
        data = self.fetch(self.location + name, MAX_TUF_METADATA)
        layer = _describe(TUF_METADATA, data)
        self._blobs[layer.digest] = data
        config = _describe(EMPTY_CONFIG, b"{}")
        self._manifest = dump_canonical(bundle.bundle_document(config, {name: layer}))
        return bundle.read_bundle(self).files[name]

    def fetch(self, url: str, limit: int) -> bytes:
        """Return a file's bytes.

        Raises:
            NotFoundError: there is no such file.
            IntegrityError: it has more than `limit` bytes.
            UnreachableError: the server doesn't answer.
        """
        try:
            answer = self._pool.request("GET", url, preload_content=False)
            with answer:
                data = answer.read(limit + 1)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{url} cannot be fetched: {error}") from error
        if answer.status != 200:
            raise NotFoundError(f"{url} does not exist")
        if len(data) > limit:
            raise IntegrityError(f"{url} has more than {limit} bytes")
        return data


class WebFiles(Mapping[str, Descriptor]):
    """The files of a repository's bundle, each fetched when it is asked for."""

    def __init__(self, store: WebStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> Descriptor:
        try:
            return self._store.listed(name)
        except NotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("a web server lists no files")

    def __len__(self) -> int:
        raise NotImplementedError("a web server lists no files")


class Client:
    """A device, whose state is in a folder of the suite's folder for metadata."""

    def __init__(self, metadata: Path, url: str) -> None:
        self._metadata = metadata
        self._state = metadata / "edgeline"
        self._store = WebStore(url)
        # A manifest of all files can't be had from a web server: what lists them asks for each.
        vars(trust).update(read_bundle=lambda store: bundle.Bundle("", WebFiles(self._store)))
        root = (self._state / "root.json").read_bytes()
        self._channels = trust.TrustedChannels(self._store, root=root, state=self._state)

    @staticmethod
    def start(metadata: Path, root: Path) -> None:
        """Give a new device its root."""
        (metadata / "edgeline").mkdir()
        for folder in (metadata, metadata / "edgeline"):
            shutil.copyfile(root, folder / "root.json")

    def refresh(self) -> None:
        try:
            self._channels.refresh()
        finally:
            self._show()

    def download(self, path: str, url: str, folder: Path) -> None:
        """Write the artifact at `path` of the repository to `folder`."""
        try:
            # What `channel` begins with, which then takes no path but a channel's.
            target = self._channels._target(path)
        finally:
            self._show()
        if target is None:
            raise NotFoundError(f"nobody has signed {path!r}")
        if set(target.hashes) != {"sha256"}:
            raise IntegrityError(f"{path!r} is signed with other hashes than a release's index is")
        digest = target.hashes["sha256"]
        wanted = Descriptor("application/octet-stream", f"sha256:{digest}", target.length)
        directory, separator, name = path.rpartition("/")
        address = f"{url}{quote(directory)}{separator}{digest}.{quote(name)}"
        content, file = self._content(wanted, address), folder / quote(path, "")
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)

    def _content(self, wanted: Descriptor, address: str) -> bytes:
        """Return an artifact as the device reads it: from what it has, or else fetched."""
        layout = self._state / "layout"
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        (layout / LAYOUT_FILE).write_text('{"imageLayoutVersion": "1.0.0"}')
        store = LayoutStore(layout)
        try:
            return store.read_blob(wanted, limit=MAX_ARTIFACT)
        except (NotFoundError, IntegrityError):
            data = self._store.fetch(address, MAX_ARTIFACT)
        (blobs / wanted.digest.removeprefix("sha256:")).write_bytes(data)
        return store.read_blob(wanted, limit=MAX_ARTIFACT)

    def _show(self) -> None:
        """Write what is trusted now to where the suite looks for it, under its names."""
        files = dict(state.State(self._state).load().files)
        roots = [name for name in files if name.startswith(state.ROOTS)]
        if roots:
            files["root.json"] = files[max(roots, key=trust._root_version)]
        for shown in self._metadata.glob("*.json"):
            if shown.name != "root.json":
                shown.unlink()
        for name, data in files.items():
            if "/" not in name:
                (self._metadata / name).write_bytes(data)


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.command == "init":
            Client.start(options.metadata_dir, options.trusted_root)
            return 0
        client = Client(options.metadata_dir, options.metadata_url)
        if options.command == "refresh":
            client.refresh()
        else:
            for path in options.target_name:
                client.download(path, options.target_base_url, options.target_dir)
    except EdgelineError as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


def _describe(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, digest_of(data), len(data))


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        import traceback

        traceback.print_exc()
        code = BROKEN
    raise SystemExit(code)
