"""The parts of TUF metadata, for publishers: read strictly, verified, and signed.

Expiry is nowhere looked at here: what has expired is what publishers have to sign anew.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from edgeline._json import parse_object
from edgeline._text import one_line
from edgeline.errors import IntegrityError, RegistryError, TrustError
from edgeline.key_files import short
from edgeline.publish.held_keys import said
from edgeline.publish.keys import Signers

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
TOP_LEVEL: dict[str, type[Signed]] = {
    ROOT: Root,
    TARGETS: Targets,
    SNAPSHOT: Snapshot,
    TIMESTAMP: Timestamp,
}
_KEY_ID = re.compile(r"[0-9A-Za-z_.:+=/-]{1,200}")
_ROLE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def now() -> datetime:
    """Return the time that counts when metadata is signed."""
    return datetime.now(timezone.utc)


def renew(signed: Signed, days: int) -> None:
    """Set when what is about to be signed expires."""
    signed.expires = now() + timedelta(days=days)


def is_ending(expires: datetime, days: int) -> bool:
    """Tell whether less than a third is left of the `days` that a signature lasts."""
    return expires - now() < timedelta(days=days) / 3


def parse(data: bytes, role: str) -> Metadata[Any]:
    """Read metadata, strictly, of one role's type.

    Raises:
        IntegrityError: it is no JSON object.
        TrustError: it is no metadata, or that of another type.
    """
    name = role if role in TOP_LEVEL else TARGETS
    try:
        parse_object(data)
    except ValueError as error:
        raise IntegrityError(f"The metadata of {role[:80]} is broken JSON: {error}") from None
    with verifying(f"The metadata of {role[:80]}"):
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    if not isinstance(metadata.signed, TOP_LEVEL[name]):
        raise TrustError(f"The metadata of {role[:80]} is that of {metadata.signed.type}")
    _check_names(metadata.signed, role)
    return metadata


def parse_root(pinned: bytes) -> Metadata[Root]:
    """Read a root that is trusted because its user says so; it has to be signed by itself.

    Raises:
        IntegrityError: it is no JSON object.
        TrustError: it is no root, or not signed by its own keys.
    """
    root = parse(pinned, ROOT)
    with verifying("The root that the registry is trusted by"):
        root.signed.verify_delegate(ROOT, root.signed_bytes, root.signatures)
    return root


def check_root(root: Metadata[Root], previous: Root) -> None:
    """Check that a root follows another, by the numbers and by the signatures.

    Raises:
        TrustError: it does not.
    """
    if root.signed.version != previous.version + 1:
        raise TrustError(
            f"Expected version {previous.version + 1} of root, got {root.signed.version}"
        )
    with verifying(f"Version {root.signed.version} of root"):
        for delegator in (previous, root.signed):
            delegator.verify_delegate(ROOT, root.signed_bytes, root.signatures)


def verify_root_chain(roots: Sequence[Metadata[Root]], pinned: bytes) -> None:
    """Check that a chain of roots leads from the pinned one to the last.

    Raises:
        TrustError: it does not.
    """
    trusted: Root = parse_root(pinned).signed
    found = False
    for root in roots:
        if root.signed.version == trusted.version and root.signed == trusted:
            found = True
        elif root.signed.version == trusted.version + 1 and found:
            check_root(root, trusted)
            trusted = root.signed
    if roots[-1].signed != trusted:
        raise TrustError(
            "The given root does not lead to the one that is to be replaced. This is for another "
            "registry, or somebody made it up"
        )


def _check_names(signed: Signed, role: str) -> None:
    """Check that key ids and role names can be shown, and role names be file names."""
    keys: Iterable[str] = ()
    names: Iterable[str] = ()
    if isinstance(signed, Root):
        keys = [*signed.keys, *(key for role in signed.roles.values() for key in role.keyids)]
    elif isinstance(signed, Targets) and signed.delegations:
        roles = signed.delegations.roles or {}
        keys, names = signed.delegations.keys, roles
    if not all(map(_KEY_ID.fullmatch, keys)) or not all(map(_ROLE.fullmatch, names)):
        raise TrustError(
            f"The metadata of {role[:80]} has names for keys or roles that edgeline would not give "
            "them. Some other tool has signed it"
        )


def is_signed(metadata: Metadata[Any], role: str, delegator: Root | Targets) -> bool:
    """Tell whether a role's metadata is signed as its delegator demands."""
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError:
        return False
    return True


def add_signatures(metadata: Metadata[Any], keys: Iterable[Key], signers: Signers) -> None:
    """Sign with those of `keys` that are at hand.

    Raises:
        RegistryError: a key is at hand and does not sign, or what was given for it signs with
            another.
    """
    for key in keys:
        signer = signers.for_key(key)
        if signer is None:
            continue
        try:
            signature = metadata.sign(signer, append=True)
            key.verify_signature(signature, metadata.signed_bytes)
        except UnverifiedSignatureError as error:
            # Not for somebody to find out later: a KMS signs with whatever key a URI names.
            raise RegistryError(
                f"What was given for key {short(key.keyid)} signs with another key. Check its URI, "
                "and a key version in it. Nothing was changed"
            ) from error
        except UnsignedMetadataError as error:
            cause = error.__cause__
            if isinstance(cause, RegistryError):
                raise cause from None
            raise RegistryError(
                f"Key {short(key.keyid)} did not sign: {said(cause or error)}. Nothing was changed"
            ) from error


@contextmanager
def verifying(name: str) -> Iterator[None]:
    """Turn the TUF library's objections to `name` into a TrustError."""
    try:
        yield
    except RepositoryError as error:
        raise TrustError(f"{name} cannot be trusted: {one_line(error)}") from error
