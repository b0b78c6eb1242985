"""Whose signatures count for what, in a registry to be and when keys change.

Root, targets, snapshot and timestamp are what TUF calls top-level roles; for every model, targets
leaves the channels candidate and canary to the role `<model>-ci`, and production to
`<model>-release` alone.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, Targets

from edgeline.errors import RegistryError
from edgeline.key_files import check_usable, short
from edgeline.publish.signatures import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from edgeline.registry.bundle import EXPIRY_FIELD
from edgeline.registry.format import (
    CHANNELS,
    check_model,
    fleet_path,
    fleet_role,
    halt_path,
    halt_role,
    signing_roles,
)

ONLINE = "online"  # what snapshot and timestamp are called together: they share their keys


@dataclass(frozen=True)
class ModelKeys:
    """Who signs a model's channels."""

    ci: Key  # candidate and canary
    release: Key  # production


@dataclass(frozen=True)
class Keys:
    """The keys of a registry to be."""

    root: tuple[Key, ...]
    targets: Key
    online: Key
    models: Mapping[str, ModelKeys]
    root_threshold: int = 2


@dataclass(frozen=True)
class Expiry:
    """How long signatures last, in days. Root says it, and targets for the delegated roles."""

    root: int = 365
    targets: int = 365
    delegated: int = 365
    snapshot: int = 30
    timestamp: int = 30


DEFAULT_EXPIRY = Expiry()


def first_root(keys: Keys) -> Root:
    """Return the root of a registry to be.

    Raises:
        RegistryError: a key is of the wrong kind or there twice, or the threshold makes no sense.
    """
    root = Root()
    _set_keys(root, ROOT, keys.root, keys.root_threshold)
    _set_keys(root, TARGETS, [keys.targets], 1)
    _set_keys(root, SNAPSHOT, [keys.online], 1)
    _set_keys(root, TIMESTAMP, [keys.online], 1)
    return root


def with_model(delegations: Delegations | None, model: str, keys: ModelKeys) -> Delegations:
    """Return delegations with the roles of a model more.

    Raises:
        RegistryError: the name is malformed, or a key is of the wrong kind or there twice.
    """
    *early, production = (f"{check_model(model)}/{name}" for name in CHANNELS)
    ci, release = signing_roles(model)
    wanted = {ci: (keys.ci, early), release: (keys.release, [production])}
    return _with_roles(delegations, model, wanted)


def with_fleet(delegations: Delegations | None, model: str, fleet: Key, halt: Key) -> Delegations:
    """Return delegations with the roles for a model's devices: who enrols, and who may halt.

    Raises:
        RegistryError: there is no such model, it has them already, or a key is of the wrong kind
            or signs something else for the model.
    """
    if delegations is None or signing_roles(model)[0] not in (delegations.roles or {}):
        raise RegistryError(f"There is no model {model!r}: add it first")
    wanted = {
        fleet_role(model): (fleet, [fleet_path(model)]),
        halt_role(model): (halt, [halt_path(model)]),
    }
    return _with_roles(delegations, model, wanted)


def rotate_root(
    root: Root, role: str, add: Sequence[Key], remove: Collection[str], threshold: int | None
) -> None:
    """Change the keys of root, targets or online.

    Raises:
        RegistryError: the change makes no sense, or a key is of the wrong kind.
    """
    for name in (SNAPSHOT, TIMESTAMP) if role == ONLINE else (role,):
        _rotate(root, name, add, remove, threshold)


def set_expiry(root: Root, days: Mapping[str, int]) -> None:
    """Have root say for how many days the signatures of roles last."""
    root.unrecognized_fields.pop(EXPIRY_FIELD, None)  # where it was said before
    for name, number in days.items():
        root.roles[name].unrecognized_fields[EXPIRY_FIELD] = number


def rotate_delegated(
    targets: Targets, role: str, add: Sequence[Key], remove: Collection[str], threshold: int | None
) -> Delegations:
    """Return the delegations of `targets` with other keys for a role that is among them.

    Raises:
        RegistryError: the change makes no sense, or a key is of the wrong kind.
    """
    changed = copy.deepcopy(targets)
    _rotate(changed, role, add, remove, threshold)
    assert changed.delegations is not None
    _check_apart(changed.delegations, role.rpartition("-")[0])
    return changed.delegations


def _rotate(
    delegator: Root | Targets,
    name: str,
    add: Sequence[Key],
    remove: Collection[str],
    threshold: int | None,
) -> None:
    role = delegator.get_delegated_role(name)
    for key_id in remove:
        if key_id not in role.keyids:
            raise RegistryError(
                f"Key {short(key_id)} does not sign for {name}; its keys are "
                f"{', '.join(map(short, role.keyids))}"
            )
    for key in add:
        if key.keyid in role.keyids:
            raise RegistryError(f"Key {short(key.keyid)} signs for {name} already")
    kept = [delegator.get_key(key_id) for key_id in role.keyids if key_id not in remove]
    _check_keys(name, [*kept, *add], role.threshold if threshold is None else threshold)
    for key_id in remove:
        delegator.revoke_key(key_id, name)
    for key in add:
        delegator.add_key(key, name)
    if threshold is not None:
        role.threshold = threshold


def _with_roles(
    delegations: Delegations | None, model: str, wanted: Mapping[str, tuple[Key, list[str]]]
) -> Delegations:
    """Return delegations with more roles of a model, by their names: a key and paths for each."""
    delegations = copy.deepcopy(delegations) or Delegations({}, {})
    assert delegations.roles is not None  # as edgeline makes them
    for name, (key, paths) in wanted.items():
        if name in delegations.roles:
            raise RegistryError(f"Role {name!r} is there already. To change its keys, rotate")
        check_usable(key)
        delegations.roles[name] = DelegatedRole(name, [key.keyid], 1, True, paths)
        delegations.keys[key.keyid] = key
    _check_apart(delegations, model)
    return delegations


def _check_apart(delegations: Delegations, model: str) -> None:
    """Check that whoever publishes a model has no key to promote it with."""
    roles = delegations.roles or {}
    known = (*signing_roles(model), fleet_role(model), halt_role(model))
    names = [name for name in known if name in roles]
    keys = [str(delegations.keys[key_id].keyval) for name in names for key_id in roles[name].keyids]
    if len(set(keys)) != len(keys):
        raise RegistryError(
            f"The roles of {model} ({', '.join(names)}) must not share a key: whoever publishes a "
            "model would also promote it, or whoever may only halt"
        )


def _set_keys(root: Root, name: str, keys: Sequence[Key], threshold: int) -> None:
    _check_keys(name, keys, threshold)
    root.roles[name] = Role([key.keyid for key in keys], threshold)
    root.keys |= {key.keyid: key for key in keys}


def _check_keys(name: str, keys: Sequence[Key], threshold: int) -> None:
    for key in keys:
        check_usable(key)
    # By their value: one key under two ids would count for two signatures.
    if len({str(key.keyval) for key in keys}) != len(keys):
        raise RegistryError(f"Role {name!r} was given the same key twice")
    if not 1 <= threshold <= len(keys):
        raise RegistryError(
            f"Role {name!r} would need {threshold} signatures and have {len(keys)} keys; "
            "expected at least one signature and no more than there are keys"
        )
