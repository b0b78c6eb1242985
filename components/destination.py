"""How the components reach the edge model registry, by settings that travel to a step as text.

Keys are named, never handed over: a step opens them where it runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeline.errors import RegistryError
from edgeline.registry.store import Connection

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from edgeline.publish.keys import Signers
    from edgeline.publish.repository import Repository
    from edgeline.publish.store import WriteStore

RELEASE_FILE = "release.json"  # in the PushedModel artifact


@dataclass(frozen=True)
class Destination:
    """Where releases of a model go, and what they are signed with.

    Attributes:
        location: of the registry, a directory or "oci://host[:port]/repository".
        model: its name there.
        channel: that shall serve them.
        trusted_root: its content.
        keys: where the signing keys are, see `edgeline.publish.keys.Signers.load`.
        connection: how to reach a server.
    """

    location: str
    model: str
    channel: str
    trusted_root: bytes
    keys: tuple[str, ...]
    connection: Connection

    def open(self) -> Registry:
        """Opens the registry's store and finds the keys; reads no metadata yet.

        Raises:
            edgeline.errors.RegistryError: the location is malformed, or a key can't be found.
        """
        # Here, not above: a command that reads no registry needs no cryptography.
        from edgeline.publish.keys import Signers
        from edgeline.publish.repository import Repository
        from edgeline.publish.store import open_for_writing

        store = open_for_writing(self.location, self.connection)
        signers = Signers.load(self.keys, _passphrase)
        return Registry(store, Repository(store, root=self.trusted_root, signers=signers), signers)


@dataclass(frozen=True)
class Registry:
    """An open registry: its content, its signed metadata, and the keys at hand."""

    store: WriteStore
    repository: Repository
    signers: Signers

    def model_signers(self, model: str) -> list[Signer]:
        """The keys at hand that sign a model's `candidate` and `canary`.

        Raises:
            edgeline.errors.RegistryError: the metadata can't be read or trusted.
        """
        return self._signers(f"{model}-ci")

    def try_keys(self, model: str) -> None:
        """Has every key that a release takes sign something: a passphrase may be wrong.

        Raises:
            edgeline.errors.RegistryError: one of them can't.
        """
        for signer in self._signers(f"{model}-ci", "snapshot", "timestamp"):
            try:
                signer.sign(b"edgeline: a trial, which nobody verifies")
            except RegistryError:
                raise
            except Exception as error:  # What a KMS's library raises is its own.
                raise RegistryError(
                    f"key {signer.public_key.keyid[:12]} can't sign: {error}"
                ) from error

    def _signers(self, *roles: str) -> list[Signer]:
        keys = {
            key.keyid: key
            for role in self.repository.roles()
            if role.name in roles
            for key in role.keys
        }
        return [signer for key in keys.values() if (signer := self.signers.for_key(key))]


def _passphrase(name: str) -> str:
    """A run of an hour must not stop to ask."""
    from edgeline.key_files import PASSPHRASE_VARIABLE

    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if passphrase is None:
        raise RegistryError(
            f"the key {name} is protected by a passphrase, and a run does not stop to ask for it: "
            f"set {PASSPHRASE_VARIABLE}"
        )
    return passphrase
