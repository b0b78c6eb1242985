"""The device's side of the registry: find a release, and trust nothing about it before checking.

    store = open_store("registry")
    channels = TrustedChannels(store, root=root, state=default_state(store.location, root))
    reader = RegistryReader(store)
    release = reader.open_channel(channels, "solar-cells", "production")
    model = reader.read_model(release.variant("int8"))

Signed metadata names a release by digest, and everything below chains by digest: each blob is read
no further than its expected size, and hashed before anybody sees a byte of it.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeline.contract import PreprocessingContract
from edgeline.errors import IntegrityError, NotFoundError
from edgeline.registry.format import (
    GOLDEN,
    LAYERS,
    MAX_MANIFEST,
    MAX_VARIANTS,
    MODEL_ANNOTATION,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    PREPROCESSING,
    PROVENANCE,
    REPORT,
    SKETCH,
    VARIANT_ANNOTATION,
    VERDICT,
    WEIGHTS,
    Descriptor,
    ReleaseRef,
    check_model,
    check_variant,
    parse_annotations,
    parse_document,
    parse_version_tag,
    version_tag,
)
from edgeline.registry.store import ReadStore

if TYPE_CHECKING:
    from edgeline.registry.bundle import Channel
    from edgeline.registry.trust import TrustedChannels


@dataclass(frozen=True)
class Variant:
    """One way in which a release's model was converted."""

    name: str
    manifest: Descriptor
    model: Descriptor
    golden: Descriptor | None
    sketch: Descriptor | None = None  # of the test split; see `edgeline.drift`


