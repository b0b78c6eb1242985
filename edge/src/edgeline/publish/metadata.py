"""A registry's TUF metadata as its publishers hold it: verified, changed, signed, and stored.

A `MetadataSet` is read from a store and verified from a pinned root before anybody sees it: the
chain of roots, thresholds of signatures, hashes and versions. That something has expired is no
fault here, since signing it anew is what its publishers are for. Changes are made on the set in
memory; `commit` signs what they touched, snapshot and timestamp included, and stores a new bundle
of which all that was not touched stays byte for byte. Nothing is written when a key is missing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgeline._json import dump_canonical
from edgeline.errors import IntegrityError, NotFoundError, RegistryError, TrustError
from edgeline.key_files import short
from edgeline.publish.keys import Signers
from edgeline.publish.recovery import files_to_start_from
from edgeline.publish.roles import DEFAULT_EXPIRY
from edgeline.publish.signatures import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TOP_LEVEL,
    add_signatures,
    check_root,
    is_ending,
    is_signed,
    now,
    parse,
    parse_root,
    renew,
    verifying,
)
from edgeline.publish.store import WriteStore
from edgeline.registry.bundle import (
    EXPIRY_FIELD,
    MAX_VERSION,
    Bundle,
    Channel,
    bundle_document,
    channel_of,
    custom_of,
    exceeds,
    expiry_days,
    file_name,
    is_channel_path,
    read_bundle,
    read_file,
    with_halts,
)
from edgeline.registry.format import (
    EMPTY_CONFIG,
    MAX_MANIFEST,
    MAX_TUF_METADATA,
    OCI_MANIFEST,
    TUF_METADATA,
    TUF_TAG,
    Descriptor,
    halt_path,
)

_DELEGATED_EXPIRY_FIELD = "x-edgeline-delegated-expiry-days"  # in targets, for the roles below it


@dataclass(frozen=True)
class RoleStatus:
    """A role as it stands: who signs it, and until when what they signed is good."""

    name: str
    version: int  # 0: nothing was signed yet
    expires: datetime | None
    days: int  # how long a signature lasts
    is_bounded: bool  # whether the role above says so
    threshold: int
    keys: tuple[Key, ...]

    @property
    def needs_signing(self) -> bool:
        """Whether less than a third of the role's time is left."""
        if self.expires is None:
            return False
        return is_ending(self.expires, self.days)

    def is_too_long(self, at: datetime) -> bool:
        """Whether it expires later than anything that was signed by the time `at` may."""
        return self.expires is not None and exceeds(self.expires, at, self.days)


