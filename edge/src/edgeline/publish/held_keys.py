"""Keys that an HSM or a KMS holds and never hands out: fetched by half, and signed with there.

    uri, key = import_key("hv:release", Path("keys/release.pub"))
    signer = open_signer(uri, key, secret)

securesystemslib speaks to each of them; what is said of a URI here is what it takes.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from securesystemslib.signer import ED25519, Key, Signer

from edgeline._text import one_line, quoted
from edgeline.errors import RegistryError
from edgeline.key_files import (
    PUBLIC,
    Passphrase,
    ask,
    ask_passphrase,
    check_usable,
    create_file,
    no_passphrase,
    read_public_key,
    short,
)

PIN_VARIABLE = "EDGELINE_PIN"

_PIN = "pin"  # what securesystemslib calls the secret of an HSM


@dataclass(frozen=True)
class _Form:
    """What a URI has to look like."""

    pattern: str
    example: str

    def check(self, uri: str) -> None:
        """Check that a URI has this form.

        Raises:
            RegistryError: it has not.
        """
        if not re.fullmatch(self.pattern, uri):
            raise RegistryError(f"Expected a key such as {self.example!r}, got {quoted(uri)}")


@dataclass(frozen=True)
class _Holder:
    """A kind of HSM or KMS."""

    imports: _Form  # of the URI by which a public half is fetched
    signs: _Form  # of the URI that signs
    library: str  # without which it is not spoken to
    extra: str  # of edgeline, which brings the library
    fetch: Callable[[str, Passphrase], tuple[str, Key]]
    hint: str  # where it is looked for, and what it has to hold

    def check_installed(self) -> None:
        """Check that the library is there.

        Raises:
            RegistryError: it is not.
        """
        if find_spec(self.library) is None:
            raise RegistryError(
                f"For keys such as {self.signs.example!r}, {self.library} is missing: "
                f"pip install 'edgeline-registry[{self.extra}]'"
            )


def ask_secret(name: str) -> str | None:
    """Return a key's passphrase as `ask_passphrase` does; of an HSM's, "pin", from EDGELINE_PIN."""
    if name == _PIN:
        return ask(PIN_VARIABLE, "PIN of the HSM: ")
    return ask_passphrase(name)


def require_secret(name: str, passphrase: Passphrase) -> str:
    """Return a key's passphrase, or an HSM's secret.

    Raises:
        RegistryError: nobody gives it.
    """
    secret = passphrase(name)
    if secret is None and name == _PIN:
        raise RegistryError(
            f"The HSM wants a PIN: set {PIN_VARIABLE}, or run this on a terminal to be asked for it"
        )
    if secret is None:
        raise no_passphrase(name)
    return secret


def import_key(uri: str, file: Path, passphrase: Passphrase = ask_secret) -> tuple[str, Key]:
    """Write the public half of a key in an HSM or a KMS to `file`.

    Args:
        uri: "hsm:<key id on the token>?label=<label of the token>"; "hv:<name>" of a key in
            Vault's transit engine, of which the newest version is taken; or "awskms:<id, ARN or
            alias>".
        file: to write, named `*.pub`.
        passphrase: asked for the PIN where a token shows its public keys to nobody else.

    Returns:
        The URI that signs with the key, and the public half.

    Raises:
        RegistryError: the key is not there, or of a kind that devices do not verify; or the file
            exists or cannot be written.
    """
    holder = _HOLDERS.get(uri.partition(":")[0])
    if holder is None:
        examples = ", ".join(repr(each.imports.example) for each in _HOLDERS.values())
        raise RegistryError(f"Expected a key such as {examples}; got {quoted(uri)}")
    holder.imports.check(uri)
    if file.suffix != PUBLIC:
        raise RegistryError(f"{file} is to hold a public key; name it *{PUBLIC}")
    holder.check_installed()
    with _translated(f"No key can be read through {uri!r}", holder.hint):
        signing_uri, key = holder.fetch(uri, passphrase)
    create_file(file, _to_pem(check_usable(key)), 0o644)
    return signing_uri, read_public_key(file)


def open_signer(uri: str, key: Key, secret: Callable[[str], str]) -> Signer:
    """Return what signs with `key` through a URI of securesystemslib.

    Raises:
        RegistryError: the URI does not lead to a key.
    """
    holder = _HOLDERS.get(uri.partition(":")[0])
    if holder is not None:
        holder.signs.check(uri)
        holder.check_installed()
    with _translated(f"Key {short(key.keyid)} cannot be used through {uri!r}"):
        return Signer.from_priv_key_uri(uri, key, secret)


def said(error: BaseException) -> str:
    """Return what an error says, short, for what follows it.

    Those of PKCS#11 say it by their names alone. That of a server which does not answer says it
    last, after how often it was tried and by which classes.
    """
    reason = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    url = getattr(getattr(error, "request", None), "url", None)
    if url and isinstance(reason, OSError) and reason.strerror:
        return one_line(f"{url}: {reason.strerror}")
    return one_line(error).rstrip(".") if str(error) else type(error).__name__


@contextmanager
def _translated(what: str, hint: str = "") -> Iterator[None]:
    """Turn what the libraries under securesystemslib raise, each its own, into a RegistryError."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        raise RegistryError(f"{what}: {said(error)}{f'. {hint}' if hint else ''}") from error


