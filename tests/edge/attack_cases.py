"""What can be done to a registry's metadata, and what every TUF client has to make of it.

`test_attacks.py` runs the cases against edgeline's own reader, and `tests/peers/test_tuf_js.py`
through a client that knows nothing of edgeline.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edgeline.errors import EdgelineError, ExpiredError, IntegrityError, TrustError
from edgeline.publish.repository import Expiry
from edgeline.publish.rollouts import begun, halted
from tests.edge.attacks import Document, Files, World, file_meta, newest, read

Step: TypeAlias = Callable[[World], None]


def _nothing(world: World) -> None:
    pass


def _restore(world: World) -> None:
    world.restore()


def _restore_with_another_online_key(world: World) -> None:
    world.restore()
    _new_online_key(world)


@dataclass(frozen=True)
class Case:
    """What happens to the registry, and what a client has to make of it.

    The client visits after `prepare`, unless `first_contact`; then comes the attack and the visit
    that counts; and then, after `recover`, the client has to accept the honest registry.
    """

    name: str
    attack: Step
    error: type[EdgelineError] | None = TrustError  # None: the client reads release `serves`
    serves: int = 0
    prepare: Step = _nothing
    recover: Step = _restore
    channel: str = "candidate"
    first_contact: bool = False
    by_memory: bool = False  # whether only who has seen the registry before can tell
    expiry: Expiry | None = None
    days: int = 0  # when the registry was made, in days from now

    def world(self, usual: World, folder: Path) -> World:
        """Return the registry before anything happens to it."""
        if self.expiry is None:
            return usual.copied_to(folder)
        return World(folder, expiry=self.expiry, days=self.days)


# The attacker has no key.


def _renew(role: str) -> Step:
    """Change something honestly, so that every client fetches the role anew."""

    def step(world: World) -> None:
        if role == "root":
            world.repository().rotate("root")
        elif role == "targets":
            world.repository().rotate("dogs-ci", add=[world.key("stranger-1")])
        else:
            world.publish(4)
        world.record()

    return step


def _replace(role: str, change: Callable[[Document], Document | bytes]) -> Step:
    """Change a role's file in transit, when something new is published."""

    def attack(world: World) -> None:
        _renew(role)(world)
        files = world.files()
        changed = change(read(files, role))
        data = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        world.serve({**files, newest(files, role): data})

    return attack


def _never_expires(document: Document) -> Document:
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    return document


def _unsigned(document: Document) -> Document:
    return {**document, "signatures": []}


def _garbled(document: Document) -> Document:
    for signature in document["signatures"]:
        signature["sig"] = "00" * 64
    return document


def _no_hex(document: Document) -> Document:
    for signature in document["signatures"]:
        signature["sig"] = "not hex"
    return document


def _leave_out(role: str) -> Step:
    def attack(world: World) -> None:
        _renew(role)(world)
        files = world.files()
        del files[newest(files, role)]
        world.serve(files)

    return attack


def _serve_older_copy(world: World) -> None:
    world.serve(world.recorded[-2])


def _name_old_file_as_new(role: str) -> Step:
    def attack(world: World) -> None:
        old = world.files()
        _renew(role)(world)
        files = world.files()
        world.serve({**files, newest(files, role): old[newest(old, role)]})

    return attack


def _snapshot_as_timestamp(world: World) -> None:
    """Both are signed by the same key."""
    files = world.files()
    world.serve({**files, "timestamp.json": files[newest(files, "snapshot")]})


def _timestamp_of_the_newer_copy(world: World) -> None:
    """New timestamp, and all else as it was before."""
    old = world.files()
    _renew("timestamp")(world)
    world.serve({**old, "timestamp.json": world.files()["timestamp.json"]})


def _longer_than_signed(world: World) -> None:
    _renew("snapshot")(world)
    files = world.files()
    name = newest(files, "snapshot")
    world.serve({**files, name: files[name] + b" " * 100_000})


# The attacker makes a root.


def _next_root(files: Files, *, skip: int = 0) -> tuple[str, Document]:
    root = read(files, "root")
    root["signed"]["version"] += 1 + skip
    return f"{root['signed']['version']}.root.json", root


def _root_signed_by(*names: str, skip: int = 0) -> Step:
    def attack(world: World) -> None:
        files = world.files()
        name, root = _next_root(files, skip=skip)
        _give_online_key(root, world, "stranger-1")
        world.serve({**files, name: world.sign(root, *names)})

    return attack


