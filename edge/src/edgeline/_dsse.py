"""Signed envelopes (DSSE): a document, and who has signed it.

https://github.com/secure-systems-lab/dsse
"""

from collections.abc import Collection, Mapping
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer

from edgeline._json import dump_canonical, parse_object
from edgeline._text import one_line, quoted
from edgeline.errors import EdgelineError, IntegrityError, RegistryError, TrustError

_MAX_SIGNATURES = 16


def seal(document: Mapping[str, Any], payload_type: str, signer: Signer, what: str) -> bytes:
    """Return the signed envelope of a document; `what` it is, for errors.

    Raises:
        RegistryError: the key cannot be used.
    """
    envelope = Envelope(dump_canonical(document), payload_type, {})
    try:
        envelope.sign(signer)
        envelope.verify([signer.public_key], 1)
    except EdgelineError:
        raise
    except Exception as error:
        # Each of securesystemslib's signers raises what the library under it does.
        raise RegistryError(f"{what} cannot be signed: {one_line(error)}") from error
    return dump_canonical(envelope.to_dict())


def open_envelope(data: bytes, payload_type: str, *, limit: int, what: str) -> Envelope:
    """Read an untrusted envelope, whoever signed it.

    Raises:
        IntegrityError: it has more than `limit` bytes, is no envelope, or of another type.
    """
    if len(data) > limit:
        raise IntegrityError(f"{what} has {len(data)} bytes; at most {limit} are allowed")
    try:
        document = parse_object(data)
        signatures = document["signatures"]
        if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNATURES:
            raise ValueError(f"expected 1 to {_MAX_SIGNATURES} signatures")
        for signature in signatures:
            if not all(isinstance(signature[name], str) for name in ("keyid", "sig")):
                raise ValueError("expected a signature's key id and value to be text")
        if not isinstance(document["payload"], str):
            raise ValueError("expected the payload in base64")
        opened = Envelope.from_dict(document)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{what} is no DSSE envelope: {error}") from None
    if opened.payload_type != payload_type:
        named = what.removeprefix("The ")
        raise IntegrityError(
            f"Expected {named} of type {payload_type}, got {quoted(opened.payload_type)}"
        )
    return opened


def check_signed(envelope: Envelope, keys: Collection[Key], what: str) -> None:
    """Check that one of `keys` has signed an envelope.

    Raises:
        TrustError: none has.
    """
    try:
        envelope.verify(list(keys), threshold=1)
    except (ValueError, VerificationError):
        expected = ", ".join(sorted(key.keyid[:12] for key in keys)) or "no key at all"
        raise TrustError(
            f"{what} is not signed by whoever may: expected a signature by {expected}; it is said "
            f"to be by {', '.join(repr(key_id[:12]) for key_id in envelope.signatures)}"
        ) from None
