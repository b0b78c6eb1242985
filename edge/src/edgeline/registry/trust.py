"""The device's trust: which release a channel serves, by what the keys behind a root have signed.

    channels = TrustedChannels(store, root=Path("root.json").read_bytes(), state=folder)
    channels.refresh()
    channel = channels.channel("cells", "production")

The device is given the registry's root once, on a way that it trusts. From there the TUF client
workflow leads: newer roots, signed by the keys of those before; then timestamp, snapshot, targets
and the role that signs the channel. A registry that is tampered with, that goes back, that stands
still until signatures expire, or that mixes old with new is refused.

What was trusted last is kept in the state folder, in one file that is replaced whole. It is what an
older copy of the registry is recognized by, and it saves downloads: when nothing is new, a refresh
reads the bundle's manifest and no more.
"""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from securesystemslib.signer import ED25519, Key
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgeline._json import parse_object
from edgeline._text import one_line
from edgeline.errors import (
    EdgelineError,
    ExpiredError,
    IntegrityError,
    RegistryError,
    TrustError,
)
from edgeline.registry.bundle import (
    Bundle,
    Channel,
    channel_of,
    exceeds,
    expiry_days,
    is_channel_path,
    read_bundle,
    read_file,
    with_halts,
)
from edgeline.registry.format import MAX_TUF_METADATA, check_channel, check_model, halt_path
from edgeline.registry.state import NAME, ROOTS, Kept, State
from edgeline.registry.store import ReadStore

_ONLINE = ("timestamp", "snapshot")
_TOP = ("root", *_ONLINE, "targets")  # in the order of verification

_CONFIG = UpdaterConfig(
    root_max_length=MAX_TUF_METADATA,
    timestamp_max_length=MAX_TUF_METADATA,
    snapshot_max_length=MAX_TUF_METADATA,
    targets_max_length=MAX_TUF_METADATA,
)


@dataclass(frozen=True)
class TrustedRole:
    """A role whose signatures were verified."""

    name: str
    version: int
    expires: datetime  # for this device, which does not believe a role that says it lasts too long
    says: datetime  # when it expires by what it says itself
    signed: datetime | None  # when, of root in so far as it says for how long it was signed


@dataclass(frozen=True)
class TimeFloor:
    """A time that has passed, whatever the clock says, until a newer root lets it go.

    What raised it may have been a clock that was wrong; then a new root is the way out.
    """

    time: datetime
    root: int  # the version of root that was trusted when it was found


class TrustedChannels:
    """The channels of a registry, as far as the keys behind a root vouch for them.

    Several processes may share a state folder; not several threads an object.

    Args:
        store: Where the registry is.
        root: The root that it is trusted by, version 1 or a newer one; a file that came with the
            device, never one that was fetched from the registry itself.
        state: The folder where what was trusted last is kept; made when needed.
        floor: A time that is known to have passed. Should the clock be behind it, what had expired
            by then counts as expired.
    """

    def __init__(
        self, store: ReadStore, *, root: bytes, state: Path, floor: TimeFloor | None = None
    ) -> None:
        self._store = store
        self._root = root
        self._state = State(state)
        self._floor = floor
        self._client: _Client | None = None

    def refresh(self) -> None:
        """Bring what is trusted up to date.

        Raises:
            NotFoundError: the store is no registry.
            UnreachableError: it cannot be reached in time.
            ExpiredError: what it holds was signed too long ago, or the clock is wrong.
            TrustError: it is not what the keys behind the root signed, or is older than what was
                trusted before, or the state folder is damaged or of another registry.
            IntegrityError: its metadata is damaged or incomplete.
            RegistryError: the state cannot be read or written.
        """
        self._client = None
        with self._state.locked():
            known = self._state.load()
            client = _Client(self._store, self._root, known, self._floor)
            try:
                client.refresh()
            except RegistryError:
                # What was verified before the step that failed counts from now on.
                if not client.is_behind(known):
                    self._state.save(client.kept())
                raise
            client.check_not_behind(known)
            self._state.save(client.kept())
        self._client = client

    def channel(self, model: str, channel: str) -> Channel | None:
        """Return what a channel serves, None when nothing was published to it.

        Refreshes first when that was not done yet.

        Raises:
            RegistryError: a name is malformed; and all that `refresh` raises.
        """
        found = self._find(f"{check_model(model)}/{check_channel(channel)}")
        if found is None or found.active_rollout is None:
            return found
        return with_halts(found, self._target(halt_path(model)))

    def channels(self) -> list[Channel]:
        """Return all channels of all models that serve something, sorted.

        Reads the metadata of every model. Refreshes first when that was not done yet.

        Raises:
            RegistryError: all that `refresh` raises.
        """
        found = [self._find(path) for path in self._refreshed().paths() if is_channel_path(path)]
        return sorted(filter(None, found), key=lambda channel: (channel.model, channel.name))

    def roles(self) -> list[TrustedRole]:
        """Return the roles that what was looked up so far rests on, in the order of verification.

        Raises:
            RegistryError: all that `refresh` raises.
        """
        return self._refreshed().roles()

    def _find(self, path: str) -> Channel | None:
        target = self._target(path)
        return channel_of(path, target) if target else None

    def _target(self, path: str) -> TargetFile | None:
        client = self._refreshed()
        before = client.kept()
        target = client.target(path)
        after = client.kept()
        if after != before:
            with self._state.locked():
                # Only a saving of downloads: not worth undoing what another process has trusted.
                if self._state.load() == before:
                    self._state.save(after)
        return target

    def _refreshed(self) -> "_Client":
        if self._client is None:
            self.refresh()
        assert self._client is not None
        return self._client