def _fetch_from_hsm(uri: str, passphrase: Passphrase) -> tuple[str, Key]:
    from securesystemslib.signer import HSMSigner

    address = urlsplit(uri)
    _, key = HSMSigner.import_(
        int(address.path) if address.path else None,
        dict(parse_qsl(address.query)).get("label"),
        lambda name: require_secret(name, passphrase),
    )
    return uri, key


def _fetch_from_vault(uri: str, passphrase: Passphrase) -> tuple[str, Key]:
    from hvac.exceptions import InvalidPath
    from securesystemslib.signer import VaultSigner

    name = urlsplit(uri).path
    try:
        return VaultSigner.import_(name)
    except InvalidPath as error:
        raise RegistryError(
            f"Vault has no key {quoted(name)} in an engine that is mounted at transit/. Make it "
            f"there: vault write -f transit/keys/{one_line(name)} type=ed25519"
        ) from error


def _fetch_from_aws(uri: str, passphrase: Passphrase) -> tuple[str, Key]:
    from securesystemslib.signer import AWSSigner

    return AWSSigner.import_(urlsplit(uri).path)


_HSM = _Form(r"hsm:\d*(\?.*)?", "hsm:2?label=TOKEN")
_AWS = _Form(r"awskms:[^?#]+", "awskms:KEY")
_HOLDERS = {
    "hsm": _Holder(
        imports=_HSM,
        signs=_HSM,
        library="pkcs11",
        extra="hsm",
        fetch=_fetch_from_hsm,
        hint="PYKCS11LIB names the HSM's PKCS#11 library",
    ),
    "hv": _Holder(
        imports=_Form(r"hv:[^/?#]+", "hv:NAME"),
        signs=_Form(r"hv:[^/?#]+/[1-9][0-9]*", "hv:NAME/VERSION"),
        library="hvac",
        extra="vault",
        fetch=_fetch_from_vault,
        hint="VAULT_ADDR and VAULT_TOKEN say where Vault is and who asks, and the key has to be of "
        "the type ed25519",
    ),
    "awskms": _Holder(
        imports=_AWS,
        signs=_AWS,
        library="boto3",
        extra="awskms",
        fetch=_fetch_from_aws,
        hint="AWS_DEFAULT_REGION and credentials say where AWS is and who asks, as for its own "
        "tools, and the key has to be of the spec ECC_NIST_P256, to sign and verify",
    ),
}


def _to_pem(key: Key) -> bytes:
    """Return a public key as PEM, as securesystemslib has all of them but those of Ed25519."""
    if key.scheme != ED25519:
        return str(key.keyval["public"]).encode()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
