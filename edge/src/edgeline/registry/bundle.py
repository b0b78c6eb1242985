"""The bundle: a registry's TUF metadata, all of it in one OCI manifest with a layer per file.

A layer's title is the name TUF gives the file: `3.root.json` (every version of root is there),
`timestamp.json`, `9.snapshot.json`, `2.targets.json`, and one file per delegated role such as
`5.cells-ci.json`. The tag `tuf` names the newest bundle and `tuf-<n>` the one with version n of
timestamp.

What is read here is intact and no more: `trust` and `publish.metadata` verify the signatures.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from edgeline.errors import IntegrityError, NotFoundError, RegistryError
from edgeline.registry.format import (
    MAX_EXPIRY_DAYS,
    MAX_HISTORY,
    MAX_MANIFEST,
    MAX_TUF_METADATA,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE_ANNOTATION,
    TUF_BUNDLE,
    TUF_METADATA,
    TUF_TAG,
    Descriptor,
    ReleaseRef,
    check_channel,
    check_digest,
    check_group,
    check_model,
    parse_document,
)
from edgeline.registry.rollout import MAX_GROUPS, WHOLE, Member, Rollout

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from edgeline.registry.store import ReadStore

CLOCK_TOLERANCE = timedelta(days=1)  # by which the clocks of signers and readers may differ
EXPIRY_FIELD = "x-edgeline-expiry-days"  # in root, for each role: how long its signatures last

# Beyond this is malice; file names and tags stay short, and numbers exact in every language.
MAX_VERSION = 999_999_999

_FILE = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.(?!timestamp\.)[a-z0-9]+(-[a-z0-9]+)*\.json")


@dataclass(frozen=True)
class Bundle:
    """The layers of a bundle by the names of the files in them."""

    digest: str  # of its manifest
    files: Mapping[str, Descriptor]


@dataclass(frozen=True)
class Channel:
    """What the holder of a channel's key has signed: the release that it serves."""

    model: str
    name: str
    release: ReleaseRef
    history: tuple[ReleaseRef, ...] = field(default=())  # served before, newest first
    rollout: Rollout | None = None  # the last one, also when it has ended

    @property
    def path(self) -> str:
        """The path of its signed target: "<model>/<channel>"."""
        return f"{self.model}/{self.name}"

    @property
    def active_rollout(self) -> Rollout | None:
        """The rollout that gives some devices another release, None while all have the same."""
        return self.rollout if self.rollout and self.rollout.is_active else None

    @property
    def served(self) -> tuple[ReleaseRef, ...]:
        """What devices have by it now: the release of all, and that of a rollout."""
        rollout = self.active_rollout
        return (self.release, rollout.release) if rollout else (self.release,)

    def seen_by(self, member: Member) -> "Channel":
        """Return the channel as a device sees it, to which the release that it gets is the one."""
        rollout = self.active_rollout
        if rollout is None or not rollout.includes(member):
            return self
        past = (self.release, *(ref for ref in self.history if ref != rollout.release))
        return Channel(self.model, self.name, rollout.release, past[:MAX_HISTORY])


def file_name(role: str, version: int) -> str:
    """Return the name of a role's file in a bundle: ("snapshot", 9) -> "9.snapshot.json"."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def expiry_days(fields: Mapping[str, Any], name: str = EXPIRY_FIELD) -> int | None:
    """Return for how many days signatures last by `fields`, None if these do not say it."""
    days = fields.get(name)
    return days if type(days) is int and 0 < days <= MAX_EXPIRY_DAYS else None


def exceeds(expires: datetime, at: datetime, days: int) -> bool:
    """Tell whether something expires later than what was signed for `days` by the time `at` may."""
    return expires > at + timedelta(days=days) + CLOCK_TOLERANCE


def read_bundle(store: "ReadStore", tag: str = TUF_TAG) -> Bundle:
    """Read the manifest of a store's metadata.

    Raises:
        NotFoundError: the store has no such tag.
        IntegrityError: what the tag names is missing, damaged or malformed.
    """
    try:
        descriptor, data = store.read_tag(tag, limit=MAX_MANIFEST)
    except NotFoundError as error:
        if tag in store.tags():
            raise IntegrityError(
                f"The signed metadata of {store.location} is incomplete: tag {tag!r} is there, and "
                f"what it names is not: {error}. Restore it from a copy of the registry"
            ) from None
        raise NotFoundError(
            f"{store.location} holds no signed metadata: it has no tag {tag!r}. Check the "
            "location, or make it a registry with `edgeline registry init`"
        ) from None
    document = parse_document(data, OCI_MANIFEST)
    layers = document.get("layers")
    if document.get("artifactType") != TUF_BUNDLE or not isinstance(layers, list):
        raise IntegrityError(
            f"Tag {tag!r} of {store.location} names something else than a registry's metadata: "
            f"expected a manifest with layers and the artifactType {TUF_BUNDLE}"
        )
    return Bundle(descriptor.digest, _files(layers))


def read_file(store: "ReadStore", name: str, layer: Descriptor) -> bytes:
    """Read one of a bundle's files, which has the size and the digest that the bundle says.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    try:
        return store.read_blob(layer, limit=MAX_TUF_METADATA)
    except NotFoundError as error:
        # Not one: for a caller, that would be a registry in order that lacks what was asked for.
        raise IntegrityError(
            f"The signed metadata of {store.location} is incomplete: {name} is listed, and "
            f"missing: {error}. Restore it from a copy of the registry"
        ) from None


