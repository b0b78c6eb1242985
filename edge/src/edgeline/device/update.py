"""Keeping a device's model up to date: checked, downloaded, verified, tried, and switched to.

    device = Device("oci://registry.example/cells", "solar-cells", root=root)
    outcome = device.update()

An update never makes things worse: the model that is served stays until another one has been
verified and has passed its trial here, and any failure on the way leaves it where it is.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeline._files import write_whole
from edgeline._text import in_utc
from edgeline.device import clock
from edgeline.device.child import ChildError
from edgeline.device.download import Downloads, Progress
from edgeline.device.identity import device_id
from edgeline.device.selection import candidates, versions
from edgeline.device.state import (
    CONTRACT_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    SKETCH_FILE,
    InstalledModel,
    Rejection,
    State,
    StateFolder,
    StoredFile,
)
from edgeline.device.trial import TRIAL_SECONDS, try_model
from edgeline.errors import (
    DeviceError,
    EdgelineError,
    NotFoundError,
    RejectedError,
)
from edgeline.registry.format import MAX_HISTORY, check_group, digest_of
from edgeline.registry.home import default_state
from edgeline.registry.rollout import Member
from edgeline.registry.store import Connection, open_store
from edgeline.runtime.memory import available_memory
from edgeline.runtime.threads import default_threads

if TYPE_CHECKING:
    from edgeline.registry.bundle import Channel
    from edgeline.registry.format import Descriptor
    from edgeline.registry.reader import Release, Variant
    from edgeline.registry.store import ReadStore
    from edgeline.registry.trust import TrustedChannels

MAX_RETRY_SECONDS = 86_400.0  # between two trials of a release that failed by bad luck

_RETRY_SECONDS = 900.0  # after the first of them; doubled with each

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What an update may take."""

    download_seconds: float = 1800.0  # of one check; what has come is kept for the next one
    trial_seconds: float = TRIAL_SECONDS  # of one variant
    lock_seconds: float = 60.0  # to wait for another process that updates


@dataclass(frozen=True)
class Outcome:
    """What an update has led to."""

    action: Literal["updated", "current", "held"]
    installed: InstalledModel