def _give_online_key(root: Document, world: World, name: str) -> None:
    key = world.key(name)
    root["signed"]["keys"][key.keyid] = key.to_dict()
    for role in ("snapshot", "timestamp"):
        root["signed"]["roles"][role]["keyids"] = [key.keyid]


def _one_signature_under_two_ids(world: World) -> None:
    files = world.files()
    name, root = _next_root(files)
    _give_online_key(root, world, "stranger-1")
    document = json.loads(world.sign(root, "root-1"))
    (signature,) = document["signatures"]
    document["signatures"].append({**signature, "keyid": world.key("root-2").keyid})
    world.serve({**files, name: json.dumps(document).encode()})


def _one_signature_twice(world: World) -> None:
    files = world.files()
    name, root = _next_root(files)
    _give_online_key(root, world, "stranger-1")
    document = json.loads(world.sign(root, "root-1"))
    document["signatures"] *= 2
    world.serve({**files, name: json.dumps(document).encode()})


def _own_root_keys(world: World) -> None:
    """A root that only its own new keys have signed."""
    files = world.files()
    name, root = _next_root(files)
    keys = [world.key("stranger-1"), world.key("stranger-2")]
    root["signed"]["keys"] |= {key.keyid: key.to_dict() for key in keys}
    root["signed"]["roles"]["root"]["keyids"] = [key.keyid for key in keys]
    world.serve({**files, name: world.sign(root, "stranger-1", "stranger-2")})


# The attacker has got hold of the online key, and maybe others.


def _forged(change: Callable[[World, Files], Files]) -> Step:
    def attack(world: World) -> None:
        world.serve(change(world, world.files()))

    return attack


def _old_snapshot(world: World) -> None:
    """Sign a newer timestamp of an older snapshot."""
    old, files = world.recorded[-2], world.files()
    name = newest(old, "snapshot")
    timestamp = read(files, "timestamp")
    timestamp["signed"]["version"] += 1
    timestamp["signed"]["meta"]["snapshot.json"] = file_meta(int(name.partition(".")[0]), old[name])
    world.serve({**files, name: old[name], "timestamp.json": world.sign(timestamp, "online")})


def _old_role(role: str) -> Step:
    """List, in a newer snapshot, an older file of a role."""

    def change(world: World, files: Files) -> Files:
        old = world.recorded[0]
        return world.forge(files, {role: old[newest(old, role)]})

    return _forged(change)


def _signed_by(role: str, key: str) -> Step:
    """Have a channel serve something else, signed by a key that is not the role's."""

    def change(world: World, files: Files) -> Files:
        document = read(files, role)
        document["signed"]["version"] += 1
        document["signed"]["targets"] = {
            path: {**target, "hashes": {"sha256": "ab" * 32}}
            for path, target in document["signed"]["targets"].items()
        }
        return world.forge(files, {role: world.sign(document, key)})

    return _forged(change)


def _targets_signed_by(key: str) -> Step:
    """Delegate a channel to the attacker, without the targets key."""

    def change(world: World, files: Files) -> Files:
        document = read(files, "targets")
        document["signed"]["version"] += 1
        stranger = world.key("stranger-1")
        document["signed"]["delegations"]["keys"][stranger.keyid] = stranger.to_dict()
        for role in document["signed"]["delegations"]["roles"]:
            role["keyids"] = [stranger.keyid]
        return world.forge(files, {"targets": world.sign(document, key)})

    return _forged(change)


def _ci_lists_production(world: World) -> None:
    """The CI role lists a channel that it is not in charge of, signed by its own key."""

    def change(world: World, files: Files) -> Files:
        document = read(files, "cells-ci")
        document["signed"]["version"] += 1
        target = document["signed"]["targets"]["cells/candidate"]
        document["signed"]["targets"]["cells/production"] = target
        return world.forge(files, {"cells-ci": world.sign(document, "cells-ci")})

    _forged(change)(world)


def _roll_out(world: World) -> None:
    """Roll out release 3 to a group of production's devices, honestly; the test's is in none."""
    edit = begun(world.releases[3], 0, ("lab",))
    world.repository("online", "cells-release").edit("cells", "production", edit)
    world.record()


def _roll_out_and_halt(world: World) -> None:
    _roll_out(world)
    world.repository("online", "cells-release").edit("cells", "production", halted(1))
    world.record()


