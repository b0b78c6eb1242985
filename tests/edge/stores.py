"""Registries to be tested, with throwaway keys, and easy ways to use them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeline.contract import PreprocessingContract
from edgeline.key_files import generate_key
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import Published, VariantFiles, publish
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.publish.store import WriteStore, open_for_writing
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import ReadStore, open_store
from edgeline.registry.trust import TrustedChannels

MODELS = ("pets", "cats", "dogs", "others")


@dataclass(frozen=True)
class Authority:
    """Throwaway keys, and a registry in which nothing was published yet."""

    keys: Keys
    signers: Signers  # every one of the keys
    files: Path  # <name>.pem of each: root-1, root-2, targets, online, ci, release
    root: bytes
    empty: Path

    def signers_of(self, *names: str) -> Signers:
        """What a person or a machine can sign with who holds only these keys."""
        return Signers.load([str(self.files / f"{name}.pem") for name in names])


def make_authority(folder: Path) -> Authority:
    """Make keys, and a registry with them."""
    files = folder / "keys"
    names = ("root-1", "root-2", "targets", "online", "ci", "release")
    key = {name: generate_key(files / f"{name}.pem", None) for name in names}
    keys = Keys(
        root=(key["root-1"], key["root-2"]),
        targets=key["targets"],
        online=key["online"],
        models={model: ModelKeys(ci=key["ci"], release=key["release"]) for model in MODELS},
    )
    signers = Signers.load([str(files)])
    empty = folder / "registry"
    return Authority(keys, signers, files, initialize(LayoutWriter(empty), keys, signers), empty)


@dataclass(frozen=True)
class Store:
    """A registry under test, and easy ways to publish to it and to read from it."""

    location: str
    files: Path
    contract: PreprocessingContract
    authority: Authority

    @property
    def path(self) -> Path:
        """The directory of a registry that is one."""
        return Path(self.location)

    @property
    def root(self) -> bytes:
        """What a device trusts the registry by."""
        return self.authority.root

    def open(self) -> ReadStore:
        """Open the store as a device does."""
        return open_store(self.location)

    @property
    def reader(self) -> RegistryReader:
        """Reads its releases."""
        return RegistryReader(self.open())

    @property
    def channels(self) -> TrustedChannels:
        """What a device that comes back now and then trusts."""
        return TrustedChannels(self.open(), root=self.root, state=self.files / "state")

    def serving(self, model: str = "pets", channel: str = "candidate") -> Release:
        """What a device finds in a channel."""
        return self.reader.open_channel(self.channels, model, channel)

    def repository(self, writer: WriteStore | None = None) -> Repository:
        """The signed metadata, with every key at hand."""
        store = writer or open_for_writing(self.location)
        return Repository(store, root=self.root, signers=self.authority.signers)

    def publish(
        self,
        variants: Mapping[str, bytes] | None = None,
        *,
        model: str = "pets",
        channel: str = "candidate",
        verdict: bytes = b"{}",
        golden: bytes | None = None,
        sketch: bytes | None = None,
        writer: WriteStore | None = None,
        **others: bytes,
    ) -> Published:
        """Publish a release; without `variants`, of one that is no real model."""
        files = []
        for name, content in (variants or {"float32": b"weights"}).items():
            path = self.files / f"{name}.tflite"
            path.write_bytes(content)
            files.append(VariantFiles(name, path, golden, sketch))
        return publish(
            self.repository(writer),
            model=model,
            channel=channel,
            variants=files,
            preprocessing=self.contract,
            verdict=verdict,
            **others,
        )

    def initialized(self) -> "Store":
        """Make the location a registry with the same keys."""
        authority = self.authority
        root = initialize(open_for_writing(self.location), authority.keys, authority.signers)
        return replace(self, authority=replace(authority, root=root))

    def elsewhere(self) -> "Store":
        """Make another registry with the same keys, in the same kind of place."""
        files = self.files / secrets.token_hex(8)
        files.mkdir()
        return replace(self, location=f"{self.location}-{files.name}", files=files).initialized()

    def blob(self, digest: str) -> Path:
        """Return where a directory keeps a blob."""
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read_everything(self) -> list[Release]:
        """Read every byte of every release and channel, so that what is broken raises."""
        reader = self.reader
        releases = [reader.open_version(version) for version in reader.versions()]
        served = [reader.open(channel.release) for channel in self.channels.channels()]
        for release in (*releases, *served):
            reader.read_verdict(release)
            reader.read_report(release)
            reader.read_provenance(release)
            for variant in release.variants:
                reader.read_model(variant)
                reader.read_golden(variant)
                reader.read_sketch(variant)
        return releases
