"""Keys, brought together as what one person or one machine can sign with.

signers = Signers.load(["keys/release.pem", "envvar:ONLINE_KEY"], ask_secret)
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from securesystemslib.signer import ED25519, Key, Signer

from edgeline.errors import RegistryError
from edgeline.key_files import PRIVATE, FileSigner, Passphrase, parse_private
from edgeline.publish.held_keys import ask_secret, open_signer, require_secret

_ENVIRONMENT = "envvar:"
_KEY_ID_DIGITS = 64


def takes_cryptography(key: Key) -> bool:
    """Tell whether a device needs `edgeline[ecdsa]` to verify what the key signs."""
    return key.scheme != ED25519


class Signers:
    """What a person or a machine can sign with. Made by `load`."""

    def __init__(
        self,
        signers: Iterable[Signer] = (),
        *,
        uris: dict[str, str] | None = None,
        passphrase: Passphrase = ask_secret,
    ) -> None:
        self._signers = {signer.public_key.keyid: signer for signer in signers}
        self._uris = dict(uris or {})
        self._passphrase = passphrase
        self._secrets: dict[str, str] = {}

    @classmethod
    def load(cls, uris: Sequence[str], passphrase: Passphrase = ask_secret) -> "Signers":
        """Find the keys that `uris` name.

        Each is the path of a PEM file or of a folder with `*.pem` files, or "envvar:NAME" for a PEM
        in the environment, or "<key id>=<URI>" with a URI of securesystemslib, such as
        "hsm:2?label=release" for a key in an HSM.

        Raises:
            RegistryError: one of them does not exist, cannot be read, or holds no usable key, or
                its passphrase is wrong or missing.
        """
        signers: list[Signer] = []
        remote = {}
        for uri in uris:
            key_id, separator, address = uri.partition("=")
            if separator and _is_key_id(key_id):
                remote[key_id] = address
            elif uri.startswith(_ENVIRONMENT):
                signers.append(_from_environment(uri.removeprefix(_ENVIRONMENT), passphrase))
            else:
                signers += [FileSigner(path, passphrase) for path in _key_files(Path(uri))]
        return cls(signers, uris=remote, passphrase=passphrase)

    @property
    def public_keys(self) -> tuple[Key, ...]:
        """The keys whose public half is known: all but those given by id and URI."""
        return tuple(signer.public_key for signer in self._signers.values())

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return (*self._signers, *(key_id for key_id in self._uris if key_id not in self._signers))

    def for_key(self, key: Key) -> Signer | None:
        """Return what signs with `key`; None when it is not here.

        Raises:
            RegistryError: the URI given for the key does not lead to it.
        """
        signer = self._signers.get(key.keyid)
        if signer is None and key.keyid in self._uris:
            signer = open_signer(self._uris[key.keyid], key, self._secret)
            self._signers[key.keyid] = signer
        # One id for two keys is somebody's mistake, or a trick.
        return signer if signer is not None and signer.public_key.keyval == key.keyval else None

    def _secret(self, name: str) -> str:
        # An HSM asks again for each signature.
        if name not in self._secrets:
            self._secrets[name] = require_secret(name, self._passphrase)
        return self._secrets[name]


def _key_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(f"*{PRIVATE}"))
    if not files:
        raise RegistryError(f"{path} holds no keys: expected files named *{PRIVATE}")
    return files


def _from_environment(name: str, passphrase: Passphrase) -> Signer:
    pem = os.environ.get(name)
    if not pem:
        raise RegistryError(
            f"The environment variable {name!r} is not set; expected a private key in PEM"
        )
    return parse_private(pem.encode(), f"{_ENVIRONMENT}{name}", passphrase)


def _is_key_id(text: str) -> bool:
    return len(text) == _KEY_ID_DIGITS and all(digit in "0123456789abcdef" for digit in text)