def _the_share_before(world: World) -> None:
    """List, in a newer snapshot, what the release key signed before its last change."""
    old = world.recorded[-2]
    world.serve(world.forge(world.files(), {"cells-release": old[newest(old, "cells-release")]}))


def _a_larger_share(key: str) -> Step:
    def change(world: World, files: Files) -> Files:
        document = read(files, "cells-release")
        document["signed"]["version"] += 1
        document["signed"]["targets"]["cells/production"]["custom"]["rollout"]["share"] = 9999
        return world.forge(files, {"cells-release": world.sign(document, key)})

    return _forged(change)


def _roll_out_with_a_fleet(world: World) -> None:
    """Roll out release 3, with a key to enrol devices, and stranger-2 to halt."""
    keys = world.key("dogs-ci"), world.key("stranger-2")
    world.repository("targets", "online").add_fleet("cells", *keys)
    _roll_out(world)


def _stop(world: World) -> None:
    """Halt the rollout with the key that may do no more."""
    world.repository("stranger-2", "online").stop("cells", "production", 1)
    world.record()


def _roll_out_and_stop(world: World) -> None:
    _roll_out_with_a_fleet(world)
    _stop(world)


def _other_version(role: str, version: int) -> Step:
    """List a version of a role that its file does not have."""

    def change(world: World, files: Files) -> Files:
        name = newest(files, role)
        forged = world.forge(files, versions={role: version})
        return {**forged, f"{version}.{role}.json": files[name]}

    return _forged(change)


def _fast_forward(world: World) -> None:
    world.serve(
        world.forge(world.files(), versions={"snapshot": 900_000_000, "timestamp": 900_000_000})
    )


def _sign_far_ahead(world: World) -> None:
    """Sign what lasts for a century, and says that it was signed a day before it expires."""

    def change(document: Document) -> None:
        document["signed"]["expires"] = "2126-01-01T00:00:00Z"
        document["signed"]["x-edgeline-expiry-days"] = 1

    world.serve(world.forge(world.files(), change=change))


def _refresh_with_a_clock_that_is_ahead(world: World) -> None:
    with world.clock(days=365):
        world.repository("online").refresh()


# Honest changes, and honest recoveries.


def _new_online_key(world: World) -> None:
    """Replace the online key, starting from the newest metadata that was not the attacker's."""
    repository = world.repository("root-1", "root-2", "stranger-1", base=world.newest_honest)
    repository.rotate("online", add=[world.key("stranger-1")], remove=[world.key("online").keyid])
    world.record()


def _replace_the_stolen_online_key(world: World) -> None:
    _new_online_key(world)
    world.repository("stranger-1", "cells-ci").point("cells", "candidate", world.releases[1])


def _go_on_with_stolen_online_key(world: World) -> None:
    repository = world.repository("online", "cells-ci", base=world.newest_honest)
    repository.point("cells", "candidate", world.releases[1])
    world.record()


def _new_root_keys(world: World) -> None:
    repository = world.repository("root-1", "root-2", "stranger-1", "stranger-2")
    for new, old in (("stranger-1", "root-1"), ("stranger-2", "root-2")):
        repository.rotate("root", add=[world.key(new)], remove=[world.key(old).keyid])
    world.record()


def _new_targets_key(world: World) -> None:
    repository = world.repository("root-1", "root-2", "online", "stranger-1")
    repository.rotate("targets", add=[world.key("stranger-1")], remove=[world.key("targets").keyid])
    world.record()


def _new_ci_key(world: World) -> None:
    repository = world.repository("targets", "online", "stranger-1")
    repository.rotate(
        "cells-ci", add=[world.key("stranger-1")], remove=[world.key("cells-ci").keyid]
    )
    world.record()


def _then_publish(first: Step, *names: str) -> Step:
    """Make a change, and have the channel serve release 1 by somebody with these keys."""

    def step(world: World) -> None:
        first(world)
        world.repository(*names).point("cells", "candidate", world.releases[1])

    return step


def _with_online_key(name: str, attack: Step, **others: Any) -> Case:
    """A case that ends as it has to, with another online key."""
    return Case(name, attack, recover=_restore_with_another_online_key, **others)


def _accepted(name: str, change: Step, *, serves: int) -> Case:
    return Case(name, change, None, serves=serves, recover=_nothing)


def _expired(role: str, expiry: Expiry) -> Case:
    return Case(
        f"{role} has expired",
        _nothing,
        ExpiredError,
        first_contact=True,
        expiry=expiry,
        days=-3,
        recover=lambda world: world.refresh(),
    )


