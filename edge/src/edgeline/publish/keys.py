"""Keys: made as files, and brought together as what one person or one machine can sign with.

    key = generate_key(Path("keys/release.pem"), passphrase)
    signers = Signers.load(["keys/release.pem", "envvar:ONLINE_KEY"], ask_passphrase)

A private key is an Ed25519 key in a PKCS#8 PEM file, encrypted when there is a passphrase. Its
public half lies beside it with the suffix `.pub`, to be handed to whoever adds it to a role; with
it there, the passphrase of an encrypted key is asked for only when that key has to sign.

ECDSA keys on the curve P-256 are taken, too, as HSMs and clouds have few of the other kind. They
stay where they are, and sign there; `import_from_hsm` fetches the public half.
"""

import getpass
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from securesystemslib.signer import (
    ECDSA_SHA2_NISTP256,
    ED25519,
    Key,
    Signature,
    Signer,
    SSlibKey,
)

from edgeline._files import create_whole, read_bounded
from edgeline._text import one_line, quoted
from edgeline.errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from securesystemslib.signer import CryptoSigner

# Takes the name of a key, returns its passphrase, or None when there is nobody to ask.
Passphrase: TypeAlias = Callable[[str], str | None]

PASSPHRASE_VARIABLE = "EDGELINE_PASSPHRASE"
PIN_VARIABLE = "EDGELINE_PIN"

_SCHEMES = (ED25519, ECDSA_SHA2_NISTP256)
_HSM = "hsm:"
_PIN = "pin"  # what securesystemslib calls the secret of an HSM

_ENVIRONMENT = "envvar:"
_PRIVATE = ".pem"
_PUBLIC = ".pub"
_KEY_ID_DIGITS = 64
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
    if file.suffix == _PUBLIC:
        raise RegistryError(f"{file} would be a public key's name; name private keys *{_PRIVATE}")
    for path in (file, file.with_suffix(_PUBLIC)):
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
    _create(file, pem, 0o600)
    _create(file.with_suffix(_PUBLIC), public, 0o644)


def read_public_key(file: Path) -> Key:
    """Read the public half of a key from its own PEM file, `*.pub`, or from beside a private key.

    Raises:
        RegistryError: the file cannot be read, or holds no public key that devices can use.
    """
    path = file if file.suffix != _PRIVATE else file.with_suffix(_PUBLIC)
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


def takes_cryptography(key: Key) -> bool:
    """Tell whether a device needs `edgeline[ecdsa]` to verify what the key signs."""
    return key.scheme != ED25519


def short(key_id: str) -> str:
    """Return a key's id as messages show it: its first 12 digits."""
    return key_id[:12]


