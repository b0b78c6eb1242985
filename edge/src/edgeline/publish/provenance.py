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

from securesystemslib.signer import Key, Signer

from edgeline._dsse import check_signed, open_envelope, seal
from edgeline._json import parse_object
from edgeline._text import quoted
from edgeline.errors import IntegrityError
from edgeline.registry.format import MAX_PROVENANCE, check_digest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "https://edgeline.dev/provenance/pipeline/v1"

_NAME = "The provenance"


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
    return seal(statement, PAYLOAD_TYPE, signer, _NAME)


def verify(envelope: bytes, keys: Collection[Key] | None) -> Provenance:
    """Return what an untrusted envelope says, once one of `keys` is known to have signed it.

    Args:
        envelope: What `sign` made.
        keys: Who may sign it; None to read it whoever did.

    Raises:
        IntegrityError: it is no envelope, or of something else than SLSA provenance.
        TrustError: none of the keys has signed it.
    """
    opened = open_envelope(envelope, PAYLOAD_TYPE, limit=MAX_PROVENANCE, what=_NAME)
    if keys is not None:
        check_signed(opened, keys, _NAME)
    try:
        statement = parse_object(opened.payload)
    except ValueError as error:
        raise IntegrityError(f"The provenance is not valid JSON: {error}") from None
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(name) != expected:
            raise IntegrityError(
                f"Expected provenance with {name} {expected}, got {quoted(statement.get(name))}"
            )
    return Provenance(_subjects(statement.get("subject")), statement, tuple(opened.signatures))


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
