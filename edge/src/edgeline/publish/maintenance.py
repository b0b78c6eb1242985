"""The removal of what nobody needs any more.

    gc(open_for_writing("registry"), root=root, grace=timedelta(days=7))

It needs no key. What a channel serves, or can be rolled back to, is never removed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgeline.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    TrustError,
)
from edgeline.publish.garbage import Collected
from edgeline.publish.metadata import MetadataSet
from edgeline.publish.progress import Notify, counted, say_nothing
from edgeline.publish.signatures import TIMESTAMP, now, parse
from edgeline.publish.store import WriteStore
from edgeline.registry.bundle import file_name, read_bundle
from edgeline.registry.format import (
    MAX_MANIFEST,
    MAX_TUF_METADATA,
    metadata_tag,
    parse_metadata_tag,
    parse_variant_tag,
    parse_version_tag,
    version_tag,
)
from edgeline.registry.reader import RegistryReader


@dataclass(frozen=True)
class Swept:
    """What `gc` removed, or would have."""

    versions: tuple[int, ...]  # releases
    metadata: tuple[int, ...]  # versions of timestamp whose bundles nobody reads any more
    tags: tuple[str, ...]  # all that named them
    collected: Collected | None  # None when nothing was to be removed in earnest


def gc(
    store: WriteStore,
    *,
    root: bytes,
    grace: timedelta,
    keep: int | None = None,
    dry_run: bool = False,
    notify: Notify = say_nothing,
) -> Swept:
    """Remove what no channel, no version and no grace period needs.

    These are blobs that no tag leads to, as crashes leave them (in a directory; a server collects
    its own); metadata that was superseded; tags of variants whose release is gone; and with `keep`,
    releases. What a channel serves, and what is in its history, always stays.

    Args:
        store: Where to remove it.
        root: The root that the store is trusted by.
        grace: For how long what is no longer needed stays, for those who are just reading it.
        keep: How many of the newest releases stay in any case; all of them if not given.
        dry_run: Only tell what would be removed.
        notify: Is told how far it has come.

    Raises:
        NotFoundError: the store is no registry.
        TrustError: its metadata is not what the keys behind `root` signed, so that what it needs is
            not known.
        IntegrityError: something that stays is damaged, so that its parts are not known. Nothing
            was removed.
        ConflictError: a channel was changed meanwhile. Nothing was removed.
        RegistryError: an argument does not make sense, or the store does not allow removal.
    """
    if grace < timedelta() or (keep is not None and keep < 1):
        raise RegistryError("Expected a grace period of 0 or more, and 1 or more releases to keep")
    read_bundle(store)  # or a directory would be made, to be swept
    with store.exclusive():
        metadata = MetadataSet.load(store, root)
        needed = _served(metadata)
        versions = _superfluous(store, needed, keep)
        bundles = _superseded(store, metadata, grace)
        tags = [
            *_removable(store, versions, notify),
            *(metadata_tag(version) for version in bundles),
        ]
        swept = Swept(tuple(versions), tuple(bundles), tuple(tags), None)
        if dry_run:
            return swept
        if _served(MetadataSet.load(store, root)) != needed:
            raise ConflictError(
                f"A channel of {store.location} was changed meanwhile. Nothing was removed; "
                "try again"
            )
        if tags:
            store.remove(tags, notify=notify)
        collected = store.collect(grace=grace, notify=notify)
    return Swept(swept.versions, swept.metadata, swept.tags, collected)


def _served(metadata: MetadataSet) -> set[int]:
    """Return the versions that channels serve, or served and can be rolled back to."""
    return {
        release.version
        for channel in metadata.channels()
        for release in (*channel.served, *channel.history)
    }


def _superfluous(store: WriteStore, needed: set[int], keep: int | None) -> list[int]:
    """Return the versions that are neither new nor needed."""
    if keep is None:
        return []
    return [
        version for version in RegistryReader(store).versions()[:-keep] if version not in needed
    ]


def _superseded(store: WriteStore, metadata: MetadataSet, grace: timedelta) -> list[int]:
    """Return the versions of bundles that a newer one replaced longer ago than `grace`."""
    current = metadata.versions[TIMESTAMP]
    found = {parse_metadata_tag(tag) for tag in store.tags()}
    older = sorted(version for version in found if version is not None and version < current)
    status = metadata.status_of(TIMESTAMP)
    assert status.expires is not None  # it was signed
    lasts = timedelta(days=status.days)
    replaced = status.expires - lasts
    damaged = []  # nobody can read them anyway
    # Each was replaced when the next one was signed, so that all before an old one are old too.
    while older and now() - replaced < grace:
        version = older.pop()
        expires = _expires(store, version)
        if expires is None:
            damaged.append(version)
        else:
            replaced = expires - lasts
    return sorted([*older, *damaged])


def _expires(store: WriteStore, version: int) -> datetime | None:
    """Return when a bundle's timestamp expires; None for one that is damaged."""
    try:
        bundle = read_bundle(store, metadata_tag(version))
        layer = bundle.files[file_name(TIMESTAMP, version)]
        return parse(store.read_blob(layer, limit=MAX_TUF_METADATA), TIMESTAMP).signed.expires
    except (KeyError, NotFoundError, IntegrityError, TrustError):
        return None


def _removable(store: WriteStore, versions: Iterable[int], notify: Notify) -> list[str]:
    """Return the tags of releases that go, but those of manifests that others share."""
    going = set(versions)
    there = set(RegistryReader(store).versions())
    tags = []
    for tag in store.tags():
        version = parse_version_tag(tag) or parse_variant_tag(tag)
        if version is not None and (version in going or version not in there):
            tags.append(tag)
    if not tags:
        return []
    shared = _digests(store, sorted(there - going), notify)
    looked_at = counted(tags, notify, "looking at tag")
    return [tag for tag in looked_at if _digest(store, tag) not in shared]


def _digests(store: WriteStore, versions: Sequence[int], notify: Notify) -> set[str]:
    """Return the digests of all manifests of some releases."""
    reader, digests = RegistryReader(store), set()
    for version in counted(versions, notify, "reading release"):
        try:
            release = reader.open_version(version)
        except (NotFoundError, IntegrityError) as error:
            raise IntegrityError(
                f"Nothing was removed, since {version_tag(version)} stays and is damaged, so that "
                f"what belongs to it is not known: {error}"
            ) from None
        digests |= {release.digest, *(variant.manifest.digest for variant in release.variants)}
    return digests


def _digest(store: WriteStore, tag: str) -> str | None:
    """Return the digest of what a tag names; None when that is damaged."""
    try:
        return store.read_tag(tag, limit=MAX_MANIFEST)[0].digest
    except (NotFoundError, IntegrityError):
        return None
