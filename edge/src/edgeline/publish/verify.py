"""Checking a registry wholly. A device checks the one variant that it runs; this checks the rest.

check_release(store, release)              # before it is promoted
verification = verify(repository)   # from time to time, and after a copy
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from securesystemslib.signer import Key

from edgeline.errors import (
    ContractError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    TrustError,
    UnreachableError,
)
from edgeline.publish import provenance
from edgeline.publish.metadata import RoleStatus
from edgeline.publish.progress import Notify, say_nothing
from edgeline.publish.provenance import Provenance
from edgeline.publish.repository import Repository
from edgeline.publish.signatures import TIMESTAMP
from edgeline.publish.store import verified
from edgeline.registry.bundle import Channel
from edgeline.registry.format import (
    MAX_MANIFEST,
    MAX_MODEL,
    Descriptor,
    ReleaseRef,
    blobs_of,
    parse_metadata_tag,
    parse_variant_tag,
    signing_roles,
    variant_tag,
    version_tag,
)
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import ReadStore

SOON = timedelta(days=7)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or is going to be."""

    level: Literal["error", "warning"]
    subject: str  # such as "v7", "solar-cells/production", "role timestamp" or "tag v3-int8"
    text: str


@dataclass(frozen=True)
class Verification:
    """What was checked, and what was found."""

    releases: int
    channels: int
    roles: int
    size: int  # bytes of blobs that were read
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong now."""
        return not any(finding.level == "error" for finding in self.findings)


def check_release(
    store: ReadStore,
    release: Release,
    *,
    known: set[tuple[str, int]] | None = None,
    notify: Notify = say_nothing,
) -> None:
    """Read every blob of an open release and check its size and SHA-256.

    Args:
        store: where it is.
        release: opened, so that its index and its manifests are intact.
        known: digest and size of blobs that need not be read again; gets those that were read.
        notify: is told how far the reading has come.

    Raises:
        NotFoundError: a blob is missing.
        IntegrityError: a blob was changed or damaged.
        UnreachableError: the store stopped answering.
    """
    known = set() if known is None else known
    blobs = {(blob.digest, blob.size): blob for blob in _blobs(store, release)}
    unread = [blob for key, blob in blobs.items() if key not in known]
    total, done = sum(blob.size for blob in unread), 0
    for blob in unread:
        for chunk in verified(store, blob, release.tag):
            done += len(chunk)
            notify(f"{release.tag}: read {done / 1e6:.0f} of {total / 1e6:.0f} MB")
        known.add((blob.digest, blob.size))


def check_provenance(
    reader: RegistryReader, release: Release, keys: Collection[Key]
) -> tuple[Provenance, bool] | None:
    """Return what a release says of where it comes from, and whether one of `keys` signed that.

    None for a release without provenance.

    Raises:
        IntegrityError: it is malformed, about other weights than the release's, or said to be
            signed by one of `keys`, which has not signed it. A key that is not among them may be
            one that the model has no more.
    """
    envelope = reader.read_provenance(release)
    if envelope is None:
        return None
    found = provenance.verify(envelope, None)
    for variant in release.variants:
        about = f"sha256:{found.subjects.get(variant.name)}"
        if about != variant.model.digest:
            raise IntegrityError(
                f"The provenance of {release.tag} is not about this release: expected "
                f"{variant.model.digest} for {variant.name}, got {about}"
            )
    try:
        provenance.verify(envelope, keys)
    except TrustError as error:
        if {key.keyid for key in keys} & set(found.key_ids):
            raise IntegrityError(f"The provenance of {release.tag} was changed: {error}") from None
        return found, False
    return found, True


def publishing_keys(roles: Iterable[RoleStatus], model: str) -> list[Key]:
    """Return the keys that sign what is published of a model."""
    return [key for role in roles if role.name in signing_roles(model) for key in role.keys]


def verify(
    repository: Repository,
    *,
    at: datetime | None = None,
    notify: Notify = say_nothing,
) -> Verification:
    """Check every release, every channel's signature, when signatures expire, and stray tags.

    What is wrong is found, not raised, so that one fault does not hide another.

    Args:
        repository: the signed metadata of the releases' store; no key is needed.
        at: the time at which signatures have to hold; now, if it is not given.
        notify: is told how far the reading has come.

    Raises:
        UnreachableError: the store stopped answering.
        RegistryError: the store's tags cannot be listed.
    """
    findings: list[Finding] = []
    store = repository.store
    tags = store.tags()
    channels, roles = _signed(repository, findings)
    findings += _expiring(roles, at or datetime.now(timezone.utc))
    known: set[tuple[str, int]] = set()
    releases = _check_releases(store, known, findings, notify)
    findings += _check_origins(store, releases, roles)
    for channel in channels:
        findings += _check_channel(store, channel, releases)
    findings += _check_tags(store, tags, releases, roles)
    return Verification(
        releases=len(releases),
        channels=len(channels),
        roles=len(roles),
        size=sum(size for _, size in known),
        findings=tuple(findings),
    )


def _signed(
    repository: Repository, findings: list[Finding]
) -> tuple[list[Channel], list[RoleStatus]]:
    """Return what signatures vouch for, all of which is verified on the way."""
    try:
        return repository.channels(), repository.roles()
    except UnreachableError:
        raise
    except RegistryError as error:
        findings.append(Finding("error", "signatures", str(error)))
        return [], []


def _expiring(roles: Collection[RoleStatus], now: datetime) -> Iterator[Finding]:
    for role in roles:
        if role.expires is None:
            continue
        when = f"{role.expires:%Y-%m-%d %H:%M} UTC"
        if role.expires <= now:
            yield Finding(
                "error",
                f"role {role.name}",
                f"What it signed expired on {when}, and devices refuse it. Sign anew with "
                "`edgeline registry refresh`",
            )
        elif role.expires - now < SOON:
            yield Finding(
                "warning",
                f"role {role.name}",
                f"What it signed expires on {when}. Sign anew with `edgeline registry refresh`",
            )
        elif role.is_too_long(now):
            yield Finding(
                "error",
                f"role {role.name}",
                f"What it signed expires on {when}, which is more than {role.days} days away. "
                "Whoever signed it has a wrong clock, or a stolen key: see docs/registry-trust.md",
            )
    if not all(role.is_bounded for role in roles):
        yield Finding(
            "warning",
            "role root",
            "It does not say how long signatures may last, so that a stolen online key could sign "
            "for ever. Have it say so with `edgeline registry keys expiry`",
        )


def _check_releases(
    store: ReadStore,
    known: set[tuple[str, int]],
    findings: list[Finding],
    notify: Notify,
) -> dict[int, Release | None]:
    """Read every release; return them by version, None for those that cannot be opened."""
    reader = RegistryReader(store)
    versions = reader.versions()
    releases: dict[int, Release | None] = {}
    for number, version in enumerate(versions, start=1):
        tell = _prefixed(notify, f"release {number} of {len(versions)}, ")
        releases[version] = None
        try:
            releases[version] = release = reader.open_version(version)
            check_release(store, release, known=known, notify=tell)
        except UnreachableError:
            raise
        except (RegistryError, ContractError) as error:
            findings.append(Finding("error", version_tag(version), str(error)))
    return releases


def _check_origins(
    store: ReadStore, releases: dict[int, Release | None], roles: Collection[RoleStatus]
) -> Iterator[Finding]:
    """Yield which provenance is not what was signed, and which nobody of today vouches for."""
    reader = RegistryReader(store)
    unknown = []
    for release in filter(None, releases.values()):
        try:
            checked = check_provenance(reader, release, publishing_keys(roles, release.model))
        except UnreachableError:
            raise
        except RegistryError as error:
            yield Finding("error", release.tag, str(error))
            continue
        if checked and not checked[1]:
            unknown.append(release.tag)
    if unknown:
        shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        yield Finding(
            "warning",
            "provenance",
            f"That of {len(unknown)} releases ({shown}) is signed with no key that the model has "
            "today. After a rotation of its keys, that is to be expected",
        )


def _prefixed(notify: Notify, prefix: str) -> Notify:
    return lambda text: notify(f"{prefix}{text}")


def _check_channel(
    store: ReadStore, channel: Channel, releases: dict[int, Release | None]
) -> Iterator[Finding]:
    """Yield what keeps a channel from serving its release, or from going back to another."""
    subject = channel.path
    for ref in channel.served:
        problem = _problem(store, channel.model, ref, releases)
        if problem:
            yield Finding("error", subject, problem)
    for ref in channel.history:
        problem = _problem(store, channel.model, ref, releases)
        if problem:
            yield Finding("warning", subject, f"It cannot go back to {ref.tag}: {problem}")


def _problem(
    store: ReadStore, model: str, ref: ReleaseRef, releases: dict[int, Release | None]
) -> str | None:
    tag = ref.tag
    if ref.version not in releases:
        return f"The store has no release {tag}, which was signed for"
    release = releases[ref.version]
    if release is None:
        return f"Release {tag} is damaged"
    if release.digest != ref.index.digest:
        return f"Tag {tag} names {release.digest}, and {ref.index.digest} was signed for"
    if release.model != model:
        return f"{tag} is a release of {release.model!r}"
    return None


def _check_tags(
    store: ReadStore,
    tags: Iterable[str],
    releases: dict[int, Release | None],
    roles: Iterable[RoleStatus],
) -> Iterator[Finding]:
    """Yield tags that should be there and are not, and those that lead nowhere."""
    expected = {
        variant_tag(version, variant.name): variant.manifest.digest
        for version, release in releases.items()
        if release
        for variant in release.variants
    }
    for tag, digest in expected.items():
        yield from _check_variant_tag(store, tag, digest)
    # What variants these have is not known.
    broken = {version for version, release in releases.items() if release is None}
    newest = max((role.version for role in roles if role.name == TIMESTAMP), default=None)
    for tag in tags:
        version, metadata = parse_variant_tag(tag), parse_metadata_tag(tag)
        if version is not None and tag not in expected and version not in broken:
            text = "No release has such a variant. `edgeline registry gc` removes what is left over"
            yield Finding("warning", f"tag {tag}", text)
        if metadata is not None and newest is not None and metadata > newest:
            text = "A change was cut short before it counted; the next one takes the tag over"
            yield Finding("warning", f"tag {tag}", text)


def _check_variant_tag(store: ReadStore, tag: str, digest: str) -> Iterator[Finding]:
    try:
        found, _ = store.read_tag(tag, limit=MAX_MANIFEST)
    except NotFoundError:
        text = "It is missing, and a registry's garbage collection would remove the variant"
        yield Finding("warning", f"tag {tag}", f"{text}. Copying the release here restores it")
    except IntegrityError as error:
        yield Finding("error", f"tag {tag}", str(error))
    else:
        if found.digest != digest:
            yield Finding("warning", f"tag {tag}", f"It names {found.digest}, not {digest}")


def _blobs(store: ReadStore, release: Release) -> Iterator[Descriptor]:
    """Yield every blob that a manifest of the release names, its config included."""
    for variant in release.variants:
        data = store.read_manifest(variant.manifest, limit=MAX_MANIFEST)
        for blob in blobs_of(data):
            blob.check_size(MAX_MODEL)
            yield blob