def bundle_document(config: Descriptor, files: Mapping[str, Descriptor]) -> dict[str, Any]:
    """Return the manifest of a bundle with these files."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": TUF_BUNDLE,
        "config": config.to_json(),
        "layers": [
            Descriptor(TUF_METADATA, layer.digest, layer.size, {TITLE_ANNOTATION: name}).to_json()
            for name, layer in sorted(files.items())
        ],
    }


def is_channel_path(path: str) -> bool:
    """Tell whether a target's path names a channel; there may be other targets."""
    model, _, channel = path.partition("/")
    try:
        check_model(model), check_channel(channel)
    except RegistryError:
        return False
    return True


def channel_of(path: str, target: "TargetFile") -> Channel:
    """Return the channel that a signed target describes.

    Raises:
        RegistryError: the path names no channel.
        IntegrityError: the target does not say what edgeline has to know.
    """
    model, _, channel = path.partition("/")
    custom = target.custom
    if not isinstance(custom, dict) or set(target.hashes) != {"sha256"}:
        raise _malformed(path, "a SHA-256 and no other hash, and a 'custom' part")
    history = custom.get("history")
    if not isinstance(history, list) or len(history) > MAX_HISTORY:
        raise _malformed(path, f"a history of at most {MAX_HISTORY} releases")
    entries = [entry if isinstance(entry, dict) else {} for entry in history]
    return Channel(
        check_model(model),
        check_channel(channel),
        _release(path, custom.get("version"), f"sha256:{target.hashes['sha256']}", target.length),
        tuple(_release_in(path, entry) for entry in entries),
        _rollout(path, custom["rollout"]) if "rollout" in custom else None,
    )


def with_halts(channel: Channel, target: "TargetFile | None") -> Channel:
    """Return a channel whose rollout has ended if the halt role has said so in its target.

    Raises:
        IntegrityError: the target is malformed.
    """
    rollout = channel.active_rollout
    if rollout is None or target is None:
        return channel
    halts = halted_in(target)
    if halts.get(channel.name) != rollout.number:
        return channel
    return replace(channel, rollout=rollout.ended())


def halted_in(target: "TargetFile | None") -> dict[str, int]:
    """Return the rollout of each channel that the halt role has halted last.

    Raises:
        IntegrityError: the target is malformed.
    """
    halts = (target.custom or {}).get("halted") if target else {}
    if not isinstance(halts, dict) or not all(type(each) is int for each in halts.values()):
        raise _malformed(target.path if target else "", "the rollouts that were halted")
    return dict(halts)


def custom_of(channel: Channel) -> dict[str, Any]:
    """Return what a channel's signed target holds besides length and hash."""
    custom: dict[str, Any] = {
        "version": channel.release.version,
        "history": [_release_json(ref) for ref in channel.history],
    }
    if channel.rollout:
        custom["rollout"] = {
            "number": channel.rollout.number,
            "release": _release_json(channel.rollout.release),
            "share": channel.rollout.share,
            "groups": list(channel.rollout.groups),
        }
    return custom


def _files(layers: Iterable[object]) -> dict[str, Descriptor]:
    files: dict[str, Descriptor] = {}
    for layer in map(Descriptor.from_json, layers):
        name = layer.annotations.get(TITLE_ANNOTATION, "")
        if layer.media_type != TUF_METADATA or not _FILE.fullmatch(name):
            raise IntegrityError(
                f"A layer of the registry's metadata is a {layer.media_type[:80]!r} with the title "
                f"{name[:80]!r}; expected a {TUF_METADATA} with a title such as '3.root.json'"
            )
        if name in files or not 0 < layer.size <= MAX_TUF_METADATA:
            raise IntegrityError(
                f"{name} of the registry's metadata has {layer.size} bytes or is there twice; "
                f"expected once, with 1 to {MAX_TUF_METADATA} bytes"
            )
        files[name] = layer
    return files


def _release_json(ref: ReleaseRef) -> dict[str, Any]:
    return {"version": ref.version, "digest": ref.index.digest, "size": ref.index.size}


def _rollout(path: str, value: object) -> Rollout:
    entry = value if isinstance(value, dict) else {}
    number, share, groups = entry.get("number"), entry.get("share"), entry.get("groups")
    if type(number) is not int or not 0 < number <= MAX_VERSION:
        raise _malformed(path, "the number of its rollout")
    if type(share) is not int or not 0 <= share <= WHOLE:
        raise _malformed(path, f"a share of its rollout from 0 to {WHOLE}")
    if not isinstance(groups, list) or len(groups) > MAX_GROUPS:
        raise _malformed(path, f"at most {MAX_GROUPS} groups in its rollout")
    release = entry.get("release")
    return Rollout(
        number,
        _release_in(path, release if isinstance(release, dict) else {}),
        share,
        tuple(map(check_group, groups)),
    )


def _release_in(path: str, entry: Mapping[str, Any]) -> ReleaseRef:
    return _release(path, entry.get("version"), entry.get("digest"), entry.get("size"))


def _release(path: str, version: object, digest: object, size: object) -> ReleaseRef:
    if type(version) is not int or not 0 < version <= MAX_VERSION:
        raise _malformed(path, "the number of each release")
    if type(size) is not int or not 0 < size <= MAX_MANIFEST:
        raise _malformed(path, f"the size of each release's index, at most {MAX_MANIFEST} bytes")
    return ReleaseRef(version, Descriptor(OCI_INDEX, check_digest(digest), size))


def _malformed(path: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"The signed target {path[:130]!r} is malformed; expected {expected}. "
        "Its signer made a mistake, or uses another version of edgeline"
    )
