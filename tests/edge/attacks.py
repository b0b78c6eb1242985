"""A registry to be attacked: honest publishers, a device, and tools for who controls the store."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Key

from edgeline._json import dump_canonical
from edgeline.contract import PreprocessingContract
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Expiry, Keys, ModelKeys, Repository, initialize
from edgeline.registry.bundle import bundle_document, read_bundle
from edgeline.registry.format import EMPTY_CONFIG, OCI_MANIFEST, TUF_METADATA, TUF_TAG, ReleaseRef
from edgeline.registry.layout import LayoutStore
from edgeline.registry.reader import RegistryReader
from edgeline.registry.trust import TrustedChannels

Files = dict[str, bytes]
Document = dict[str, Any]

KEYS = (
    "root-1", "root-2", "targets", "online",
    "cells-ci", "cells-release", "dogs-ci", "dogs-release",
    "stranger-1", "stranger-2",
)  # fmt: skip
_LIMIT = 1 << 30  # bytes: attackers don't mind ours


class World:
    """A registry with two models, everybody's keys, and what the attacker has recorded of it."""

    def __init__(self, folder: Path, *, expiry: Expiry | None = None, days: int = 0) -> None:
        self.folder = folder
        self.path = folder / "registry"
        self.honest = folder / "honest"  # a copy of it as honest people left it
        self._made = False
        self.store = LayoutWriter(self.path)
        self.keys = {name: CryptoSigner.generate_ed25519() for name in KEYS}
        self.recorded: list[Files] = []  # the metadata after each honest change
        self.releases: dict[int, ReleaseRef] = {}
        keys = Keys(
            root=(self.key("root-1"), self.key("root-2")),
            targets=self.key("targets"),
            online=self.key("online"),
            models={
                model: ModelKeys(self.key(f"{model}-ci"), self.key(f"{model}-release"))
                for model in ("cells", "dogs")
            },
        )
        with self.clock(days):
            self.root = initialize(self.store, keys, self.signers(), expiry or Expiry())
            self.publish(1)
            self.publish(2, model="dogs")
            self.point("production", 1)
            self.point("production", 2, model="dogs")
            self.publish(3)
        self._made = True
        self._keep()

    def copied_to(self, folder: Path) -> World:
        """Return the same world in another folder."""
        world = copy.copy(self)
        world.folder, world.path, world.honest = folder, folder / "registry", self.honest
        shutil.copytree(self.path, world.path)
        world.store = LayoutWriter(world.path)
        world.recorded, world.releases = [*self.recorded], {**self.releases}
        return world

    def key(self, name: str) -> Key:
        """The public half of a key."""
        return self.keys[name].public_key

    @property
    def honest_names(self) -> tuple[str, ...]:
        """The names of the keys that the registry starts with."""
        return tuple(name for name in KEYS if not name.startswith("stranger"))

    def signers(self, *names: str) -> Signers:
        """What somebody with these keys can sign with, by default the honest ones."""
        return Signers(self.keys[name] for name in names or self.honest_names)

    def repository(self, *names: str, base: str = TUF_TAG) -> Repository:
        """The registry to somebody with these keys."""
        return Repository(self.store, root=self.root, signers=self.signers(*names), base=base)

    def publish(self, number: int, *, model: str = "cells") -> None:
        """Publish a release, honestly, to the channel candidate."""
        weights = self.folder / "model.tflite"
        weights.write_bytes(f"weights {number}".encode())
        published = publish(
            self.repository("online", f"{model}-ci"),
            model=model,
            channel="candidate",
            variants=[VariantFiles("int8", weights)],
            preprocessing=PreprocessingContract(height=8, width=8, max_side=512, labels=("a", "b")),
            verdict=b"{}",
        )
        assert published.version == number
        self.releases[number] = ReleaseRef(number, published.index)
        self.record()

    def point(self, channel: str, number: int, *, model: str = "cells") -> None:
        """Point a channel at a release, honestly."""
        self.repository().point(model, channel, self.releases[number])
        self.record()

    def roll_back(self) -> None:
        """Have candidate serve what it served before."""
        self.repository().rollback("cells", "candidate")
        self.record()

    def refresh(self) -> None:
        """Sign everything anew that is about to expire, or has."""
        self.repository().refresh()
        self.record()

    @property
    def newest_honest(self) -> str:
        """The tag of the newest metadata that honest people made."""
        return f"{TUF_TAG}-{read(self.recorded[-1], 'timestamp')['signed']['version']}"

    @contextmanager
    def clock(self, days: float) -> Iterator[None]:
        """Sign as if it were so many days from now."""
        when = datetime.now(timezone.utc) + timedelta(days=days)
        with mock.patch("edgeline.publish.signatures.now", return_value=when):
            yield

    def device(self, state: Path) -> Device:
        """A device that was given the registry's first root."""
        return Device(self, state)

    def files(self) -> Files:
        """The metadata that the store holds now."""
        bundle = read_bundle(self.store)
        return {
            name: self.store.read_blob(layer, limit=_LIMIT) for name, layer in bundle.files.items()
        }

    def serve(self, files: Mapping[str, bytes]) -> None:
        """Have the store hold other metadata, whatever it is."""
        layers = {
            name: self.store.put_blob(data, TUF_METADATA, limit=_LIMIT)
            for name, data in files.items()
        }
        config = self.store.put_blob(b"{}", EMPTY_CONFIG, limit=_LIMIT)
        self.serve_manifest(bundle_document(config, layers))

    def serve_manifest(self, document: Document) -> None:
        """Have the store hold another manifest of metadata, whatever it is."""
        manifest = self.store.put_manifest(dump_canonical(document), OCI_MANIFEST)
        self.store.commit([(TUF_TAG, manifest)], expected={})

    def record(self) -> None:
        """Keep a copy of the store, which is as honest people left it."""
        self.recorded.append(self.files())
        if self._made:
            self._keep()

    def _keep(self) -> None:
        self.honest = self.folder / "honest"
        shutil.rmtree(self.honest, ignore_errors=True)
        shutil.copytree(self.path, self.honest)

    def restore(self) -> None:
        """Undo all that the attacker did to the store."""
        shutil.rmtree(self.path)
        shutil.copytree(self.honest, self.path)

    def sign(self, document: Document, *names: str) -> bytes:
        """Sign a role's metadata with these keys, and drop all other signatures."""
        payload = encode_canonical(document["signed"])
        assert payload is not None
        signatures = [self.keys[name].sign(payload.encode()).to_dict() for name in names]
        return json.dumps({"signed": document["signed"], "signatures": signatures}).encode()

    def forge(
        self,
        files: Files,
        roles: Mapping[str, bytes] = {},
        *,
        drop: str | None = None,
        versions: Mapping[str, int] = {},
        key: str = "online",
        change: Callable[[Document], None] = lambda _: None,
    ) -> Files:
        """Put other metadata of roles into a bundle; list and sign it with (usually) a stolen key.

        Args:
            files: The bundle to start from.
            roles: The new metadata.
            drop: A role to leave out.
            versions: What snapshot lists and timestamp says in the place of the true versions.
            key: What signs snapshot and timestamp.
            change: What else to do to both before they are signed.
        """
        forged = dict(files)
        snapshot = read(files, "snapshot")
        for role, data in roles.items():
            version = json.loads(data)["signed"]["version"]
            forged.pop(newest(files, role))
            forged[f"{version}.{role}.json"] = data
            snapshot["signed"]["meta"][f"{role}.json"] = file_meta(version, data)
        if drop:
            del snapshot["signed"]["meta"][f"{drop}.json"]
        for role in {*versions} - {"snapshot", "timestamp"}:
            snapshot["signed"]["meta"][f"{role}.json"]["version"] = versions[role]
        snapshot["signed"]["version"] = versions.get("snapshot", snapshot["signed"]["version"] + 1)
        change(snapshot)
        data = self.sign(snapshot, key)
        del forged[newest(files, "snapshot")]
        forged[f"{snapshot['signed']['version']}.snapshot.json"] = data
        timestamp = read(files, "timestamp")
        timestamp["signed"]["meta"]["snapshot.json"] = file_meta(
            snapshot["signed"]["version"], data
        )
        timestamp["signed"]["version"] = versions.get(
            "timestamp", timestamp["signed"]["version"] + 1
        )
        change(timestamp)
        forged["timestamp.json"] = self.sign(timestamp, key)
        return forged


