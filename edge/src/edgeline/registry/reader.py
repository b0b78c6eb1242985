"""The device's side of the registry: find a release, and trust nothing about it before checking.

    reader = LayoutReader("registry")
    release = reader.open_release("solar-cells", "production")
    model = reader.read_model(release.variant("int8"))

The store's index names a release by digest, and everything below chains by digest: each blob is
read no further than its expected size, and hashed before anybody sees a byte of it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from edgeline.contract import PreprocessingContract
from edgeline.errors import IntegrityError, NotFoundError
from edgeline.registry import _layout
from edgeline.registry.format import (
    GOLDEN,
    MAX_CONTRACT,
    MAX_MANIFEST,
    MAX_MODEL,
    MAX_REPORT,
    MAX_VERDICT,
    MODEL_ANNOTATION,
    MODEL_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    PREPROCESSING,
    REPORT,
    TAG_ANNOTATION,
    VARIANT_ANNOTATION,
    VERDICT,
    WEIGHTS,
    Descriptor,
    channel_tag,
    check_model,
    check_variant,
    is_tag,
    parse_annotations,
    parse_document,
    parse_version_tag,
    version_tag,
)


@dataclass(frozen=True)
class Variant:
    """One way in which a release's model was converted."""

    name: str
    manifest: Descriptor
    model: Descriptor
    golden: Descriptor | None


@dataclass(frozen=True)
class Release:
    """A release whose index, manifests and contract were verified; its other blobs are unread."""

    model: str
    version: int
    digest: str
    channels: tuple[str, ...]  # that point at it now, sorted
    contract: PreprocessingContract
    verdict: Descriptor
    report: Descriptor | None
    variants: tuple[Variant, ...]  # sorted by name

    @property
    def tag(self) -> str:
        """The release's tag, such as "v7"."""
        return version_tag(self.version)

    def variant(self, name: str | None = None) -> Variant:
        """Return the variant called `name`, or by default the one with the smallest model.

        Raises:
            NotFoundError: the release has no variant of that name.
        """
        if name is None:
            return min(self.variants, key=lambda variant: variant.model.size)
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise NotFoundError(
            f"{self.model} {self.tag} has no variant {name!r}; "
            f"it has {_listed(variant.name for variant in self.variants)}"
        )


@dataclass(frozen=True)
class _Child:
    """What one manifest of a release says."""

    variant: Variant
    contract: Descriptor
    verdict: Descriptor
    report: Descriptor | None


