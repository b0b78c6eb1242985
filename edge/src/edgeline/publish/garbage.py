"""Telling what a directory's tags lead to from what nobody needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeline._json import parse_object
from edgeline.errors import IntegrityError, NotFoundError
from edgeline.publish.progress import Notify
from edgeline.registry.format import MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from edgeline.registry.layout import LayoutFiles

_MANIFESTS = (  # what refers to other blobs; a layout may hold other tools' images too
    OCI_INDEX,
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class Collected:
    """What `WriteStore.collect` removed."""

    manifests: int
    blobs: int
    size: int  # bytes


def needed_digests(
    store: LayoutFiles, entries: Iterable[Mapping[str, Any]], notify: Notify
) -> set[str]:
    """Return the digests of all blobs that the entries of index.json lead to.

    Raises:
        IntegrityError: a part of it is missing or damaged, so that nobody knows what else belongs
            to it.
    """
    needed: set[str] = set()
    followed: set[str] = set()
    try:
        pending = [Descriptor.from_json(entry) for entry in entries]
        while pending:
            blob = pending.pop()
            if blob.digest not in followed:
                followed.add(blob.digest)
                notify(f"reading manifest {len(followed)}")
                manifests, others = _references(store, blob)
                pending += manifests
                needed.update(other.digest for other in others)
    except (NotFoundError, IntegrityError) as error:
        raise IntegrityError(
            f"No blobs were removed from {store.location}, since a part of it is damaged and what "
            f"else belongs to that is unknown. Publish it again, or copy it from elsewhere: {error}"
        ) from None
    return needed | followed


def is_manifest(content: bytes) -> bool:
    """Tell whether a blob that nobody needs is an index or a manifest."""
    try:
        return parse_object(content).get("mediaType") in _MANIFESTS
    except ValueError:
        return False


def _references(store: LayoutFiles, blob: Descriptor) -> tuple[list[Descriptor], list[Descriptor]]:
    """Return what may be manifests, and what else, a blob refers to if it is a manifest.

    What a descriptor says of its type is no reason to lose what is behind it.
    """
    try:
        document = parse_object(store.read_blob(blob, limit=MAX_MANIFEST))
    except (NotFoundError, IntegrityError, ValueError) as error:
        if blob.media_type in _MANIFESTS:
            raise IntegrityError(f"{blob.digest} is no intact manifest: {error}") from None
        return [], []
    subject = [document["subject"]] if "subject" in document else []
    config = [document["config"]] if "config" in document else []
    manifests = [*_listed(document, "manifests"), *subject]
    others = [*_listed(document, "layers"), *config]
    return [*map(Descriptor.from_json, manifests)], [*map(Descriptor.from_json, others)]


def _listed(document: Mapping[str, Any], key: str) -> list[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise IntegrityError(f"a manifest is broken: expected a list under {key!r}")
    return found