@dataclass(frozen=True)
class Release:
    """A release whose index, manifests and contract were verified; its other blobs are unread."""

    model: str
    version: int
    index: Descriptor
    contract: PreprocessingContract
    verdict: Descriptor
    report: Descriptor | None
    provenance: Descriptor | None
    variants: tuple[Variant, ...]  # those that its publisher prefers first

    @property
    def digest(self) -> str:
        """The digest of the release's index, which stands for all of it."""
        return self.index.digest

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)

    @property
    def ref(self) -> ReleaseRef:
        """The release as signed metadata names it."""
        return ReleaseRef(self.version, self.index)

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`.

        Raises:
            NotFoundError: the release has no variant of that name.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise NotFoundError(
            f"{self.model} {self.tag} has no variant {name!r}; "
            f"it has {_listed(variant.name for variant in self.variants)}"
        )


@dataclass(frozen=True)
class _Shared:
    """What all variants of a release have in common."""

    contract: Descriptor
    verdict: Descriptor
    report: Descriptor | None
    provenance: Descriptor | None


class RegistryReader:
    """Reads releases from a store, which is not trusted.

    Nothing is kept between calls, so a reader sees what was published since. Every method raises
    what `ReadStore` raises; and each that opens a release NotFoundError where a part of it is
    missing, IntegrityError where one is not what it should be, and ContractError where it needs
    preprocessing that this edgeline does not know. Their docstrings list what else they raise.
    """

    def __init__(self, store: ReadStore) -> None:
        self._store = store

    def versions(self) -> list[int]:
        """Return the version of every release in the store, oldest first; none is opened."""
        return sorted(
            version for tag in self._store.tags() if (version := parse_version_tag(tag)) is not None
        )

    def open(self, ref: ReleaseRef) -> Release:
        """Open the release that `ref` names."""
        data = self._store.read_manifest(ref.index, limit=MAX_MANIFEST)
        return self._open(ref, data)

    def open_channel(self, channels: "TrustedChannels", model: str, channel: str) -> Release:
        """Open the release that `channel` of `model` serves, as its signers say.

        Raises:
            NotFoundError: the model has no such channel.
            TrustError: the signed metadata is not to be trusted, or too old.
            IntegrityError: the release is not what was signed, or is one of another model.
        """
        found = channels.channel(model, channel)
        if found is None:
            raise serves_nothing(self._store, channels, model, channel)
        return self.open_served(found)

    def open_served(self, channel: "Channel") -> Release:
        """Open the release that a channel serves.

        Raises:
            IntegrityError: the release is not what was signed, or is one of another model.
        """
        release = self.open(channel.release)
        if release.model != channel.model:
            raise IntegrityError(
                f"Channel {channel.name!r} of {channel.model!r} points at {release.tag}, "
                f"which is a release of {release.model!r}"
            )
        return release

    def open_version(self, version: int) -> Release:
        """Open a release by number: it is intact, but no signature vouches for it.

        Raises:
            NotFoundError: the store has no such release.
        """
        try:
            index, data = self._store.read_tag(version_tag(version), limit=MAX_MANIFEST)
        except NotFoundError:
            versions = self.versions()
            if version in versions:
                raise
            raise NotFoundError(
                f"{self._store.location} has no release {version_tag(version)!r}; "
                f"it has {_listed_versions(versions)}"
            ) from None
        return self._open(ReleaseRef(version, index), data)

    def find(self, digest: str) -> ReleaseRef | None:
        """Return the newest release whose index has this digest, passing over damaged ones."""
        for version in reversed(self.versions()):
            with suppress(NotFoundError, IntegrityError):
                index, _ = self._store.read_tag(version_tag(version), limit=MAX_MANIFEST)
                if index.digest == digest:
                    return ReleaseRef(version, index)
        return None

    def open_digest(self, digest: str) -> Release:
        """Open the newest release whose index has this digest.

        Raises:
            NotFoundError: the store has no such release that is intact.
        """
        found = self.find(digest)
        if found is None:
            raise NotFoundError(
                f"{self._store.location} has no intact release with the digest {digest}"
            )
        return self.open(found)

    def read_verdict(self, release: Release) -> bytes:
        """Return the verdict that let `release` pass, verified."""
        return self._read(release.verdict)

    def read_report(self, release: Release) -> bytes | None:
        """Return the report on `release` for people, HTML, verified; None if it has none."""
        return self._read_optional(release.report)

    def read_provenance(self, release: Release) -> bytes | None:
        """Return the DSSE envelope that says where `release` comes from; None if it has none."""
        return self._read_optional(release.provenance)

    def read_model(self, variant: Variant) -> bytes:
        """Return the TFLite model of `variant`, verified."""
        return self._read(variant.model)

    def read_golden(self, variant: Variant) -> bytes | None:
        """Return an input of `variant` with its output, verified; None if it has none."""
        return self._read_optional(variant.golden)

    def read_sketch(self, variant: Variant) -> bytes | None:
        """Return the sketch of the test split as `variant` sees it, verified; None without one."""
        return self._read_optional(variant.sketch)

    def _read(self, layer: Descriptor) -> bytes:
        _, limit = LAYERS[layer.media_type]
        return self._store.read_blob(layer, limit=limit)

    def _read_optional(self, layer: Descriptor | None) -> bytes | None:
        return self._read(layer) if layer else None

    def _open(self, ref: ReleaseRef, data: bytes) -> Release:
        index = parse_document(data, OCI_INDEX)
        annotations = parse_annotations(index.get("annotations"))
        model = check_model(annotations.get(MODEL_ANNOTATION))
        entries = _descriptors(index, "manifests")
        if len(entries) > MAX_VARIANTS:
            raise IntegrityError(
                f"Release {ref.index.digest} has {len(entries)} variants; "
                f"at most {MAX_VARIANTS} are allowed"
            )
        children = [self._read_child(entry) for entry in entries]
        shared, names = children[0][1], {variant.name for variant, _ in children}
        if len(names) != len(children) or any(other != shared for _, other in children):
            raise IntegrityError(
                f"Release {ref.index.digest} is broken: expected variants with names of their own "
                "and one contract, verdict, report and provenance for all"
            )
        contract = self._read(shared.contract)
        return Release(
            model=model,
            version=ref.version,
            index=ref.index,
            contract=PreprocessingContract.from_json(contract),
            verdict=shared.verdict,
            report=shared.report,
            provenance=shared.provenance,
            variants=tuple(variant for variant, _ in children),
        )

    def _read_child(self, descriptor: Descriptor) -> tuple[Variant, _Shared]:
        data = self._store.read_manifest(descriptor, limit=MAX_MANIFEST)
        manifest = parse_document(data, OCI_MANIFEST)
        if manifest.get("artifactType") != MODEL_MANIFEST:
            raise IntegrityError(f"Manifest {descriptor.digest} is not a {MODEL_MANIFEST}")
        layers = _descriptors(manifest, "layers")
        variant = Variant(
            name=check_variant(descriptor.annotations.get(VARIANT_ANNOTATION)),
            manifest=descriptor,
            model=_only(layers, WEIGHTS),
            golden=_optional(layers, GOLDEN),
            sketch=_optional(layers, SKETCH),
        )
        return variant, _Shared(
            contract=_only(layers, PREPROCESSING),
            verdict=_only(layers, VERDICT),
            report=_optional(layers, REPORT),
            provenance=_optional(layers, PROVENANCE),
        )


def serves_nothing(
    store: ReadStore, channels: "TrustedChannels", model: str, channel: str
) -> NotFoundError:
    """Return the error that a channel serves nothing, which says which ones do."""
    there = (each.path for each in channels.channels())
    return NotFoundError(
        f"{store.location} has no release of {model!r} in channel {channel!r}; it has "
        f"{_listed(there)}"
    )


def _descriptors(document: Mapping[str, Any], key: str) -> list[Descriptor]:
    entries = document.get(key)
    if not isinstance(entries, list) or not entries:
        raise IntegrityError(f"Expected a list of descriptors under {key!r}")
    return [Descriptor.from_json(entry) for entry in entries]


def _only(layers: Iterable[Descriptor], media_type: str) -> Descriptor:
    layer = _optional(layers, media_type)
    if layer is None:
        raise IntegrityError(f"Expected a layer {media_type} in a manifest, got none")
    return layer


def _optional(layers: Iterable[Descriptor], media_type: str) -> Descriptor | None:
    found = [layer for layer in layers if layer.media_type == media_type]
    if len(found) > 1:
        raise IntegrityError(f"Expected one layer {media_type} in a manifest, got {len(found)}")
    return found[0] if found else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _listed_versions(versions: Iterable[int]) -> str:
    """Name versions, of which there may be a thousand: runs of them by their ends."""
    runs: list[list[int]] = []
    for version in sorted(versions):
        if runs and version == runs[-1][1] + 1:
            runs[-1][1] = version
        else:
            runs.append([version, version])
    named = [
        version_tag(first) if first == last else f"{version_tag(first)} to {version_tag(last)}"
        for first, last in runs
    ]
    return ", ".join(named) or "none"