class _Client:
    """python-tuf's client, on a copy of the state and on a store in the place of a web server."""

    def __init__(
        self,
        store: ReadStore,
        root: bytes,
        known: Kept,
        floor: TimeFloor | None,
    ) -> None:
        self._location = store.location
        self._floor = floor
        self._seen = dict(known.seen)
        self._used = [*_TOP]
        self._fetcher = _BundleFetcher(store, known.files.values())
        with self._translated():
            self._folder = Path(tempfile.mkdtemp(prefix="edgeline-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            for name, data in known.files.items():
                path = self._folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            self._updater = self._start(root)
        self._check_same_registry(root, known)

    def refresh(self) -> None:
        """Follow the TUF client workflow, up to the top-level targets."""
        self._fetcher.open()
        with self._translated():
            self._updater.refresh()
        self._check_not_expired()

    def target(self, path: str) -> TargetFile | None:
        """Return the signed target of a path, from the role that is in charge of it."""
        targets = self._signed("targets", Targets)
        listed = self._signed("snapshot", Snapshot).meta
        roles = targets.delegations.get_roles_for_target(path) if targets.delegations else ()
        names = [name for name, _ in roles]
        if names and not any(f"{name}.json" in listed for name in names):
            return None  # the role has signed nothing yet
        with self._translated():
            found = self._updater.get_targetinfo(path)
        used = [*self._used, *(name for name in names if self._file(f"{name}.json") is not None)]
        self._used = list(dict.fromkeys(used))
        self._check_not_expired()
        return found

    def roles(self) -> list[TrustedRole]:
        """Return the roles used so far, in the order of verification."""
        return [self._role(name) for name in self._used]

    def paths(self) -> list[str]:
        """Return all paths that somebody may sign for, or has."""
        targets = self._signed("targets", Targets)
        roles = (targets.delegations.roles or {}).values() if targets.delegations else ()
        paths = {path for role in roles for path in role.paths or ()} | set(targets.targets)
        return sorted(paths)

    def kept(self) -> Kept:
        """Return what the client trusts, by names in its folder."""
        # root.json is a link to the newest one in the history.
        paths = [path for path in self._folder.rglob("*.json") if not path.is_symlink()]
        names = {path.relative_to(self._folder).as_posix(): path for path in paths}
        files = {name: path.read_bytes() for name, path in names.items() if NAME.fullmatch(name)}
        there = set(map(_sha256, files.values()))
        return Kept(files, {digest: self._seen[digest] for digest in there & self._seen.keys()})

    def is_behind(self, known: Kept) -> bool:
        """Tell whether the root now trusted is older than one that was trusted before."""
        newest = max(map(_root_version, known.files), default=0)
        return bool(self._signed("root", Root).version < newest)

    def check_not_behind(self, known: Kept) -> None:
        """Check that the root now trusted is no older than any that was trusted before.

        Raises:
            TrustError: it is.
        """
        if self.is_behind(known):
            raise TrustError(
                f"{self._location} does not lead from the given root to the one that was trusted "
                "before. It is an older copy of the registry, or lacks some of its roots"
            )

    def _check_not_expired(self) -> None:
        """Check when signatures expire once more: by the floor, and by what root lets them last."""
        now = self._now()
        if any(role.expires <= now for role in self.roles()):
            raise self._expired()

    def _now(self) -> datetime:
        """Return what time it is at least."""
        clock, floor = datetime.now(timezone.utc), self._floor
        if floor is None or self._signed("root", Root).version > floor.root:
            return clock
        return max(clock, floor.time)

    def _expiry(self, name: str, data: bytes) -> datetime:
        """Return when a role's metadata expires.

        Nobody offline has a hand in what the online key signs. So what lasts longer than root lets
        it last, counted from now, lasts so long from when it was first seen. It is not refused, as
        it may be this device's clock that is behind.
        """
        expires: datetime = _parse(data).signed.expires
        days = _days(self._signed("root", Root), name) if name in _ONLINE else None
        now = self._now()
        if days is None or not exceeds(expires, now, days):
            return expires
        first = self._seen.setdefault(_sha256(data), now.timestamp())
        return datetime.fromtimestamp(first, timezone.utc) + timedelta(days=days)

    def _role(self, name: str) -> TrustedRole:
        data = self._file(f"{name}.json")
        assert data is not None
        signed = _parse(data).signed
        days = _days(signed, name) if isinstance(signed, Root) else None
        return TrustedRole(
            name=name,
            version=signed.version,
            expires=self._expiry(name, data),
            says=signed.expires,
            signed=signed.expires - timedelta(days=days) if days else None,
        )

    def _file(self, name: str) -> bytes | None:
        """Return a file of the client's folder, None if it is not there."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _start(self, root: bytes) -> Updater:
        try:
            parse_object(root)
            return Updater(
                str(self._folder), "", fetcher=self._fetcher, config=_CONFIG, bootstrap=root
            )
        except (RepositoryError, ValueError) as error:
            if _lacks_cryptography(error, [root]):
                raise _unverifiable("The root to trust the registry by") from error
            raise TrustError(
                "The root to trust the registry by is not the root metadata of a registry, signed "
                f"by its own keys: {one_line(error)}. Expected the file that `edgeline registry "
                "init` wrote"
            ) from error

    def _check_same_registry(self, root: bytes, known: Kept) -> None:
        version = self._signed("root", Root).version
        before = known.files.get(f"{ROOTS}/{version}.root.json")
        if before is not None and _parse(before).signed != _parse(root).signed:
            raise TrustError(
                f"The state folder belongs to another registry than the given root: their version "
                f"{version} of root differs. Name another folder for the state, or check the root"
            )

    def _signed(self, role: str, kind: type[Any]) -> Any:
        """Return a top-level role as the client has verified it."""
        signed = _parse((self._folder / f"{role}.json").read_bytes()).signed
        assert isinstance(signed, kind)
        return signed

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ExpiredMetadataError:
            raise self._expired() from None
        except DownloadHTTPError as error:
            raise IntegrityError(
                f"The metadata of {self._location} is incomplete: {error}"
            ) from None
        except DownloadError as error:
            if isinstance(error.__cause__, EdgelineError):
                raise error.__cause__ from None
            raise TrustError(
                f"The metadata of {self._location} is not what its keys have signed: "
                f"{one_line(error)}"
            ) from error
        except RepositoryError as error:
            kept = (self._file(f"{role}.json") for role in ("root", "targets"))
            if _lacks_cryptography(error, filter(None, (*self._fetcher.fetched.values(), *kept))):
                raise _unverifiable(f"The metadata of {self._location}") from error
            raise TrustError(
                f"The metadata of {self._location} cannot be trusted: {one_line(error)}. It was "
                "tampered with or damaged, or belongs to another root. Nothing of it is used"
            ) from error
        except OSError as error:
            raise RegistryError(
                f"The metadata of {self._location} cannot be kept for verification: {error}"
            ) from error

    def _expired(self) -> ExpiredError:
        """Tell which of the verified roles has expired: the first in the order of verification."""
        clock, now = datetime.now(timezone.utc), self._now()
        fetched = self._fetcher.fetched
        for role in dict.fromkeys([*_TOP, *(name.removesuffix(".json") for name in fetched)]):
            data = fetched.get(f"{role}.json") or self._file(f"{role}.json")
            expires = self._expiry(role, data) if data else now
            if expires <= now:
                break
        remedy = (
            "run `edgeline registry refresh` where the online key is"
            if role in _ONLINE
            else f"have it signed anew by the holders of the keys of {role}"
        )
        return ExpiredError(
            f"What {self._location} says is too old to be trusted: {role} expired on "
            f"{expires:%Y-%m-%d %H:%M} UTC, and {_telling(clock, now)}, {remedy}"
        )


class _BundleFetcher(FetcherInterface):
    """Serves the files of a store's bundle; those that the device has already, from there."""

    def __init__(self, store: ReadStore, known: Iterable[bytes]) -> None:
        self._store = store
        self._known = {f"sha256:{_sha256(data)}": data for data in known}
        self._bundle: Bundle | None = None
        self.fetched: dict[str, bytes] = {}  # the newest of each role, by names without version

    def open(self) -> None:
        """Read the bundle's manifest."""
        self._bundle = read_bundle(self._store)

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("/")
        layer = self._bundle.files.get(name) if self._bundle else None
        if layer is None:
            raise DownloadHTTPError(f"it lacks {name[:100]}", 404)
        data = self._known.get(layer.digest)
        if data is None:
            data = read_file(self._store, name, layer)
        try:
            # The TUF client is content with the last of two equal keys.
            parse_object(data)
        except ValueError as error:
            raise IntegrityError(f"{name} of the registry's metadata is broken: {error}") from None
        version, _, unversioned = name.partition(".")
        self.fetched[unversioned if version.isdecimal() else name] = data
        return iter([data])


def _parse(data: bytes) -> Metadata[Any]:
    return Metadata.from_bytes(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lacks_cryptography(error: Exception, files: Iterable[bytes]) -> bool:
    """Tell whether signatures may be missing because only `cryptography` verifies some of the keys.

    Args:
        error: what went wrong.
        files: of metadata that names keys, whoever signed them; the error is one either way.
    """
    if not isinstance(error, UnsignedMetadataError) or find_spec("cryptography"):
        return False
    return any(key.scheme != ED25519 for data in files for key in _keys(data))


def _keys(data: bytes) -> Iterable[Key]:
    """Return the keys that a role's metadata names."""
    try:
        signed = _parse(data).signed
    except RepositoryError:
        return ()
    names = signed if isinstance(signed, Root) else getattr(signed, "delegations", None)
    return names.keys.values() if names else ()


def _unverifiable(name: str) -> TrustError:
    return TrustError(
        f"{name} cannot be verified here: it is signed with ECDSA keys, as of an HSM or a KMS, for "
        "which `cryptography` is missing. Run pip install 'edgeline[ecdsa]'"
    )


def _days(root: Root, role: str) -> int | None:
    """Return for how many days a role's signatures last by what root says, None if it does not."""
    return expiry_days(root.roles[role].unrecognized_fields)


def _telling(clock: datetime, now: datetime) -> str:
    """Say by what it is known that it is past `now`."""
    says = f"this machine's clock says {clock:%Y-%m-%d %H:%M} UTC"
    if clock >= now:
        return f"{says}. If the clock is right"
    return f"{says}, though it was {now:%Y-%m-%d %H:%M} UTC before. Set the clock; and"


def _root_version(name: str) -> int:
    """Return the version of a root in the client's folder, 0 for another file."""
    folder, _, file = name.rpartition("/")
    return int(file.partition(".")[0]) if folder == ROOTS else 0