class MetadataSet:
    """All metadata of a registry. Made by `load`, or by `create` for a registry to be."""

    def __init__(
        self,
        store: WriteStore,
        files: Mapping[str, Descriptor],
        expected: Mapping[str, str | None],
    ) -> None:
        self._store = store
        self._files = dict(files)
        self._expected = expected
        self._roles: dict[str, Metadata[Any]] = {}  # delegated ones once they are looked at
        self._new: set[str] = set()  # roles that were never signed
        self._changed: set[str] = set()
        self._new_root: Metadata[Root] | None = None

    @classmethod
    def load(cls, store: WriteStore, root: bytes, tag: str = TUF_TAG) -> "MetadataSet":
        """Read the bundle that `tag` names, and verify it from the pinned `root` on.

        When it is not the newest, roots that are newer than it are taken over from the newest.

        Raises:
            NotFoundError: there is no such bundle.
            IntegrityError: it is damaged or incomplete.
            TrustError: it is not what the keys of `root`, and of the roots that follow it, signed.
        """
        bundle = read_bundle(store, tag)
        if tag == TUF_TAG:
            metadata = cls(store, bundle.files, {TUF_TAG: bundle.digest})
        else:
            metadata = cls(store, *files_to_start_from(store, bundle, root))
        metadata._load_root(root)
        metadata._load_top_level()
        metadata._check_complete(bundle)
        return metadata

    @classmethod
    def create(
        cls, store: WriteStore, root: Root, targets: Targets, days: Mapping[str, int]
    ) -> "MetadataSet":
        """Start the metadata of a registry; `days` tells how long each role and "delegated" last.

        Raises:
            RegistryError: the store is a registry already.
        """
        if any(tag == TUF_TAG or tag.startswith(f"{TUF_TAG}-") for tag in store.tags()):
            raise RegistryError(
                f"{store.location} is a registry already. To change its keys, rotate them; if its "
                "newest metadata was lost, recover it as docs/registry-trust.md tells"
            )
        metadata = cls(store, {}, {TUF_TAG: None})
        parts: tuple[Signed, ...] = (root, targets, Snapshot(), Timestamp())
        for signed in parts:
            root.roles[signed.type].unrecognized_fields[EXPIRY_FIELD] = days[signed.type]
            metadata._add(signed.type, signed)
        targets.unrecognized_fields[_DELEGATED_EXPIRY_FIELD] = days["delegated"]
        return metadata

    @property
    def root(self) -> Root:
        """The root that counts: the new one, once there is one."""
        return self._signed(ROOT, Root)

    @property
    def targets(self) -> Targets:
        """The top-level targets."""
        return self._signed(TARGETS, Targets)

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._changed)

    def is_newest(self) -> bool:
        """Tell whether the registry's newest bundle is still the one that this was read from.

        Raises:
            NotFoundError: there is no bundle any more.
            IntegrityError: it is damaged.
        """
        return self._expected.get(TUF_TAG) == read_bundle(self._store).digest

    @property
    def versions(self) -> dict[str, int]:
        """The version of every role."""
        files = self._signed(SNAPSHOT, Snapshot).meta
        top = {role: self._roles[role].signed.version for role in (ROOT, SNAPSHOT, TIMESTAMP)}
        return top | {name.removesuffix(".json"): file.version for name, file in files.items()}

    def delegated_roles(self) -> list[DelegatedRole]:
        """Return the roles that sign channels."""
        delegations = self.targets.delegations
        return list((delegations.roles or {}).values()) if delegations else []

    def models(self) -> list[str]:
        """Return the models that roles are there for, sorted."""
        return sorted({path.partition("/")[0] for path in self.paths()})

    def paths(self) -> list[str]:
        """Return the paths of all channels that roles are there for, sorted."""
        paths = (path for role in self.delegated_roles() for path in role.paths or ())
        return sorted(set(filter(is_channel_path, paths)))

    def role_of(self, model: str, channel: str) -> str:
        """Return the role that signs a channel.

        Raises:
            NotFoundError: there is none.
        """
        path = f"{model}/{channel}"
        for role in self.delegated_roles():
            if role.is_delegated_path(path):
                return role.name
        have = [path.partition("/")[2] for path in self.paths() if path.startswith(f"{model}/")]
        if have:
            raise NotFoundError(
                f"Model {model!r} has no channel {channel!r}; it has {', '.join(have)}"
            )
        raise NotFoundError(
            f"{self._store.location} has no model {model!r}; it has "
            f"{', '.join(self.models()) or 'none'}. Whoever holds the targets key can add one"
        )

    def channel(self, model: str, channel: str) -> Channel | None:
        """Return what a channel serves, None when it never served anything.

        Raises:
            NotFoundError: no role is there for the channel.
            IntegrityError: the role's metadata is damaged or malformed.
            TrustError: it is not signed as it should be.
        """
        path = f"{model}/{channel}"
        role = self._delegated(self.role_of(model, channel))
        target = role.targets.get(path) if role else None
        return with_halts(channel_of(path, target), self.note(halt_path(model))) if target else None

    def channels(self) -> list[Channel]:
        """Return every channel that serves something, sorted.

        Raises:
            IntegrityError: a role's metadata is damaged or malformed.
            TrustError: it is not signed as it should be.
        """
        found: dict[str, Channel] = {}
        roles = self.delegated_roles()
        for role in roles:
            signed = self._delegated(role.name)
            for path, target in signed.targets.items() if signed else ():
                # Of several roles for a path, the first one is in charge, signed or not.
                responsible = next((r for r in roles if r.is_delegated_path(path)), None)
                if responsible is role and is_channel_path(path):
                    channel = channel_of(path, target)
                    found[path] = with_halts(channel, self.note(halt_path(channel.model)))
        return [found[path] for path in sorted(found)]

    def set_channel(self, channel: Channel) -> None:
        """Make a channel serve a release."""
        index = channel.release.index
        sha256 = index.digest.removeprefix("sha256:")
        self._set_target(channel.path, index.size, sha256, custom_of(channel))

    def note(self, path: str) -> TargetFile | None:
        """Return a target that is no channel, None when nobody signed it yet or may.

        Raises:
            IntegrityError: the role's metadata is damaged or malformed.
            TrustError: it is not signed as it should be.
        """
        role = next((role for role in self.delegated_roles() if role.is_delegated_path(path)), None)
        signed = self._delegated(role.name) if role else None
        return signed.targets.get(path) if signed else None

    def set_note(self, path: str, custom: Mapping[str, Any]) -> None:
        """Have the role that is in charge of a path say something there.

        Raises:
            NotFoundError: there is no such role.
        """
        self._set_target(path, 0, hashlib.sha256(b"").hexdigest(), custom)

    def touch(self, role: str) -> None:
        """Have `commit` sign a role anew, or for the first time. Root is changed with `set_root`.

        Raises:
            NotFoundError: there is no such role.
        """
        self._definition(role)
        if role not in TOP_LEVEL and self._delegated(role) is None:
            self._add_delegated(role)
        self._changed.add(role)

    def set_root(self, root: Metadata[Root]) -> None:
        """Replace the root, and have signed anew what the new one asks for.

        Raises:
            TrustError: it does not follow the present root, or signatures are missing.
        """
        previous = self._roles[ROOT]
        check_root(root, previous.signed)
        self._new_root = self._roles[ROOT] = root
        self._changed.add(ROOT)
        for role in (TARGETS, SNAPSHOT, TIMESTAMP):
            if not is_signed(self._roles[role], role, root.signed):
                self._changed.add(role)
        for role in (SNAPSHOT, TIMESTAMP):
            if self.status_of(role).is_too_long(now()):
                self._changed.add(role)

    def set_delegations(self, delegations: Delegations) -> None:
        """Give the channels' roles other keys, and have signed anew what that asks for."""
        known = [role.name for role in self.delegated_roles() if self._delegated(role.name)]
        self.targets.delegations = delegations
        self._changed.add(TARGETS)
        for name in known:
            if not is_signed(self._roles[name], name, self.targets):
                self._changed.add(name)

    def status(self) -> list[RoleStatus]:
        """Return every role's status: the top-level ones, then those that sign channels."""
        names = [*TOP_LEVEL, *(role.name for role in self.delegated_roles())]
        return [self.status_of(name) for name in names]

    def status_of(self, name: str) -> RoleStatus:
        """Return the status of one role."""
        role, keys = self._definition(name)
        signed = self._roles[name].signed if name in TOP_LEVEL else self._delegated(name)
        return RoleStatus(
            name=name,
            version=signed.version if signed else 0,
            expires=signed.expires if signed else None,
            days=self.days_of(name),
            is_bounded=self._bound_of(name) is not None,
            threshold=role.threshold,
            keys=tuple(keys[key_id] for key_id in role.keyids if key_id in keys),
        )

    def days_of(self, name: str) -> int:
        """Return for how many days a role's signatures last: what the role above it has signed.

        In a registry of before edgeline wrote that there, roles say it themselves, and are believed
        up to what is usual: whoever stole the online key could say anything.
        """
        bound = self._bound_of(name)
        if bound is not None:
            return bound
        usual: int = getattr(DEFAULT_EXPIRY, name if name in TOP_LEVEL else "delegated")
        signed = self._roles[name].signed if name in self._roles else None
        said = expiry_days(signed.unrecognized_fields) if signed else None
        return min(said or usual, usual)

    def check_can_sign(self, roles: Iterable[str], signers: Signers) -> None:
        """Check that the keys at hand suffice for the roles.

        Raises:
            RegistryError: keys are missing; the message names roles and keys.
        """
        for name in roles:
            role, keys = self._definition(name)
            known = [key_id for key_id in role.keyids if key_id in keys]
            here = [key_id for key_id in known if signers.for_key(keys[key_id])]
            if len(here) < role.threshold:
                raise _missing(name, role, here, signers)

    def commit(self, signers: Signers) -> None:
        """Sign what was changed, and store it as the registry's newest bundle.

        Raises:
            RegistryError: a key is missing or does not sign, or a role's metadata is too large.
            ConflictError: somebody else stored a bundle since this one was read.
        """
        self._mark_dependents()
        self.check_can_sign(sorted(self._changed - {ROOT}), signers)
        if ROOT in self._new:
            self._sign(ROOT, signers)
        elif self._new_root:
            self._store_file(ROOT, self._new_root)
        for name in sorted(self._changed - set(TOP_LEVEL)):
            self._update_snapshot(name, self._sign(name, signers))
        if TARGETS in self._changed:
            self._update_snapshot(TARGETS, self._sign(TARGETS, signers))
        if SNAPSHOT in self._changed:
            data = self._sign(SNAPSHOT, signers)
            version = self._signed(SNAPSHOT, Snapshot).version
            meta = MetaFile.from_data(version, data, ["sha256"])
            self._signed(TIMESTAMP, Timestamp).snapshot_meta = meta
        if TIMESTAMP in self._changed:
            self._sign(TIMESTAMP, signers)
        self._publish()

    def root_file(self) -> bytes:
        """Return the present root as it is stored."""
        return self._read(file_name(ROOT, self.root.version))

    def roots(self) -> list[Metadata[Root]]:
        """Return the chain of roots from the oldest that is stored."""
        names = (file_name(ROOT, version) for version in range(1, self.root.version + 1))
        return [parse(self._read(name), ROOT) for name in names if name in self._files]

    def _load_root(self, pinned: bytes) -> None:
        root = parse_root(pinned)
        name = file_name(ROOT, root.signed.version)
        if name not in self._files or parse(self._read(name), ROOT).signed != root.signed:
            raise TrustError(
                f"{self._store.location} is another registry than the one that the given root "
                f"belongs to, or an older copy of it: its {name} is not that root. Check which "
                "root.json was given"
            )
        while (name := file_name(ROOT, root.signed.version + 1)) in self._files:
            following = parse(self._read(name), ROOT)
            check_root(following, root.signed)
            root = following
        self._roles[ROOT] = root

    def _load_top_level(self) -> None:
        timestamp = self._load(TIMESTAMP, file_name(TIMESTAMP, 0), self.root)
        meta = timestamp.signed.snapshot_meta
        snapshot = self._load(SNAPSHOT, file_name(SNAPSHOT, meta.version), self.root, meta)
        meta = snapshot.signed.meta.get(f"{TARGETS}.json")
        if meta is None:
            raise TrustError("The registry's snapshot does not list targets.json")
        self._load(TARGETS, file_name(TARGETS, meta.version), self.root, meta)

    def _load(
        self, role: str, name: str, delegator: Root | Targets, meta: MetaFile | None = None
    ) -> Metadata[Any]:
        data = self._read(name)
        with verifying(name):
            if meta is not None:
                meta.verify_length_and_hashes(data)
            metadata = parse(data, role)
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        if meta is not None and metadata.signed.version != meta.version:
            raise TrustError(f"{name} holds version {metadata.signed.version} of {role}")
        self._roles[role] = metadata
        return metadata

    def _check_complete(self, bundle: Bundle) -> None:
        """Check that the bundle holds every file that snapshot lists, and no other in its place."""
        for listed, meta in self._signed(SNAPSHOT, Snapshot).meta.items():
            name = file_name(listed.removesuffix(".json"), meta.version)
            layer = bundle.files.get(name)
            hashes = meta.hashes or {}
            if layer is None or layer.digest != f"sha256:{hashes.get('sha256')}":
                raise IntegrityError(
                    f"The registry's metadata is incomplete: {name[:100]} is missing, or not the "
                    "one that snapshot lists. Restore it from a copy of the registry"
                )

    def _delegated(self, name: str) -> Targets | None:
        """Return what a delegated role has signed, verified; None when it never did."""
        if name not in self._roles:
            meta = self._signed(SNAPSHOT, Snapshot).meta.get(f"{name}.json")
            if meta is None:
                return None
            self._load(name, file_name(name, meta.version), self.targets, meta)
        return self._signed(name, Targets)

    def _set_target(self, path: str, size: int, sha256: str, custom: Mapping[str, Any]) -> None:
        name = self.role_of(*path.split("/"))
        role = self._delegated(name) or self._add_delegated(name)
        fields = {"custom": dict(custom)}
        role.targets[path] = TargetFile(size, {"sha256": sha256}, path, fields)
        self._changed.add(name)

    def _bound_of(self, name: str) -> int | None:
        """Return for how many days a role may sign, None if the role above does not say it."""
        if name in TOP_LEVEL:
            return expiry_days(self.root.roles[name].unrecognized_fields)
        return expiry_days(self.targets.unrecognized_fields, _DELEGATED_EXPIRY_FIELD)

    def _add_delegated(self, name: str) -> Targets:
        targets = Targets()
        self._add(name, targets)
        return targets

    def _add(self, role: str, signed: Signed) -> None:
        self._roles[role] = Metadata(signed)
        self._new.add(role)
        self._changed.add(role)

    def _read(self, name: str) -> bytes:
        layer = self._files.get(name)
        if layer is None:
            raise IntegrityError(
                f"The registry's metadata is incomplete: {name[:100]} is missing. "
                "Restore it from a copy of the registry"
            )
        return read_file(self._store, name, layer)

    def _definition(self, name: str) -> tuple[Role, Mapping[str, Key]]:
        if name in TOP_LEVEL:
            return self.root.roles[name], self.root.keys
        delegations = self.targets.delegations
        if delegations is None or not delegations.roles or name not in delegations.roles:
            names = [*TOP_LEVEL, *(role.name for role in self.delegated_roles())]
            raise NotFoundError(f"There is no role {name!r}; there are {', '.join(names)}")
        return delegations.roles[name], delegations.keys

    def _signed(self, role: str, kind: type[Any]) -> Any:
        signed = self._roles[role].signed
        assert isinstance(signed, kind)  # _parse saw to it
        return signed

    def _mark_dependents(self) -> None:
        """Mark snapshot when a file that it lists changes, and timestamp when snapshot does."""
        if self._changed - {ROOT, SNAPSHOT, TIMESTAMP}:
            self._changed.add(SNAPSHOT)
        if SNAPSHOT in self._changed:
            self._changed.add(TIMESTAMP)

    def _update_snapshot(self, role: str, data: bytes) -> None:
        version = self._roles[role].signed.version
        meta = MetaFile.from_data(version, data, ["sha256"])
        self._signed(SNAPSHOT, Snapshot).meta[f"{role}.json"] = meta

    def _sign(self, name: str, signers: Signers) -> bytes:
        metadata = self._roles[name]
        if name not in self._new:
            del self._files[file_name(name, metadata.signed.version)]
            metadata.signed.version += 1
        renew(metadata.signed, self.days_of(name))
        if self._bound_of(name) is not None:
            metadata.signed.unrecognized_fields.pop(EXPIRY_FIELD, None)
        metadata.signatures.clear()
        role, keys = self._definition(name)
        add_signatures(metadata, [keys[key_id] for key_id in role.keyids], signers)
        if not is_signed(metadata, name, self.root if name in TOP_LEVEL else self.targets):
            raise RegistryError(f"What signs for role {name!r} made signatures that do not verify")
        return self._store_file(name, metadata)

    def _store_file(self, role: str, metadata: Metadata[Any]) -> bytes:
        data = metadata.to_bytes()
        if len(data) > MAX_TUF_METADATA:
            raise RegistryError(
                f"The metadata of {role} would have {len(data)} bytes; devices read at most "
                f"{MAX_TUF_METADATA}"
            )
        if metadata.signed.version > MAX_VERSION:
            raise RegistryError(
                f"The version of {role} would be {metadata.signed.version}; devices take at most "
                f"{MAX_VERSION}. Somebody with its key drove it up: see the recovery in "
                "docs/registry-trust.md"
            )
        name = file_name(role, metadata.signed.version)
        self._files[name] = self._store.put_blob(data, TUF_METADATA, limit=MAX_TUF_METADATA)
        return data

    def _publish(self) -> None:
        config = self._store.put_blob(b"{}", EMPTY_CONFIG, limit=MAX_MANIFEST)
        manifest = dump_canonical(bundle_document(config, self._files))
        if len(manifest) > MAX_MANIFEST:
            raise RegistryError(
                f"The registry's metadata would have a manifest of {len(manifest)} bytes; devices "
                f"read at most {MAX_MANIFEST}. Spread the models over several registries"
            )
        bundle = self._store.put_manifest(manifest, OCI_MANIFEST)
        version = self._signed(TIMESTAMP, Timestamp).version
        tags = [(f"{TUF_TAG}-{version}", bundle), (TUF_TAG, bundle)]
        self._store.commit(tags, expected=self._expected)


def _missing(name: str, role: Role, here: Iterable[str], signers: Signers) -> RegistryError:
    wanted = ", ".join(map(short, role.keyids))
    usable = ", ".join(map(short, here)) or "none of them"
    given = ", ".join(map(short, signers.key_ids)) or "no key"
    return RegistryError(
        f"Role {name!r} is signed by {role.threshold} of the keys {wanted}; given was {given}, "
        f"and so {usable}. Give the keys that are missing, or ask who holds them"
    )