class Device:
    """edgeline on a device: what it trusts, and what it reads."""

    def __init__(self, world: World, state: Path) -> None:
        self._world = world
        self.state = state

    def trusts(self) -> dict[str, int]:
        """Return the version of what each channel serves, without reading it."""
        channels = self.channels().channels()
        return {f"{each.model}/{each.name}": each.release.version for each in channels}

    def channels(self) -> TrustedChannels:
        """What the device trusts, after a restart."""
        store = LayoutStore(self._world.path)
        return TrustedChannels(store, root=self._world.root, state=self.state)

    def visit(self, channel: str = "candidate") -> str:
        """Bring everything up to date, and return the digest of the release that was read."""
        reader = RegistryReader(LayoutStore(self._world.path))
        release = reader.open_channel(self.channels(), "cells", channel)
        reader.read_verdict(release)
        for variant in release.variants:
            reader.read_model(variant)
        return release.digest


def newest(files: Mapping[str, bytes], role: str) -> str:
    """Return the name of a role's newest file."""
    if role == "timestamp":
        return "timestamp.json"
    names = [name for name in files if name.partition(".")[2] == f"{role}.json"]
    return max(names, key=lambda name: int(name.partition(".")[0]))


def read(files: Mapping[str, bytes], role: str) -> Document:
    """Return a role's newest metadata."""
    document: Document = json.loads(files[newest(files, role)])
    return document


def file_meta(version: int, data: bytes) -> Document:
    """Return what snapshot and timestamp say about a file."""
    hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    return {"version": version, "length": len(data), "hashes": hashes}