_ROLES = ("root", "timestamp", "snapshot", "targets", "cells-ci")
_HASHED = ("snapshot", "targets", "cells-ci")

_TAMPERED = tuple(
    Case(f"{role} {what}", _replace(role, change), error)
    for role in _ROLES
    for what, change, error in (
        ("is changed", _never_expires, TrustError),
        ("has no signature", _unsigned, TrustError),
        ("has garbled signatures", _garbled, TrustError),
        ("has signatures that are no hex", _no_hex, TrustError),
        ("is some other JSON", lambda _: b'{"a": 1}', TrustError),
        ("is half of JSON", lambda _: b'{"signed": {', IntegrityError),
        ("is nested without end", lambda _: b"[" * 100_000, IntegrityError),
        ("has a number of many digits", lambda _: b'{"a": %s}' % (b"9" * 200_000), IntegrityError),
        ("is not UTF-8", lambda _: b'{"\xff": 1}', IntegrityError),
        (
            "has no end",
            lambda document: json.dumps(document).encode() + b" " * 1_000_000,
            IntegrityError,
        ),
    )
)

_OLD_AND_NEW_MIXED = (
    Case("an older copy is passed off as new", _serve_older_copy, by_memory=True),
    *(
        Case(f"an older {role} is passed off as the newer one", _name_old_file_as_new(role))
        for role in ("root", *_HASHED)
    ),
    *(Case(f"{role} is missing", _leave_out(role), IntegrityError) for role in _ROLES[1:]),
    Case("timestamp is newer than the rest", _timestamp_of_the_newer_copy, IntegrityError),
    Case("snapshot is passed off as timestamp", _snapshot_as_timestamp),
    Case("snapshot is longer than signed", _longer_than_signed),
)

_ROOTS = (
    Case("root is signed by strangers", _root_signed_by("stranger-1", "stranger-2")),
    Case("root is signed by its own new keys only", _own_root_keys),
    Case("root is signed by one of two keys", _root_signed_by("root-1")),
    Case("root is signed by one key and a stranger", _root_signed_by("root-1", "stranger-1")),
    Case("root is signed by other roles' keys", _root_signed_by("targets", "online")),
    Case("root is signed once under two key ids", _one_signature_under_two_ids),
    Case("root is signed twice by one key", _one_signature_twice),
    Case(
        "root leaves a version out",
        _root_signed_by("root-1", "root-2", skip=1),
        None,
        serves=3,  # nobody looks at it
    ),
    Case(
        "root keys that were revoked sign root",
        _root_signed_by("root-1", "root-2"),
        prepare=_new_root_keys,
    ),
)

_WITH_THE_ONLINE_KEY = (
    _with_online_key("an older snapshot is under a new timestamp", _old_snapshot, by_memory=True),
    _with_online_key("an older role is in a new snapshot", _old_role("cells-ci"), by_memory=True),
    _with_online_key(
        "older targets are in a new snapshot",
        _old_role("targets"),
        prepare=_renew("targets"),
        by_memory=True,
    ),
    _with_online_key("a role has another version than listed", _other_version("cells-ci", 9)),
    _with_online_key(
        "a role is dropped from snapshot",
        _forged(lambda w, files: w.forge(files, drop="cells-ci")),
        by_memory=True,
    ),
    _with_online_key("the online key signs a channel", _signed_by("cells-ci", "online")),
    _with_online_key("the online key signs targets", _targets_signed_by("online")),
    Case("the online key was revoked by root", _forged(World.forge), prepare=_new_online_key),
    Case(
        "versions were fast-forwarded, and the key kept",
        _go_on_with_stolen_online_key,
        by_memory=True,
        prepare=_fast_forward,
        recover=_replace_the_stolen_online_key,
    ),
    Case(
        "the future was signed, and the key replaced",
        _replace_the_stolen_online_key,
        None,
        serves=1,
        prepare=_sign_far_ahead,
        recover=_nothing,
    ),
    Case(
        "a clock that was ahead signed, and was put right",
        lambda world: world.refresh(),
        None,
        serves=3,
        prepare=_refresh_with_a_clock_that_is_ahead,
        recover=_nothing,
    ),
    Case(
        "versions were fast-forwarded, and the key replaced",
        _replace_the_stolen_online_key,
        None,
        serves=1,
        prepare=_fast_forward,
        recover=_nothing,
    ),
)

