"""Changing what a registry vouches for: which release a channel serves, and whose keys count.

    root = initialize(store, keys, signers)              # once; devices are given this root
    repository = Repository(store, root=root, signers=signers)
    repository.point("cells", "candidate", release)
    repository.refresh()                                 # regularly, before signatures expire

Each change reads the newest metadata, verifies it from the pinned root, changes and signs it, and
stores it on the condition that nobody else did meanwhile; if somebody did, it starts over on what
is there now. No change is lost, and nothing is signed that was not verified.
"""

import copy
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from securesystemslib.signer import Key
from tuf.api.metadata import Delegations, Metadata, Root, Targets

from edgeline.errors import ConflictError, IntegrityError, NotFoundError, RegistryError, TrustError
from edgeline.publish.keys import Signers
from edgeline.publish.metadata import MetadataSet, RoleStatus
from edgeline.publish.roles import (
    DEFAULT_EXPIRY,
    ONLINE,
    Expiry,
    Keys,
    ModelKeys,
    first_root,
    rotate_delegated,
    rotate_root,
    set_expiry,
    with_fleet,
    with_model,
)
from edgeline.publish.rollouts import Edit, halted, pointed, rolled_back
from edgeline.publish.root_signing import RootDraft
from edgeline.publish.signatures import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TOP_LEVEL,
    renew,
)
from edgeline.publish.store import WriteStore
from edgeline.registry.bundle import Channel, expiry_days, halted_in
from edgeline.registry.format import (
    CHANNELS,
    MAX_EXPIRY_DAYS,
    MAX_MANIFEST,
    OCI_INDEX,
    TUF_TAG,
    Descriptor,
    ReleaseRef,
    check_digest,
    check_model,
    fleet_path,
    fleet_role,
    halt_path,
)
from edgeline.telemetry.report import Fleet

__all__ = ["Expiry", "Keys", "ModelKeys", "Repository", "initialize"]

_ATTEMPTS = 10
_PAUSE = 0.1  # seconds, doubled at each attempt
_LONGEST_PAUSE = 3.0  # seconds

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def initialize(
    store: WriteStore, keys: Keys, signers: Signers, expiry: Expiry = DEFAULT_EXPIRY
) -> bytes:
    """Make a store a registry, and return its first root: what everybody is to trust it by.

    `signers` needs the keys of root, targets and online. Those of models are not needed before
    something is published.

    Raises:
        RegistryError: the store is a registry already, a key is missing or of the wrong kind, or a
            name, number or time does not make sense.
        ConflictError: somebody else initialized it at the same time.
    """
    days = asdict(expiry)
    _check_days(days)
    root = first_root(keys)
    delegations = Delegations({}, {})
    for model, model_keys in keys.models.items():
        delegations = with_model(delegations, model, model_keys)
    with store.exclusive():
        metadata = MetadataSet.create(store, root, Targets(delegations=delegations), days)
        metadata.check_can_sign([ROOT, TARGETS, SNAPSHOT, TIMESTAMP], signers)
        metadata.commit(signers)
        return metadata.root_file()


