"""Carrying releases, and the metadata that vouches for them, from one store to another.

    copied = copy(open_store("/media/stick"), open_for_writing("oci://..."), root=root)

It needs no key: every digest stays as it is, so that what was signed holds in the copy too.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from edgeline.errors import ConflictError, IntegrityError, NotFoundError, RegistryError
from edgeline.publish.metadata import MetadataSet
from edgeline.publish.progress import Notify, say_nothing
from edgeline.publish.signatures import ROOT, SNAPSHOT, TIMESTAMP
from edgeline.publish.store import WriteStore, verified
from edgeline.registry.bundle import read_bundle
from edgeline.registry.format import (
    MAX_MANIFEST,
    MAX_MODEL,
    MAX_TUF_METADATA,
    OCI_INDEX,
    OCI_MANIFEST,
    TUF_TAG,
    Descriptor,
    ReleaseRef,
    blobs_of,
    metadata_tag,
    parse_variant_tag,
    variant_tag,
    version_tag,
)
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import ReadStore

_BATCH = 20  # releases, or variants, whose tags are set at once: a server takes a while for it
_SMALL = 1 << 20  # bytes of a blob that is kept in memory on its way

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Copied:
    """What `copy` did."""

    versions: tuple[int, ...]  # that the target did not have, or not wholly
    present: tuple[int, ...]  # that it had already
    metadata: int | None  # version of the timestamp that was copied; None when it was there
    blobs: int  # that the target did not have
    size: int  # bytes of them


def copy(
    source: ReadStore,
    target: WriteStore,
    versions: Sequence[int] | None = None,
    *,
    root: bytes,
    notify: Notify = say_nothing,
) -> Copied:
    """Copy releases and all metadata; numbers and digests stay the same.

    What the target has already is not sent again. The releases that channels serve now are always
    among those copied, or the target's channels would serve what is not there. The metadata comes
    last, so that whoever reads the target meanwhile sees what it was before or what it is then;
    and a copy that was broken off is finished by another one.

    Args:
        source: Where the releases are. Nothing that it says is believed before it was verified.
        target: Where they go. A directory is made when it does not exist.
        versions: Which releases, besides those that channels serve; all of them if not given.
        root: The root that the source is trusted by, and the target if it has metadata already.
        notify: Is told how far it has come.

    Raises:
        NotFoundError: the source is no registry, or lacks one of the releases.
        TrustError: the metadata of one of them is not what the keys behind `root` signed.
        IntegrityError: something in the source is damaged, or is not what was signed.
        RegistryError: the target's metadata is newer than the source's, or one of the target's
            versions is another release; or the target cannot be written.
        ConflictError: one of them was changed by somebody else meanwhile.
    """
    bundle, metadata = _load(source, root)
    chosen = _choose(source, metadata, versions)
    with target.exclusive():
        before = _check_not_newer(source, target, bundle, metadata)
        present = _check_versions(source, target, chosen)
        missing = [ref for ref in chosen if ref.version not in present]
        transfer = _Transfer(source, target, notify)
        for batch in _batches(missing):
            _set_tags(target, [transfer.send_release(ref) for ref in batch])
        transfer.send_metadata(bundle)
        version = metadata.versions[TIMESTAMP]
        if bundle.digest != before:
            tags = [(metadata_tag(version), bundle), (TUF_TAG, bundle)]
            target.commit(tags, expected={TUF_TAG: before})
    return Copied(
        versions=tuple(ref.version for ref in missing),
        present=tuple(sorted(present)),
        metadata=version if bundle.digest != before else None,
        blobs=transfer.blobs,
        size=transfer.size,
    )


class _Transfer:
    """Sends what one store has and another has not."""

    def __init__(self, source: ReadStore, target: WriteStore, notify: Notify) -> None:
        self._source = source
        self._target = target
        self._notify = notify
        self._there: set[str] = set()  # digests of blobs that the target has for sure
        self.blobs = 0
        self.size = 0

    def send_release(self, ref: ReleaseRef) -> Release:
        """Send all of a release but its tags."""
        release = RegistryReader(self._source).open(ref)
        self._notify(f"{release.tag}: copying")
        for variant in release.variants:
            manifest = self._source.read_manifest(variant.manifest, limit=MAX_MANIFEST)
            for blob in blobs_of(manifest):
                self._send(blob, MAX_MODEL, f"{release.tag}, {variant.name}")
            self._target.put_manifest(manifest, OCI_MANIFEST)
        index = self._source.read_manifest(ref.index, limit=MAX_MANIFEST)
        self._target.put_manifest(index, OCI_INDEX)
        return release

    def send_metadata(self, bundle: Descriptor) -> None:
        """Send all metadata but its tags."""
        manifest = self._source.read_manifest(bundle, limit=MAX_MANIFEST)
        for blob in blobs_of(manifest):
            self._send(blob, MAX_TUF_METADATA, "metadata")
        self._target.put_manifest(manifest, OCI_MANIFEST)

    def _send(self, blob: Descriptor, limit: int, what: str) -> None:
        if blob.digest in self._there:
            return
        if not self._target.has_blob(blob):
            if blob.size <= _SMALL:
                content = self._source.read_blob(blob, limit=limit)
                self._target.put_blob(content, blob.media_type, limit=limit)
            else:
                self._send_by_file(blob, limit, what)
            self.blobs += 1
            self.size += blob.size
        self._there.add(blob.digest)

    def _send_by_file(self, blob: Descriptor, limit: int, what: str) -> None:
        """Send a blob by way of a file, since a server wants to be told its digest first."""
        blob.check_size(limit)
        try:
            with tempfile.NamedTemporaryFile(prefix="edgeline-") as file:
                for chunk in self._verified(blob, what):
                    file.write(chunk)
                file.flush()
                self._target.put_blob(Path(file.name), blob.media_type, limit=limit)
        except OSError as error:
            raise RegistryError(
                f"{what} cannot be kept in {tempfile.gettempdir()} on its way: {error.strerror}. "
                "Make space there, or name another folder with TMPDIR"
            ) from error

    def _verified(self, blob: Descriptor, what: str) -> Iterator[bytes]:
        size = 0
        for chunk in verified(self._source, blob, what):
            size += len(chunk)
            yield chunk
            self._notify(f"{what}: copied {size / 1e6:.0f} of {blob.size / 1e6:.0f} MB")


def _load(source: ReadStore, root: bytes) -> tuple[Descriptor, MetadataSet]:
    """Return the source's bundle, and the same verified."""
    read_bundle(source)
    bundle, _ = source.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    # What is never committed is never written.
    metadata = MetadataSet.load(cast(WriteStore, source), root)
    after, _ = source.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    if after != bundle:
        raise ConflictError(f"{source.location} was changed while it was read. Copy it again")
    return bundle, metadata