_WITH_ANOTHER_ROLES_KEY = (
    _with_online_key(
        "the CI key signs production", _signed_by("cells-release", "cells-ci"), channel="production"
    ),
    _with_online_key(
        "another model's release key signs production",
        _signed_by("cells-release", "dogs-release"),
        channel="production",
    ),
    Case(
        "the CI role lists production",
        _ci_lists_production,
        None,
        serves=1,  # nobody asks that role
        channel="production",
    ),
    _with_online_key("another model's CI key signs candidate", _signed_by("cells-ci", "dogs-ci")),
    _with_online_key("the release key signs candidate", _signed_by("cells-ci", "cells-release")),
    _with_online_key("the CI key signs targets", _targets_signed_by("cells-ci")),
    _with_online_key(
        "the CI key signs snapshot", _forged(lambda w, files: w.forge(files, key="cells-ci"))
    ),
    _with_online_key(
        "the targets key signs snapshot", _forged(lambda w, files: w.forge(files, key="targets"))
    ),
    _with_online_key(
        "the CI key was revoked by targets",
        _signed_by("cells-ci", "cells-ci"),
        prepare=_new_ci_key,
    ),
    _with_online_key(
        "the targets key was revoked by root",
        _targets_signed_by("targets"),
        prepare=_new_targets_key,
    ),
)

_ROLLOUTS = (
    Case(
        "a halted rollout is brought back by an older copy",
        lambda world: world.serve(world.recorded[-2]),
        prepare=_roll_out_and_halt,
        by_memory=True,
    ),
    _with_online_key(
        "a halted rollout is brought back in a new snapshot",
        _the_share_before,
        prepare=_roll_out_and_halt,
        by_memory=True,
    ),
    _with_online_key(
        "the CI key grows a share",
        _a_larger_share("cells-ci"),
        channel="production",
        prepare=_roll_out,
    ),
    _with_online_key(
        "the online key grows a share",
        _a_larger_share("online"),
        channel="production",
        prepare=_roll_out,
    ),
    _with_online_key(
        "the halt key signs production",
        _signed_by("cells-release", "stranger-2"),
        channel="production",
        prepare=_roll_out_with_a_fleet,
    ),
    _with_online_key(
        "the halt key grows a share",
        _a_larger_share("stranger-2"),
        channel="production",
        prepare=_roll_out_with_a_fleet,
    ),
    _with_online_key(
        "what the halt key said is dropped",
        _forged(lambda w, files: w.forge(files, drop="cells-halt")),
        prepare=_roll_out_and_stop,
        by_memory=True,
    ),
    Case(
        "the halt key halts a rollout",
        _stop,
        None,
        serves=1,
        channel="production",
        prepare=_roll_out_with_a_fleet,
    ),
    Case(
        "a release is rolled out",
        _roll_out,
        None,
        serves=1,  # to who knows no rollouts
        channel="production",
    ),
)

_STANDING_STILL = (
    _expired("root", Expiry(root=1)),
    _expired("timestamp", Expiry(timestamp=1)),
    _expired("snapshot", Expiry(snapshot=1)),
    _expired("targets", Expiry(targets=1)),
    _expired("cells-ci", Expiry(delegated=1)),
)

_HONEST = (
    _accepted("nothing happens", _nothing, serves=3),
    _accepted("a release is published", _renew("cells-ci"), serves=4),
    _accepted("a channel is rolled back", lambda world: world.roll_back(), serves=1),
    _accepted("everything is signed anew", lambda world: world.refresh(), serves=3),
    _accepted("the root keys are replaced", _then_publish(_new_root_keys), serves=1),
    _accepted(
        "the online key is replaced",
        _then_publish(_new_online_key, "stranger-1", "cells-ci"),
        serves=1,
    ),
    _accepted("the targets key is replaced", _then_publish(_new_targets_key), serves=1),
    _accepted(
        "the CI key is replaced",
        _then_publish(_new_ci_key, "stranger-1", "online"),
        serves=1,
    ),
)

CASES = (
    *_TAMPERED,
    *_OLD_AND_NEW_MIXED,
    *_ROOTS,
    *_WITH_THE_ONLINE_KEY,
    *_WITH_ANOTHER_ROLES_KEY,
    *_ROLLOUTS,
    *_STANDING_STILL,
    *_HONEST,
)

FORGED = tuple(
    case for case in CASES if case.error in (TrustError, IntegrityError) and not case.by_memory
)