class Repository:
    """A registry's metadata, to be changed by whoever holds the keys.

    Each method raises RegistryError where the metadata cannot be trusted, there is no such model,
    channel or role, or keys are missing; and each that changes something ConflictError when others
    kept changing the metadata meanwhile. Their docstrings list what else they raise.

    Args:
        store: Where the registry is.
        root: The root that the registry is trusted by: the newest, or any older one.
        signers: What is at hand to sign with.
        base: The tag of the bundle to start from, when the newest was spoiled by somebody who had
            got hold of the online key. Only for `rotate`; see docs/registry-trust.md.
    """

    def __init__(
        self, store: WriteStore, *, root: bytes, signers: Signers, base: str = TUF_TAG
    ) -> None:
        self.store = store
        self._root = root
        self._signers = signers
        self._base = base
        self._seen: dict[str, int] = {}
        self._verified: MetadataSet | None = None  # the newest that was read, as it was read

    def channel(self, model: str, channel: str) -> Channel | None:
        """Return what a channel serves now; None when it never served anything."""
        return self._load().channel(check_model(model), _check_channel(channel))

    def channels(self) -> list[Channel]:
        """Return every channel that serves something, sorted."""
        return self._load().channels()

    def roles(self) -> list[RoleStatus]:
        """Return every role with its keys and the time until which its signature lasts."""
        return self._load().status()

    def root(self) -> bytes:
        """Return the newest root, for new devices to be given."""
        return self._load().root_file()

    def check_can_sign(self, model: str, channel: str) -> None:
        """Check, before any work is done, that the keys at hand can change a channel."""
        metadata = self._load()
        role = metadata.role_of(check_model(model), _check_channel(channel))
        metadata.check_can_sign([role, SNAPSHOT, TIMESTAMP], self._signers)

    def point(self, model: str, channel: str, release: ReleaseRef) -> Channel:
        """Have a channel serve a release; what it served before heads its history.

        Raises:
            RegistryError: the reference is malformed.
        """
        wanted = _check_release(release)

        def make(current: Channel | None) -> Channel:
            if current is None:
                return Channel(model, channel, wanted)
            return current if current.release == wanted else pointed(current, wanted)

        return self._change_channel(model, channel, make)

    def edit(self, model: str, channel: str, edit: Edit) -> Channel:
        """Change a channel that serves something, such as its rollout: see `publish.rollouts`.

        Raises:
            RegistryError: it serves nothing yet; or what `edit` raises.
        """

        def make(current: Channel | None) -> Channel:
            if current is None:
                raise NotFoundError(
                    f"{model}/{channel} serves nothing yet. Promote what all devices are to have"
                )
            return edit(current)

        return self._change_channel(model, channel, make)

    def rollback(self, model: str, channel: str, to: int | None = None) -> Channel:
        """Have a channel serve what it served before, or version `to` of its history.

        To devices it is a change like any other, with higher version numbers. The releases that
        are rolled back from leave the history, so that the next rollback goes further back.

        Raises:
            RegistryError: it served nothing (or not `to`) before.
            ConflictError: somebody else changed the channel, or kept changing other metadata.
        """
        plan: list[Channel] = []  # the state that was first seen, and what it is to become

        def edit(current: Channel) -> Channel:
            if not plan:
                plan.extend((current, rolled_back(current, to)))
            if current not in plan:
                raise ConflictError(
                    f"Somebody else changed {channel} of {model} meanwhile. Look at it again"
                )
            return plan[1]

        return self.edit(model, channel, edit)

    def refresh(self) -> list[RoleStatus]:
        """Sign anew what would expire; return the roles that were signed and until when they last.

        Snapshot and timestamp always; other roles when less than a third of their time is left and
        their keys are at hand. `roles` tells which are left.
        """

        def change(metadata: MetadataSet) -> list[str]:
            names = [SNAPSHOT, TIMESTAMP]
            metadata.check_can_sign(names, self._signers)
            for status in metadata.status():
                if status.name in names or not status.needs_signing:
                    continue
                if self._can_sign(metadata, status.name):
                    names.append(status.name)
            for name in names:
                if name == ROOT:
                    self._propose_root(metadata, lambda _: None, None)
                else:
                    metadata.touch(name)
            return names

        names, metadata = self._update_and_return(change)
        return [metadata.status_of(name) for name in names]

    def add_model(self, model: str, keys: ModelKeys) -> None:
        """Let the holders of `keys` publish a model.

        Raises:
            RegistryError: the model is there already, or the name or a key is malformed.
        """

        def change(metadata: MetadataSet) -> None:
            if model in metadata.models():
                raise RegistryError(f"Model {model!r} is there already. To change its keys, rotate")
            metadata.set_delegations(with_model(metadata.targets.delegations, model, keys))

        self._update(change)

    def add_fleet(self, model: str, fleet: Key, halt: Key) -> None:
        """Let a key enrol devices whose reports on a model count, and another halt its rollouts.

        Raises:
            RegistryError: it has these roles, or a key is of the wrong kind or signs something else
                for the model.
        """

        def change(metadata: MetadataSet) -> None:
            delegations = metadata.targets.delegations
            metadata.set_delegations(with_fleet(delegations, check_model(model), fleet, halt))

        self._update(change)

    def fleet(self, model: str) -> Fleet:
        """Return whose reports on a model count."""
        metadata = self._load()
        try:
            status = metadata.status_of(fleet_role(check_model(model)))
        except NotFoundError:
            raise NotFoundError(
                f"No key is there to enrol devices of {model!r}: give it one with `edgeline "
                "registry fleet init`"
            ) from None
        return Fleet(status.keys, _revoked(metadata, model))

    def revoke(self, model: str, devices: Collection[str]) -> None:
        """Have devices' reports on a model count no more."""

        def change(metadata: MetadataSet) -> None:
            before = _revoked(metadata, check_model(model))
            together = before | set(devices)
            if together != before:
                metadata.set_note(fleet_path(model), {"revoked": sorted(together)})

        self._update(change)

    def stop(self, model: str, channel: str, number: int) -> None:
        """Halt a rollout with the key that may do no more than that.

        Devices then go back to what the channel serves to all, as after `publish.rollouts.halted`.
        """
        check_model(model), _check_channel(channel)

        def change(metadata: MetadataSet) -> None:
            current = metadata.channel(model, channel)
            if current is None or halted(number)(current) == current:
                return
            halts = halted_in(metadata.note(halt_path(model)))
            metadata.set_note(halt_path(model), {"halted": {**halts, channel: number}})

        self._update(change)

    def rotate(
        self,
        role: str,
        *,
        add: Sequence[Key] = (),
        remove: Collection[str] = (),
        threshold: int | None = None,
        draft: Path | None = None,
    ) -> RootDraft | None:
        """Change who signs for a role: "root", "targets", "online" or one such as "cells-ci".

        The first three are changed by a new root, which enough of the present and of the new root
        keys have to sign. When the keys at hand are too few, `draft` is written for their holders,
        and returned; `apply_draft` then completes the change. Without any change, what the role
        signs is signed anew, with its full time ahead.

        Args:
            role: Whose keys to change.
            add: Public keys that shall count.
            remove: Ids of keys that shall not.
            threshold: How many of the keys have to sign; as many as before if not given.
            draft: Where to write the new root when signatures are missing.

        Raises:
            RegistryError: the change makes no sense.
        """

        if role in (SNAPSHOT, TIMESTAMP):
            raise RegistryError(
                f"Snapshot and timestamp share their keys: change their keys as {ONLINE!r}"
            )

        def change(metadata: MetadataSet) -> RootDraft | None:
            if role != ROOT and not add and not remove and threshold is None:
                for name in (SNAPSHOT, TIMESTAMP) if role == ONLINE else (role,):
                    metadata.touch(name)
                return None
            if role not in (ROOT, TARGETS, ONLINE):
                metadata.status_of(role)  # there is such a role
                metadata.set_delegations(
                    rotate_delegated(metadata.targets, role, add, remove, threshold)
                )
                return None
            return self._propose_root(
                metadata, lambda root: rotate_root(root, role, add, remove, threshold), draft
            )

        return self._write_draft(self._update(change), draft)

    def set_expiry(
        self, days: Mapping[str, int] = MappingProxyType({}), *, draft: Path | None = None
    ) -> RootDraft | None:
        """Have root say for how long each top-level role's signatures last.

        A role that is not named keeps its time. So does each in a registry of before root said it,
        up to what `Expiry` has by default: without `days`, this brings it up to date.

        Args:
            days: For "root", "targets", "snapshot" or "timestamp", how many.
            draft: Where to write the new root when signatures are missing; see `rotate`.

        Raises:
            RegistryError: a role or a number makes no sense.
        """
        if not days.keys() <= TOP_LEVEL.keys():
            raise RegistryError(f"Root says it for {', '.join(TOP_LEVEL)}; got {', '.join(days)}")
        _check_days(days)

        def change(metadata: MetadataSet) -> RootDraft | None:
            wanted = {role: days.get(role) or metadata.days_of(role) for role in TOP_LEVEL}
            roles = metadata.root.roles
            if wanted == {role: expiry_days(roles[role].unrecognized_fields) for role in wanted}:
                return None
            return self._propose_root(metadata, lambda root: set_expiry(root, wanted), draft)

        return self._write_draft(self._update(change), draft)

    def apply_draft(self, path: Path) -> None:
        """Make a root that enough people have signed the registry's root.

        The keys at hand are added to the signatures. They also have to sign what the new root
        makes necessary: with new online or targets keys, the metadata of these roles.

        Raises:
            RegistryError: the file is no draft, or the root was changed since it was written.
        """
        given = RootDraft.read(path)

        def change(metadata: MetadataSet) -> None:
            if metadata.root == given.proposed.signed:
                return  # an earlier attempt went through
            if metadata.root != given.previous:
                raise RegistryError(
                    f"{path} was written for version {given.previous.version} of root, and the "
                    f"registry is at version {metadata.root.version}. Write the draft anew"
                )
            draft = RootDraft(given.roots, copy.deepcopy(given.proposed))
            draft.sign(self._signers)
            if draft.missing:
                raise RegistryError(f"{path} is not complete: {'; '.join(draft.missing)}")
            metadata.set_root(draft.proposed)

        self._update(change)

    def _change_channel(
        self, model: str, channel: str, make: Callable[[Channel | None], Channel]
    ) -> Channel:
        """Have a channel be what `make` makes of it."""
        check_model(model), _check_channel(channel)

        def change(metadata: MetadataSet) -> Channel:
            current = metadata.channel(model, channel)
            changed = make(current)
            if changed != current:
                metadata.set_channel(changed)
            return changed

        return self._update(change)

    def _propose_root(
        self, metadata: MetadataSet, edit: Callable[[Root], None], draft: Path | None
    ) -> RootDraft | None:
        """Change the root; return it as a draft when signatures are missing and one is wanted."""
        root = copy.deepcopy(metadata.root)
        root.version += 1
        edit(root)
        renew(root, expiry_days(root.roles[ROOT].unrecognized_fields) or metadata.days_of(ROOT))
        result = RootDraft(tuple(metadata.roots()), Metadata(root))
        result.sign(self._signers)
        if not result.missing:
            metadata.set_root(result.proposed)
            return None
        if draft is None:
            raise RegistryError(
                f"The new root needs more signatures: {'; '.join(result.missing)}. "
                "Give these keys, or have a draft written for their holders to sign"
            )
        return result

    def _write_draft(self, result: RootDraft | None, draft: Path | None) -> RootDraft | None:
        if result is not None and draft is not None:
            result.write(draft)
        return result

    def _can_sign(self, metadata: MetadataSet, role: str) -> bool:
        try:
            metadata.check_can_sign([role], self._signers)
        except RegistryError:
            return False
        return True

    def _load(self) -> MetadataSet:
        """Read the metadata; verify it, unless it is the very same as the last time."""
        if self._verified is not None and self._verified.is_newest():
            return self._verified
        metadata = MetadataSet.load(self.store, self._root, self._base)
        versions = metadata.versions
        for role, version in self._seen.items():
            if versions.get(role, 0) < version:
                raise TrustError(
                    f"{self.store.location} went back from version {version} of {role} to "
                    f"{versions.get(role, 0)} while it was worked on. Somebody restored an older "
                    "copy of it, or tries to pass one off as new"
                )
        self._seen = versions
        self._verified = metadata if self._base == TUF_TAG else None
        return metadata

    def _update(self, change: Callable[[MetadataSet], _Result]) -> _Result:
        return self._update_and_return(change)[0]

    def _update_and_return(
        self, change: Callable[[MetadataSet], _Result]
    ) -> tuple[_Result, MetadataSet]:
        """Apply a change to the newest metadata, over again when somebody else was faster."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                # Jitter, or two who collided once would go on colliding.
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE, _PAUSE * 2**attempt)))
            with self.store.exclusive():
                metadata = self._load()
                self._verified = None  # for it is about to be changed
                result = change(metadata)
                if not metadata.changed:
                    return result, metadata
                try:
                    metadata.commit(self._signers)
                except ConflictError as error:
                    _log.info("%s. Starting over (attempt %d)", error, attempt + 1)
                    continue
            self._base = TUF_TAG
            return result, metadata
        raise ConflictError(
            f"Others kept changing {self.store.location}: gave up after {_ATTEMPTS} attempts. "
            "Nothing was changed; try again"
        )


def _revoked(metadata: MetadataSet, model: str) -> frozenset[str]:
    target = metadata.note(fleet_path(model))
    named = (target.custom or {}).get("revoked") if target else []
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise IntegrityError(f"{fleet_path(model)} is malformed: expected a list of devices")
    return frozenset(named)


def _check_days(days: Mapping[str, int]) -> None:
    if not all(type(value) is int and 0 < value <= MAX_EXPIRY_DAYS for value in days.values()):
        raise RegistryError(f"Signatures last 1 to {MAX_EXPIRY_DAYS} days; got {dict(days)}")


def _check_channel(channel: str) -> str:
    if channel not in CHANNELS:
        raise RegistryError(
            f"There is no channel {str(channel)[:80]!r}; there are {', '.join(CHANNELS)}"
        )
    return channel


def _check_release(release: ReleaseRef) -> ReleaseRef:
    index = release.index
    if release.version < 1 or not 0 < index.size <= MAX_MANIFEST:
        raise RegistryError(f"Not a release: version {release.version} of {index.size} bytes")
    return ReleaseRef(
        release.version, Descriptor(OCI_INDEX, check_digest(index.digest), index.size)
    )