def _choose(
    source: ReadStore, metadata: MetadataSet, versions: Sequence[int] | None
) -> list[ReleaseRef]:
    """Return what to copy, oldest first."""
    there = RegistryReader(source).versions()
    served = {ref.version: (ref, each) for each in metadata.channels() for ref in each.served}
    wanted = {*(there if versions is None else versions), *served}
    lacking = sorted(wanted.difference(there))
    if lacking:
        raise NotFoundError(
            f"{source.location} lacks {', '.join(map(version_tag, lacking))}, which "
            f"{'a channel serves' if lacking[0] in served else 'was asked for'}. "
            "`edgeline registry list` shows what it has"
        )
    chosen = []
    for version in sorted(wanted):
        index, _ = source.read_tag(version_tag(version), limit=MAX_MANIFEST)
        ref, channel = served.get(version, (None, None))
        if ref and channel and ref.index.digest != index.digest:
            raise IntegrityError(
                f"{version_tag(version)} in {source.location} is {index.digest}, and not "
                f"{ref.index.digest}, which was signed for {channel.path}. "
                "Somebody changed its tag"
            )
        chosen.append(ReleaseRef(version, index))
    return chosen


def _check_not_newer(
    source: ReadStore, target: WriteStore, bundle: Descriptor, metadata: MetadataSet
) -> str | None:
    """Return the digest of the bundle that the target has, which must not be newer."""
    try:
        there, _ = target.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    except NotFoundError:
        return None
    if there.digest == bundle.digest:
        return there.digest
    present = MetadataSet.load(target, _first_root(source))
    ours, theirs = metadata.versions, present.versions
    compared = set(theirs)
    if ours[ROOT] > theirs[ROOT] and _online_keys(metadata) != _online_keys(present):
        # Their numbers count from the change of their keys on, as for every device.
        compared -= {SNAPSHOT, TIMESTAMP}
    newer = sorted(role for role in compared if theirs[role] > ours.get(role, 0))
    if newer:
        raise RegistryError(
            f"The metadata in {target.location} is newer than that to be copied: it has version "
            f"{theirs[newer[0]]} of {newer[0]}, not {ours.get(newer[0], 0)}. Copying it would be a "
            "step back, which devices refuse. Copy the other way, or to another place"
        )
    if ours == theirs:
        raise RegistryError(
            f"{target.location} has other metadata with the same numbers: after it was copied, "
            "both stores were changed by themselves. Copy to another place"
        )
    return there.digest


def _first_root(source: ReadStore) -> bytes:
    """Return the root that the source's chain starts with: an older copy may lack the given one."""
    files = read_bundle(source).files
    names = [name for name in files if name.endswith(f".{ROOT}.json")]
    first = min(names, key=lambda name: int(name.partition(".")[0]))
    root = source.read_blob(files[first], limit=MAX_TUF_METADATA)
    MetadataSet.load(cast(WriteStore, source), root)  # it leads to the one that is trusted
    return root


def _online_keys(metadata: MetadataSet) -> set[str]:
    return {*metadata.root.roles[TIMESTAMP].keyids}


def _check_versions(
    source: ReadStore, target: WriteStore, chosen: Sequence[ReleaseRef]
) -> set[int]:
    """Return which releases the target has wholly; the others must have no other's number."""
    tags = set(target.tags())
    variants: dict[int, set[str]] = {}
    for tag in source.tags():
        version = parse_variant_tag(tag)
        if version is not None:
            variants.setdefault(version, set()).add(tag)
    present = set()
    for ref in chosen:
        tag = ref.tag
        if tag not in tags:
            continue
        there, _ = target.read_tag(tag, limit=MAX_MANIFEST)
        if there.digest != ref.index.digest:
            raise RegistryError(
                f"{tag} in {target.location} is another release ({there.digest}) than in "
                f"{source.location} ({ref.index.digest}), and releases keep their numbers. "
                "Copy to another place"
            )
        if variants.get(ref.version, set()) <= tags:
            present.add(ref.version)
    return present


def _set_tags(target: WriteStore, releases: Sequence[Release]) -> None:
    """Name releases, and then their variants."""
    tags = [(release.tag, release.index) for release in releases]
    there = set(target.tags())
    expected = {tag: index.digest if tag in there else None for tag, index in tags}
    target.commit(tags, expected=expected)
    children = [
        (variant_tag(release.version, variant.name), variant.manifest)
        for release in releases
        for variant in release.variants
    ]
    for batch in _batches(children):
        target.commit(batch, expected={})


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
