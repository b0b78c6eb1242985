"""Where a release comes from: SLSA provenance in an in-toto statement, in a signed DSSE envelope.

    statement = build({"int8": sha256}, Build(...))
    envelope = sign(statement, signer)
    provenance = verify(envelope, keys)      # TrustError unless one of the keys signed it

All three are standards with verifiers of their own: whoever holds a model file and the publisher's
public key can tell how it was made without edgeline. The statement's subjects are the weights of a
release's variants. It holds no time besides what is in the run's id, so that the same facts give
the same bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer

from edgeline._json import dump_canonical, parse_object
from edgeline.errors import EdgelineError, IntegrityError, RegistryError, TrustError
from edgeline.registry.format import MAX_PROVENANCE, check_digest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "https://edgeline.dev/provenance/pipeline/v1"

_MAX_SIGNATURES = 16


@dataclass(frozen=True)
class Resource:
    """Something that went into a build or came out beside its subjects."""

    name: str
    digest: Mapping[str, str]  # hex by algorithm, of which there is one at least
    uri: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as in-toto's ResourceDescriptor."""
        document: dict[str, Any] = {"name": self.name, "digest": dict(self.digest)}
        if self.uri:
            document["uri"] = self.uri
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True)
class Build:
    """The facts about how a release was made; none of them may be a secret.

    Attributes:
        builder: URI of what ran the build and is to be believed about it.
        run: id of the run, as its logs have it.
        parameters: what the build's user chose.
        libraries: what it ran with: versions by name.
        dependencies: what it was made from.
        byproducts: what came out besides the subjects, such as the verdict with its metrics.
    """

    builder: str
    run: str
    parameters: Mapping[str, Any]
    libraries: Mapping[str, str]
    dependencies: Sequence[Resource]
    byproducts: Sequence[Resource]


@dataclass(frozen=True)
class Provenance:
    """What an envelope says.

    Attributes:
        subjects: SHA-256 of each variant's weights in hex, by the variant's name.
        statement: the whole in-toto statement.
        key_ids: the keys that are said to have signed it.
    """

    subjects: Mapping[str, str]
    statement: Mapping[str, Any]
    key_ids: tuple[str, ...]


def build(subjects: Mapping[str, str], facts: Build) -> dict[str, Any]:
    """Return the statement on weights, given by the SHA-256, in hex, of each variant."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": sha256}}
            for name, sha256 in sorted(subjects.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(facts.parameters),
                "internalParameters": {"libraries": dict(facts.libraries)},
                "resolvedDependencies": [each.to_json() for each in facts.dependencies],
            },
            "runDetails": {
                "builder": {"id": facts.builder},
                "metadata": {"invocationId": facts.run},
                "byproducts": [each.to_json() for each in facts.byproducts],
            },
        },
    }


def sign(statement: Mapping[str, Any], signer: Signer) -> bytes:
    """Return the signed envelope of a statement.

    Raises:
        RegistryError: the key cannot be used.
    """
    envelope = Envelope(dump_canonical(statement), PAYLOAD_TYPE, {})
    try:
        envelope.sign(signer)
    except EdgelineError:
        raise
    except Exception as error:
        # Each of securesystemslib's signers raises what the library under it does.
        raise RegistryError(f"The provenance cannot be signed: {error}") from error
    return dump_canonical(envelope.to_dict())


def verify(envelope: bytes, keys: Collection[Key]) -> Provenance:
    """Return what an untrusted envelope says, once one of `keys` is known to have signed it.

    Raises:
        IntegrityError: it is no envelope, or of something else than SLSA provenance.
        TrustError: none of the keys has signed it.
    """
    opened = _open(envelope)
    try:
        opened.verify(list(keys), threshold=1)
    except (ValueError, VerificationError):
        expected = ", ".join(sorted(key.keyid[:12] for key in keys)) or "no key at all"
        raise TrustError(
            "The provenance is not signed by whoever may sign for this model: expected a "
            f"signature by {expected}; it is said to be by "
            f"{', '.join(repr(key_id[:12]) for key_id in opened.signatures)}"
        ) from None
    return _read(opened)


def read(envelope: bytes) -> Provenance:
    """Return what an envelope says, whoever signed it: see `verify`.

    Raises:
        IntegrityError: it is no envelope, or of something else than SLSA provenance.
    """
    return _read(_open(envelope))


def _open(envelope: bytes) -> Envelope:
    if len(envelope) > MAX_PROVENANCE:
        raise IntegrityError(
            f"The provenance has {len(envelope)} bytes; at most {MAX_PROVENANCE} are allowed"
        )
    try:
        document = parse_object(envelope)
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
        raise IntegrityError(f"The provenance is no DSSE envelope: {error}") from None
    if opened.payload_type != PAYLOAD_TYPE:
        raise IntegrityError(
            f"Expected provenance of type {PAYLOAD_TYPE}, got {opened.payload_type!r:.80}"
        )
    return opened


def _read(envelope: Envelope) -> Provenance:
    try:
        statement = parse_object(envelope.payload)
    except ValueError as error:
        raise IntegrityError(f"The provenance is not valid JSON: {error}") from None
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(name) != expected:
            raise IntegrityError(
                f"Expected provenance with {name} {expected}, got {statement.get(name)!r:.80}"
            )
    return Provenance(_subjects(statement.get("subject")), statement, tuple(envelope.signatures))


def _subjects(value: object) -> dict[str, str]:
    subjects = {}
    try:
        for subject in value if isinstance(value, list) else ():
            digest = check_digest(f"sha256:{subject['digest']['sha256']}")
            subjects[str(subject["name"])] = digest.removeprefix("sha256:")
    except (KeyError, TypeError):
        raise IntegrityError("A subject of the provenance has no name or no SHA-256") from None
    if not subjects:
        raise IntegrityError("The provenance names no weights that it is about")
    return subjects