def ask_passphrase(name: str) -> str | None:
    """Return the passphrase of the key `name` from EDGELINE_PASSPHRASE, or from the terminal.

    An HSM's secret, by the name "pin", comes from EDGELINE_PIN. Without either, there is None.
    """
    given = os.environ.get(PIN_VARIABLE if name == _PIN else PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        return None
    return getpass.getpass("PIN of the HSM: " if name == _PIN else f"Passphrase of {name}: ")


def import_from_hsm(uri: str, file: Path, passphrase: Passphrase = ask_passphrase) -> Key:
    """Write the public half of a key in an HSM to `file`, and return it.

    Args:
        uri: "hsm:<key id on the token>?label=<label of the token>", as securesystemslib has it.
        file: to write, named `*.pub`.
        passphrase: asked for the PIN where the token shows its public keys to nobody else.

    Raises:
        RegistryError: the key is not there, or of a kind that devices do not verify; or the file
            exists or cannot be written.
    """
    from securesystemslib.signer import HSMSigner

    address = urlsplit(uri)
    number, label = address.path, dict(parse_qsl(address.query)).get("label")
    if not uri.startswith(_HSM) or not (number.isdecimal() or not number):
        raise RegistryError(f"Expected an HSM's key such as 'hsm:2?label=TOKEN', got {quoted(uri)}")
    if file.suffix != _PUBLIC:
        raise RegistryError(f"{file} is to hold a public key; name it *{_PUBLIC}")
    try:
        _, key = HSMSigner.import_(
            int(number) if number else None, label, lambda name: _secret(name, passphrase)
        )
    except RegistryError:
        raise
    except Exception as error:
        # What a token's library raises is its own.
        raise RegistryError(
            f"No key can be read through {uri!r}: {said(error)}. PYKCS11LIB names the HSM's "
            "PKCS#11 library"
        ) from error
    _create(file, check_usable(key).keyval["public"].encode(), 0o644)
    return key


class Signers:
    """What a person or a machine can sign with. Made by `load`."""

    def __init__(
        self,
        signers: Iterable[Signer] = (),
        *,
        uris: dict[str, str] | None = None,
        passphrase: Passphrase = ask_passphrase,
    ) -> None:
        self._signers = {signer.public_key.keyid: signer for signer in signers}
        self._uris = dict(uris or {})
        self._passphrase = passphrase
        self._secrets: dict[str, str] = {}

    @classmethod
    def load(cls, uris: Sequence[str], passphrase: Passphrase = ask_passphrase) -> "Signers":
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
                signers += [_FileSigner(path, passphrase) for path in _key_files(Path(uri))]
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
            signer = self._open(self._uris[key.keyid], key)
            self._signers[key.keyid] = signer
        # One id for two keys is somebody's mistake, or a trick.
        return signer if signer is not None and signer.public_key.keyval == key.keyval else None

    def _open(self, uri: str, key: Key) -> Signer:
        try:
            return Signer.from_priv_key_uri(uri, key, self._secret)
        except Exception as error:
            # Each of securesystemslib's signers raises what the library under it does.
            raise RegistryError(
                f"Key {short(key.keyid)} cannot be used through {uri!r}: {said(error)}"
            ) from error

    def _secret(self, name: str) -> str:
        # An HSM asks again for each signature.
        if name not in self._secrets:
            self._secrets[name] = _secret(name, self._passphrase)
        return self._secrets[name]


class _FileSigner(Signer):
    """Signs with a PEM file's key, decrypted when it is first used."""

    def __init__(self, path: Path, passphrase: Passphrase) -> None:
        self._path = path
        self._passphrase = passphrase
        self._signer: CryptoSigner | None = None
        public = path.with_suffix(_PUBLIC)
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
                f"{self._path} and {self._path.with_suffix(_PUBLIC).name} beside it are not two "
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
            self._signer = _parse_private(
                read_key_file(self._path), str(self._path), self._passphrase
            )
        return self._signer


def _key_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(f"*{_PRIVATE}"))
    if not files:
        raise RegistryError(f"{path} holds no keys: expected files named *{_PRIVATE}")
    return files


def _from_environment(name: str, passphrase: Passphrase) -> Signer:
    pem = os.environ.get(name)
    if not pem:
        raise RegistryError(
            f"The environment variable {name!r} is not set; expected a private key in PEM"
        )
    return _parse_private(pem.encode(), f"{_ENVIRONMENT}{name}", passphrase)


def _parse_private(pem: bytes, name: str, passphrase: Passphrase) -> "CryptoSigner":
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
            raise _no_passphrase(name)
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


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, and sync it and its folder."""
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


def _is_key_id(text: str) -> bool:
    return len(text) == _KEY_ID_DIGITS and all(digit in "0123456789abcdef" for digit in text)


def _secret(name: str, passphrase: Passphrase) -> str:
    secret = passphrase(name)
    if secret is None:
        raise _no_passphrase(name)
    return secret


def said(error: BaseException) -> str:
    """Return what an error says; those of PKCS#11 say it by their names alone."""
    return one_line(error) if str(error) else type(error).__name__


def _no_passphrase(name: str) -> RegistryError:
    if name == _PIN:
        return RegistryError(
            f"The HSM wants a PIN: set {PIN_VARIABLE}, or run this on a terminal to be asked for it"
        )
    return RegistryError(
        f"The key {name} is protected by a passphrase: set {PASSPHRASE_VARIABLE}, or run this on a "
        "terminal to be asked for it"
    )