class Device:
    """One channel of one model on this device.

    Several processes and threads may use one state folder: updates take turns. Every method that
    changes something raises DeviceError when the folder cannot be used, or another process is
    updating it, besides what it lists.

    Args:
        registry: A directory's path, or "oci://host[:port]/repository".
        model: The model's name in it.
        channel: The channel to follow.
        root: The root to trust the registry by, as it came with the device.
        state: The state folder; by default one in the user's home directory.
        connection: How to reach a registry server.
        limits: What an update may take.
        num_threads: Threads for one inference; by default one per core, at most 4.
        groups: The groups that the device is in, whose members may get a release before others;
            remembered. By default what was said last time, at first none.
        progress: Told in a few words what is going on.

    Raises:
        RegistryError: a name is malformed, or there is no place for the state.
    """

    def __init__(
        self,
        registry: str,
        model: str,
        channel: str = "production",
        *,
        root: bytes,
        state: Path | None = None,
        connection: Connection | None = None,
        limits: Limits = Limits(),
        num_threads: int | None = None,
        groups: Sequence[str] | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        self.registry = registry
        self.model = model
        self.channel = channel
        self.root = root
        self.connection = connection or Connection()
        self.limits = limits
        self.num_threads = num_threads or default_threads()
        self.groups = None if groups is None else tuple(map(check_group, groups))
        self.progress = progress
        base = default_state(registry, root) if state is None else state
        self.folder = StateFolder(base, model, channel, root)

    def update(self, preference: Sequence[str] | None = None) -> Outcome:
        """Bring the model up to what the channel serves.

        Args:
            preference: Which variants to run, best first, none for what the publisher prefers; it
                is remembered. By default what was said last time.

        Raises:
            UnreachableError: the registry does not answer in time.
            ExpiredError: what it says was signed too long ago.
            TrustError: it is not what the keys behind the root signed, or has gone back.
            IntegrityError: it holds something else than was signed.
            NotFoundError: it has no such channel, or none of the preferred variants.
            ContractError: the release needs a newer edgeline.
            RejectedError: the release failed its trial here.
            DeviceError: the device has no room for it, or another process is updating.
            RegistryError: the registry cannot be used for another reason.
        """
        with self.folder.locked(self.limits.lock_seconds):
            check = _Check(self, self.folder.sweep(self.folder.read()), preference)
            try:
                return check.run()
            except EdgelineError as error:
                with suppress(DeviceError):  # a full disk must not hide what happened first
                    self.folder.write(
                        replace(
                            check.state,
                            failed=time.time(),
                            error=str(error),
                            error_kind=type(error).__name__,
                        )
                    )
                raise

    def lend(
        self, variants: Sequence[str] = ()
    ) -> Iterator[tuple["Release", "Variant", Mapping[str, Path]]]:
        """Yield variants of the release that the channel serves, with the paths of their files.

        The files are verified, but not tried, and go when the iteration ends. What is installed
        stays as it is; nobody else can update meanwhile.

        Args:
            variants: Which; none for every one.

        Raises:
            EdgelineError: as `update`.
        """
        with self.folder.locked(self.limits.lock_seconds):
            state = self.folder.sweep(self.folder.read())
            try:
                yield from _Check(self, state, None).lend(variants)
            finally:
                self.folder.clear_downloads()

    def channels(self, store: "ReadStore", state: State) -> "TrustedChannels":
        """Return the registry's channels as this device trusts them."""
        from edgeline.registry.trust import TimeFloor, TrustedChannels

        floor = TimeFloor(clock.as_time(state.floor), state.floor_root)
        return TrustedChannels(store, root=self.root, state=self.folder.base, floor=floor)

    def find(self, channels: "TrustedChannels", state: State) -> "Channel | None":
        """Return what the channel serves to this device, None when it serves nothing.

        Raises:
            RegistryError: the registry cannot be used or trusted.
            DeviceError: the device has no id yet, and one cannot be kept.
        """
        found = channels.channel(self.model, self.channel)
        rollout = found.active_rollout if found else None
        if found is None or rollout is None:
            return found
        if rollout.id == state.halted:
            # Whoever may halt it, and has done so, must not be able to have it go on.
            return replace(found, rollout=rollout.ended())
        with self.folder.translated():
            return found.seen_by(Member(device_id(self.folder.base), self.groups_of(state)))

    def groups_of(self, state: State) -> tuple[str, ...]:
        """Return the groups that the device is in."""
        return state.groups if self.groups is None else self.groups

    def remember_told(self, installed: InstalledModel) -> None:
        """Remember that `on_update` was called with a model."""
        with self.folder.locked(self.limits.lock_seconds):
            self.folder.write(replace(self.folder.read(), told=installed.id))

    def retry(self) -> None:
        """Forget that a release failed its trial here, so that the next update tries it again."""
        with self.folder.locked(self.limits.lock_seconds):
            self.folder.write(replace(self.folder.read(), rejected=None))

    def repair(self) -> bool:
        """Read every byte of the installed models, and forget those that are damaged.

        Returns:
            Whether there were any.
        """
        with self.folder.locked(self.limits.lock_seconds):
            state = self.folder.read()
            return self.folder.forget_damaged(state) != state

    def rollback(self) -> InstalledModel:
        """Go back to the model before, and stay there until the channel moves.

        Raises:
            NotFoundError: there is none.
            IntegrityError: it is damaged.
        """
        with self.folder.locked(self.limits.lock_seconds):
            state = self.folder.sweep(self.folder.read())
            if state.active is None or state.previous is None:
                raise NotFoundError(
                    f"There is no model before the one that {self.folder.path} serves"
                )
            back = self.folder.load(state.previous).installed
            left = self.folder.describe(state.active)
            self.folder.write(
                replace(state, active=state.previous, previous=state.active, held=left.digest)
            )
            return back


class _Check:
    """One look at the registry, and what follows from it; the state folder is locked."""

    def __init__(self, device: Device, state: State, preference: Sequence[str] | None) -> None:
        self._device = device
        self._folder = device.folder
        self._preference = state.preference if preference is None else tuple(preference)
        self.state = state

    def run(self) -> Outcome:
        """Carry it out; see `Device.update`."""
        store = open_store(self._device.registry, self._device.connection)
        channel = self._trusted_channel(store)
        digest = channel.release.index.digest
        self._forget_withdrawn(channel)
        if channel.rollout and channel.rollout.state == "halted":
            self.state = replace(self.state, halted=channel.rollout.id)
        if self.state.held not in (None, digest):
            self.state = replace(self.state, held=None)
        active = self._active()
        if active is not None and (self.state.held == digest or self._satisfies(active, digest)):
            self._remember(preference=self._preference)
            return Outcome("current" if active.digest == digest else "held", active)
        self._refuse_rejected(digest)
        return Outcome("updated", self._install(store, channel))

    def lend(
        self, variants: Sequence[str]
    ) -> Iterator[tuple["Release", "Variant", Mapping[str, Path]]]:
        """Download and yield variants; see `Device.lend`."""
        store = open_store(self._device.registry, self._device.connection)
        release = self._open(store, self._trusted_channel(store))
        downloads = self._downloads(store)
        for variant in candidates(release, variants, None):
            downloads.check_space(_blobs(variant).values())
            yield release, variant, self._bring(release, variant, downloads)

    def _trusted_channel(self, store: "ReadStore") -> "Channel":
        now = time.time()
        channels = self._device.channels(store, self.state)
        found = self._device.find(channels, self.state)
        roles = channels.roles()
        root = next(role for role in roles if role.name == "root")
        floor = clock.floor_under(root, self.state)
        complaint = clock.complaint(now, floor)
        if complaint:
            _log.warning("%s", complaint)
        self.state = replace(
            self.state,
            root=self._folder.root,
            groups=self._device.groups_of(self.state),
            floor=clock.raised_floor(floor, now, root),
            floor_root=root.version,
            expires=min(role.expires.timestamp() for role in roles),
            checked=now,
            failed=0.0,
            error=None,
            error_kind=None,
        )
        if found is None:
            from edgeline.registry.reader import serves_nothing

            raise serves_nothing(store, channels, self._device.model, self._device.channel)
        return found

    def _forget_withdrawn(self, channel: "Channel") -> None:
        """Let go of the model before when its release was withdrawn: nobody shall go back to it.

        What a channel is rolled back from leaves its history, unlike what is only older than the
        history reaches back.
        """
        previous = self._folder.models(self.state).get(self.state.previous or "")
        if previous is not None and not _still_counts(previous, channel):
            self.state = replace(self.state, previous=None)

    def _active(self) -> InstalledModel | None:
        return None if self.state.active is None else self._folder.describe(self.state.active)

    def _satisfies(self, active: InstalledModel, digest: str) -> bool:
        """Tell whether the active model is the channel's, in a variant that is wanted."""
        wanted = self._preference == self.state.preference or active.variant in self._preference[:1]
        return active.digest == digest and wanted

    def _remember(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        self._folder.write(self.state)

    def _refuse_rejected(self, digest: str) -> None:
        rejected = self.state.rejected
        if rejected is None or not self._is_same_trial(rejected, digest):
            return
        # A clock that was set back must not make it wait for longer.
        if rejected.until is None or 0 < rejected.until - time.time() <= MAX_RETRY_SECONDS:
            raise self._rejection(rejected)

    def _is_same_trial(self, rejected: Rejection, digest: str) -> bool:
        tried_with = rejected.digest, rejected.preference, rejected.runtime
        return tried_with == (digest, self._preference, versions())

    def _rejection(self, rejected: Rejection) -> RejectedError:
        active = self._active()
        goes_on = f"{active.tag} goes on" if active else "there is no model to go on with"
        until = rejected.until and f"from {in_utc(clock.as_time(rejected.until))} on, "
        return RejectedError(
            f"{self._device.model} v{rejected.version} failed its trial on this device, and "
            f"{goes_on}: {rejected.reason}. It is tried again {until or ''}by `edgeline retry`, "
            "when the channel has moved, with another --variant, or with other "
            "versions of edgeline, ai-edge-litert, NumPy or Pillow"
        )

    def _install(self, store: "ReadStore", channel: "Channel") -> InstalledModel:
        installed, files = self._choose(self._open(store, channel), self._downloads(store))
        self._switch(installed, files, channel)
        return installed

    def _open(self, store: "ReadStore", channel: "Channel") -> "Release":
        from edgeline.registry.reader import RegistryReader

        return RegistryReader(store).open_served(channel)

    def _downloads(self, store: "ReadStore") -> Downloads:
        return Downloads(
            self._folder,
            self.state,
            store,
            end=time.monotonic() + self._device.limits.download_seconds,
            progress=self._device.progress,
        )

    def _choose(
        self, release: "Release", downloads: Downloads
    ) -> tuple[InstalledModel, Mapping[str, Path]]:
        """Return the variant to run, having downloaded and tried as many as that takes."""
        options = candidates(release, self._preference, available_memory())
        downloads.keep_only(blob for variant in options for blob in _blobs(variant).values())
        failures: dict[str, ChildError] = {}
        for variant in options:
            downloads.check_space(_blobs(variant).values())
            if downloads.missing(_blobs(variant).values()):
                self._device.progress(f"downloading {release.model} {release.tag} {variant.name}")
            files = self._bring(release, variant, downloads)
            self._device.progress(f"trying {release.model} {release.tag} {variant.name}")
            threads, seconds = self._device.num_threads, self._device.limits.trial_seconds
            try:
                try_model(files, threads=threads, seconds=seconds)
            except ChildError as error:
                _log.warning("%s %s %s: %s", release.model, release.tag, variant.name, str(error))
                failures[variant.name] = error
            else:
                return _describe(release, variant), files
        raise self._reject(release, failures)

    def _bring(
        self, release: "Release", variant: "Variant", downloads: Downloads
    ) -> Mapping[str, Path]:
        """Return the paths of a variant's files, all of them verified."""
        contract = release.contract.to_json()
        path = self._folder.downloads / hashlib.sha256(contract).hexdigest()
        with self._folder.translated():
            write_whole(path, contract)
        if variant.golden is None:
            _log.info(
                "%s %s %s has no golden pair: that it runs is all that can be tried",
                release.model, release.tag, variant.name,
            )  # fmt: skip
        blobs = {name: downloads.get(blob) for name, blob in _blobs(variant).items()}
        return {CONTRACT_FILE: path, **blobs}

    def _reject(self, release: "Release", failures: Mapping[str, ChildError]) -> RejectedError:
        before = self.state.rejected
        tries = 1
        if before is not None and self._is_same_trial(before, release.digest):
            tries = before.tries + 1
        until = None
        if any(error.passing for error in failures.values()):
            until = time.time() + min(_RETRY_SECONDS * 2.0 ** (tries - 1), MAX_RETRY_SECONDS)
        rejected = Rejection(
            digest=release.digest,
            version=release.version,
            reason="; ".join(f"{name}: {error}" for name, error in failures.items()),
            preference=self._preference,
            runtime=versions(),
            tries=tries,
            until=until,
        )
        self._folder.clear_downloads()
        self._remember(rejected=rejected)
        return self._rejection(rejected)

    def _switch(
        self, installed: InstalledModel, files: Mapping[str, Path], channel: "Channel"
    ) -> None:
        """Serve another model from now on; the one before is kept, unless it was withdrawn."""
        if installed.id in (self.state.active, self.state.previous):
            # Going back to a release that is still here: it is not touched unless it is damaged.
            self.state = self._folder.forget_damaged(self.state)
        if installed.id not in (self.state.active, self.state.previous):
            self._folder.install(installed, files)
        before = self._active()
        if before is None or before.id == installed.id:
            previous = self.state.previous
        else:
            previous = before.id if _still_counts(before, channel) else None
        self._remember(
            active=installed.id,
            previous=previous,
            preference=self._preference,
            held=None,
            rejected=None,
        )
        self._folder.clear_downloads()
        self._folder.sweep(self.state)


def _still_counts(installed: InstalledModel, channel: "Channel") -> bool:
    """Tell whether a channel serves an installed release, or has moved on from it."""
    known = {ref.index.digest: ref.version for ref in (channel.release, *channel.history)}
    forgotten = len(channel.history) == MAX_HISTORY and installed.version < min(known.values())
    return installed.digest in known or forgotten


def _blobs(variant: "Variant") -> "dict[str, Descriptor]":
    """Return what a variant consists of besides the contract, by the names of the files here."""
    blobs = {MODEL_FILE: variant.model, GOLDEN_FILE: variant.golden, SKETCH_FILE: variant.sketch}
    return {name: blob for name, blob in blobs.items() if blob is not None}


def _describe(release: "Release", variant: "Variant") -> InstalledModel:
    contract = release.contract.to_json()
    files = {name: StoredFile(blob.digest, blob.size) for name, blob in _blobs(variant).items()}
    return InstalledModel(
        model=release.model,
        version=release.version,
        digest=release.digest,
        variant=variant.name,
        files={**files, CONTRACT_FILE: StoredFile(digest_of(contract), len(contract))},
    )
