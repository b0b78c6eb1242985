"""Keys in PEM files: made, read, and signed with.

    key = generate_key(Path("keys/release.pem"), passphrase)
    signer = FileSigner(Path("keys/release.pem"))

A private key is an Ed25519 key in a PKCS#8 PEM file, encrypted when there is a passphrase. Its
public half lies beside it with the suffix `.pub`, to be handed to whoever adds it to a role; with
it there, the passphrase of an encrypted key is asked for only when that key has to sign.

ECDSA keys on the curve P-256 are taken, too, as HSMs and clouds have few of the other kind.
"""

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from securesystemslib.signer import (
    ECDSA_SHA2_NISTP256,
    ED25519,
    Key,
    Signature,
    Signer,
    SSlibKey,
)

from edgeline._files import create_whole, read_bounded
from edgeline._text import one_line
from edgeline.errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from securesystemslib.signer import CryptoSigner

# Takes the name of a key, returns its passphrase, or None when there is nobody to ask.
Passphrase: TypeAlias = Callable[[str], str | None]

PASSPHRASE_VARIABLE = "EDGELINE_PASSPHRASE"
PRIVATE = ".pem"
PUBLIC = ".pub"

_SCHEMES = (ED25519, ECDSA_SHA2_NISTP256)
_MAX_KEY_FILE = 1 << 16  # bytes


def generate_key(file: Path, passphrase: str | None) -> SSlibKey:
    """Make an Ed25519 key pair; return the public half, which is also written beside `file`.

    `file` is readable by its owner only, and on the disk when this returns.

    Raises:
        RegistryError: one of the two files exists or cannot be written, or the passphrase is empty.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    create_pair(file, private, passphrase)
    return SSlibKey.from_crypto(private.public_key())


def create_pair(
    file: Path, private: "Ed25519PrivateKey | X25519PrivateKey", passphrase: str | None
) -> None:
    """Write a private key to `file`, for its owner only, and the public half beside it.

    Raises:
        RegistryError: as `generate_key`.
    """
    from cryptography.hazmat.primitives import serialization

    if passphrase == "":
        raise RegistryError("A key's passphrase must not be empty; give none to leave it readable")
    if file.suffix == PUBLIC:
        raise RegistryError(f"{file} would be a public key's name; name private keys *{PRIVATE}")
    for path in (file, file.with_suffix(PUBLIC)):
        if os.path.lexists(path):
            raise _exists(path)
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    create_file(file, pem, 0o600)
    create_file(file.with_suffix(PUBLIC), public, 0o644)


def read_public_key(file: Path) -> Key:
    """Read the public half of a key from its own PEM file, `*.pub`, or from beside a private key.

    Raises:
        RegistryError: the file cannot be read, or holds no public key that devices can use.
    """
    path = file if file.suffix != PRIVATE else file.with_suffix(PUBLIC)
    return _parse_public(read_key_file(path), str(path))


def check_usable(key: Key) -> Key:
    """Return `key` when every device can verify what it signs.

    Raises:
        RegistryError: it is of another kind than Ed25519 and ECDSA P-256.
    """
    if key.scheme not in _SCHEMES:
        raise RegistryError(
            f"Key {short(key.keyid)} is of the kind {key.scheme[:40]!r}; devices verify Ed25519 "
            "and ECDSA on the curve P-256. Use a key that `edgeline registry keys` made, or one of "
            "these kinds of another signer"
        )
    return key


def short(key_id: str) -> str:
    """Return a key's id as messages show it: its first 12 digits."""
    return key_id[:12]


def ask_passphrase(name: str) -> str | None:
    """Return the passphrase of the key `name` from EDGELINE_PASSPHRASE, or from the terminal.

    Without either, there is None.
    """
    return ask(PASSPHRASE_VARIABLE, f"Passphrase of {name}: ")


def ask(variable: str, prompt: str) -> str | None:
    """Return a secret from the environment, or from the terminal; None when there is neither."""
    given = os.environ.get(variable)
    if given is not None:
        return given
    return getpass.getpass(prompt) if sys.stdin.isatty() else None


class FileSigner(Signer):
    """Signs with a PEM file's key, decrypted when it is first used.

    Raises:
        RegistryError: the file cannot be read, or holds no usable key.
    """

    def __init__(self, path: Path, passphrase: Passphrase = ask_passphrase) -> None:
        self._path = path
        self._passphrase = passphrase
        self._signer: CryptoSigner | None = None
        public = path.with_suffix(PUBLIC)
        if public != path and public.exists():
            self._public_key = _parse_public(read_key_file(public), str(public))
        else:
            self._public_key = self._load().public_key

    @property
    def public_key(self) -> Key:
        return self._public_key

    def sign(self, payload: bytes) -> Signature:
        signer = self._load()
        if signer.public_key != self._public_key:
            raise RegistryError(
                f"{self._path} and {self._path.with_suffix(PUBLIC).name} beside it are not two "
                "halves of one key. Remove the wrong one"
            )
        return signer.sign(payload)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None
    ) -> Signer:
        raise NotImplementedError("files are opened by path")

    def _load(self) -> "CryptoSigner":
        if self._signer is None:
            self._signer = parse_private(
                read_key_file(self._path), str(self._path), self._passphrase
            )
        return self._signer


def parse_private(pem: bytes, name: str, passphrase: Passphrase) -> "CryptoSigner":
    """Return what signs with a private key; `name` is its file's, for messages.

    Raises:
        RegistryError: it is no usable key, or its passphrase is wrong or missing.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from securesystemslib.signer import CryptoSigner

    try:
        signer = CryptoSigner(load_private(pem, name, passphrase))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(name, error) from error
    check_usable(signer.public_key)
    return signer


def load_private(pem: bytes, name: str, passphrase: Passphrase) -> "PrivateKeyTypes":
    """Decrypt a private key of any kind; `name` is its file's, for messages.

    Raises:
        RegistryError: it is none, or its passphrase is wrong or missing.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret = None
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem:
        secret = passphrase(name)
        if secret is None:
            raise no_passphrase(name)
    try:
        return load_pem_private_key(pem, None if secret is None else secret.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if secret is not None:
            raise RegistryError(
                f"The passphrase of {name} is wrong, or the key in it is damaged"
            ) from error
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> RegistryError:
    return RegistryError(
        f"{name} is no private key that can be used; expected PKCS#8 in PEM: {one_line(error)}"
    )


def _parse_public(pem: bytes, name: str) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RegistryError(
            f"{name} is no public key that can be used; expected PEM with 'BEGIN PUBLIC KEY'"
        ) from error
    return check_usable(key)


def read_key_file(path: Path) -> bytes:
    """Read a key's PEM file.

    Raises:
        RegistryError: it cannot be read, or is too large for a key.
    """
    try:
        return read_bounded(path, _MAX_KEY_FILE)
    except OSError as error:
        raise RegistryError(f"The key {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise RegistryError(f"{path} is too large for a key; expected a PEM file") from None


def create_file(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, and sync it and its folder.

    Raises:
        RegistryError: it exists, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"{path.parent} cannot be made a folder: {error.strerror}") from None
    try:
        create_whole(path, data, mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise RegistryError(f"The key {path} cannot be written: {error.strerror}") from None


def _exists(path: Path) -> RegistryError:
    return RegistryError(f"{path} exists, and keys are never overwritten. Choose another name")


def no_passphrase(name: str) -> RegistryError:
    """Return the error of a key whose passphrase nobody gives."""
    return RegistryError(
        f"The key {name} is protected by a passphrase: set {PASSPHRASE_VARIABLE}, or run this on a "
        "terminal to be asked for it"
    )
