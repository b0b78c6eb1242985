"""Sealing to the owner: what a device wraps up so that only the holder of one key can read it.

    generate_key(Path("keys/inbox.key"), passphrase)            # the owner, once
    sealed = seal_to(read_public_key(Path("inbox.pub")), data)  # a device
    data = Opener.load(Path("keys/inbox.key")).open(sealed)     # the owner

It is HPKE (RFC 9180) in its base mode, as the library `cryptography` implements it: X25519,
HKDF-SHA256 and ChaCha20-Poly1305, with a key of its own for each message. It hides, and says
nothing of who sealed it: that a signature inside does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeline._distribution import pip_install
from edgeline._text import one_line
from edgeline.errors import RegistryError, TrustError
from edgeline.key_files import Passphrase, ask_passphrase, create_pair, load_private, read_key_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hpke import Suite

SUFFIX = ".key"  # of the owner's private key

_INFO = b"edgeline sealed to the owner v1"


def generate_key(file: Path, passphrase: str | None) -> None:
    """Make an X25519 key pair in PEM files: `file`, named `*.key`, and beside it `*.pub`.

    Raises:
        RegistryError: the name has another suffix than `.key`, one of the two files exists or
            cannot be written, or the passphrase is empty.
    """
    # A folder's *.pem are keys that sign.
    if file.suffix != SUFFIX:
        raise RegistryError(f"{file} opens and does not sign: name it *{SUFFIX}")
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    create_pair(file, X25519PrivateKey.generate(), passphrase)


def read_public_key(file: Path) -> "X25519PublicKey":
    """Read the public half of the owner's key.

    Raises:
        RegistryError: the file cannot be read, or holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_key_file(file))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, X25519PublicKey):
        raise RegistryError(
            f"{file} is no key to seal to; expected the *.pub that `edgeline registry fleet "
            "inbox-key` made"
        )
    return key


def seal_to(owner: "X25519PublicKey", data: bytes) -> bytes:
    """Encrypt bytes to the owner; 48 bytes more."""
    return _suite().encrypt(data, owner, _INFO)


class Opener:
    """Opens what was sealed to a key."""

    def __init__(self, private: "X25519PrivateKey") -> None:
        self._private = private

    @classmethod
    def load(cls, file: Path, passphrase: Passphrase = ask_passphrase) -> "Opener":
        """Read the owner's private key.

        Raises:
            RegistryError: the file cannot be read, or holds something else, or the passphrase is
                wrong or missing.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        private = load_private(read_key_file(file), str(file), passphrase)
        if not isinstance(private, X25519PrivateKey):
            raise RegistryError(
                f"{file} is no key that opens anything; expected the *.key that `edgeline registry "
                "fleet inbox-key` made"
            )
        return cls(private)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt what `seal_to` made.

        Raises:
            TrustError: it was sealed to another key, or changed since.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return _suite().decrypt(sealed, self._private, _INFO)
        except (InvalidTag, ValueError) as error:
            raise TrustError(
                "It cannot be opened with this key: it was sealed to another one, or is damaged"
                f"{one_line(f' ({error})') if str(error) else ''}"
            ) from None


def _suite() -> "Suite":
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    except ImportError:
        raise RegistryError(
            "Images are sealed to their owner, for which `cryptography` 47 or later is missing: "
            f"{pip_install('examples')}"
        ) from None
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