class LayoutReader:
    """Reads a registry stored as an OCI image-layout directory.

    Nothing is kept between calls, so a reader sees what was published since; and publishers replace
    files whole, so it never sees half of it.

    Raises:
        RegistryError: `path` is not an OCI layout.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._root = Path(path)
        _layout.check_layout(self._root)

    def resolve(self, tag: str) -> Descriptor:
        """Return what `tag` points at.

        Raises:
            NotFoundError: the store has no such tag.
            RegistryError: the store's index is broken.
        """
        descriptor = self._read_tags().get(tag)
        if descriptor is None:
            raise NotFoundError(f"{self._root} has no tag {tag!r}")
        return descriptor

    def channel(self, model: str, channel: str) -> Descriptor | None:
        """Return the index of the release that `channel` points at, or None without one.

        Raises:
            RegistryError: a name is malformed, or the store's index is broken.
        """
        return self._read_tags().get(channel_tag(model, channel))

    def releases(self) -> list[Release]:
        """Return every release in the store, oldest first.

        Raises:
            RegistryError: the store's index or one of the releases is broken.
        """
        tags = self._read_tags()
        versions = {version: tags[tag] for tag in tags if (version := parse_version_tag(tag))}
        return [self._open(versions[version], tags) for version in sorted(versions)]

    def open_release(self, model: str, channel: str) -> Release:
        """Open the release that `channel` of `model` points at.

        Raises:
            NotFoundError: the model has no such channel.
            RegistryError: a name is malformed, or what is stored is broken.
        """
        tags = self._read_tags()
        descriptor = tags.get(channel_tag(model, channel))
        if descriptor is None:
            raise NotFoundError(
                f"{self._root} has no release of {model!r} in channel {channel!r}; "
                f"it has {_listed(tag for tag in tags if '.' in tag)}"
            )
        release = self._open(descriptor, tags)
        if release.model != model:
            raise IntegrityError(
                f"Channel {channel!r} of {model!r} points at {release.tag}, "
                f"which is a release of {release.model!r}"
            )
        return release

    def open_tag(self, tag: str) -> Release:
        """Open the release that `tag`, such as "v7", points at.

        Raises:
            NotFoundError: the store has no such tag.
            RegistryError: what is stored is broken.
        """
        tags = self._read_tags()
        if tag not in tags:
            versions = (tag for tag in tags if parse_version_tag(tag))
            raise NotFoundError(f"{self._root} has no release {tag!r}; it has {_listed(versions)}")
        return self._open(tags[tag], tags)

    def open_digest(self, digest: str) -> Release:
        """Open the release whose index has this digest.

        Raises:
            NotFoundError: the store has no such release.
            RegistryError: what is stored is broken.
        """
        tags = self._read_tags()
        for descriptor in tags.values():
            if descriptor.digest == digest:
                return self._open(descriptor, tags)
        raise NotFoundError(f"{self._root} has no release with the digest {digest}")

    def read_verdict(self, release: Release) -> bytes:
        """Return the verdict that let `release` pass, verified.

        Raises:
            RegistryError: the blob is missing or not what its descriptor promises.
        """
        return self.read_blob(release.verdict, limit=MAX_VERDICT)

    def read_report(self, release: Release) -> bytes | None:
        """Return the report on `release` for people, HTML, verified; None if it has none.

        Raises:
            RegistryError: the blob is missing or not what its descriptor promises.
        """
        return self.read_blob(release.report, limit=MAX_REPORT) if release.report else None

    def read_model(self, variant: Variant) -> bytes:
        """Return the TFLite model of `variant`, verified.

        Raises:
            RegistryError: the blob is missing or not what its descriptor promises.
        """
        return self.read_blob(variant.model, limit=MAX_MODEL)

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """Return a blob's bytes when size and SHA-256 are those of `descriptor`.

        Raises:
            NotFoundError: the blob is missing.
            IntegrityError: it is larger than `limit` bytes, or not what the descriptor promises.
        """
        if descriptor.size > limit:
            raise IntegrityError(
                f"Blob {descriptor.digest} is said to have {descriptor.size} bytes; "
                f"at most {limit} are allowed for {descriptor.media_type}"
            )
        algorithm, _, encoded = descriptor.digest.partition(":")
        data = _layout.read_file(self._root, "blobs", algorithm, encoded, limit=descriptor.size)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if len(data) != descriptor.size or digest != descriptor.digest:
            raise IntegrityError(
                f"Blob {descriptor.digest} in {self._root} was changed or damaged: expected "
                f"{descriptor.size} bytes with this digest, got {len(data)} bytes with {digest}. "
                "Publish the release again to restore it"
            )
        return data

    def _read_tags(self) -> dict[str, Descriptor]:
        """Return what the store's tags point at; entries of other tools are passed over."""
        tags: dict[str, Descriptor] = {}
        for entry in _layout.read_index_entries(self._root):
            tag = parse_annotations(entry.get("annotations", {})).get(TAG_ANNOTATION)
            if tag is None or not is_tag(tag):
                continue
            if tag in tags:
                raise IntegrityError(f"{self._root} is broken: tag {tag!r} is there twice")
            tags[tag] = Descriptor.from_json(entry)
        return tags

    def _open(self, descriptor: Descriptor, tags: Mapping[str, Descriptor]) -> Release:
        index = self._read_document(descriptor, OCI_INDEX)
        annotations = parse_annotations(index.get("annotations"))
        model = check_model(annotations.get(MODEL_ANNOTATION))
        children = [self._read_child(child) for child in _descriptors(index, "manifests")]
        first, names = children[0], {child.variant.name for child in children}
        if len(names) != len(children) or any(
            (child.contract, child.verdict, child.report)
            != (first.contract, first.verdict, first.report)
            for child in children
        ):
            raise IntegrityError(
                f"Release {descriptor.digest} is broken: expected variants with names of their own "
                "and one contract, verdict and report for all"
            )
        here = [tag for tag in tags if tags[tag].digest == descriptor.digest]
        return Release(
            model=model,
            version=_version(here, descriptor),
            digest=descriptor.digest,
            channels=_channels(here, model),
            contract=self._read_contract(first.contract),
            verdict=first.verdict,
            report=first.report,
            variants=tuple(sorted((child.variant for child in children), key=lambda v: v.name)),
        )

    def _read_document(self, descriptor: Descriptor, media_type: str) -> dict[str, Any]:
        return parse_document(self.read_blob(descriptor, limit=MAX_MANIFEST), media_type)

    def _read_child(self, descriptor: Descriptor) -> "_Child":
        manifest = self._read_document(descriptor, OCI_MANIFEST)
        if manifest.get("artifactType") != MODEL_MANIFEST:
            raise IntegrityError(f"Manifest {descriptor.digest} is not a {MODEL_MANIFEST}")
        layers = _descriptors(manifest, "layers")
        return _Child(
            variant=Variant(
                name=check_variant(descriptor.annotations.get(VARIANT_ANNOTATION)),
                manifest=descriptor,
                model=_only(layers, WEIGHTS),
                golden=_optional(layers, GOLDEN),
            ),
            contract=_only(layers, PREPROCESSING),
            verdict=_only(layers, VERDICT),
            report=_optional(layers, REPORT),
        )

    def _read_contract(self, descriptor: Descriptor) -> PreprocessingContract:
        return PreprocessingContract.from_json(self.read_blob(descriptor, limit=MAX_CONTRACT))


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


def _version(tags: Iterable[str], descriptor: Descriptor) -> int:
    versions = [version for tag in tags if (version := parse_version_tag(tag))]
    if not versions:
        raise IntegrityError(f"{descriptor.digest} is no release: it has no tag such as 'v7'")
    return min(versions)


def _channels(tags: Iterable[str], model: str) -> tuple[str, ...]:
    prefix = f"{model}."
    return tuple(sorted(tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
