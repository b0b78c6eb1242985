"""Provenance: what it says, who may say it, and what passes for it."""

import base64
import hashlib
import json
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from edgeline.errors import EdgelineError, IntegrityError, RegistryError, TrustError
from edgeline.publish.provenance import Build, Resource, build, sign, verify

SHA256 = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("int8", "float16")}
FACTS = Build(
    builder="https://builder.example/laptop",
    run="2031-05-06T07:08:09.123456",
    parameters={"model": "pets", "channel": "candidate", "config": {"gate": {"min_accuracy": 0.9}}},
    libraries={"tensorflow": "2.16.2", "python": "3.10.14"},
    dependencies=[
        Resource("dataset", {"sha256": "aa" * 32}, annotations={"images": 260}),
        Resource("base weights", {"md5": "bb" * 16}, uri="https://weights.example/base.h5"),
    ],
    byproducts=[
        Resource("verdict.json", {"sha256": "cc" * 32}, annotations={"int8": {"accuracy": 0.93}})
    ],
)


@pytest.fixture(scope="module")
def signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@pytest.fixture
def envelope(signer: CryptoSigner) -> bytes:
    return sign(build(SHA256, FACTS), signer)


def test_what_was_signed_is_what_is_read(envelope: bytes, signer: CryptoSigner) -> None:
    provenance = verify(envelope, [signer.public_key])
    assert provenance.subjects == SHA256
    assert provenance.key_ids == (signer.public_key.keyid,)
    assert provenance.statement == build(SHA256, FACTS)
    assert verify(envelope, None) == provenance


def test_the_statement_is_slsa_provenance() -> None:
    statement = build(SHA256, FACTS)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0] == {"name": "float16", "digest": {"sha256": SHA256["float16"]}}
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == FACTS.parameters
    assert definition["internalParameters"] == {"libraries": FACTS.libraries}
    assert definition["resolvedDependencies"][1] == {
        "name": "base weights",
        "uri": "https://weights.example/base.h5",
        "digest": {"md5": "bb" * 16},
    }
    details = statement["predicate"]["runDetails"]
    assert details["builder"] == {"id": FACTS.builder}
    assert details["metadata"] == {"invocationId": FACTS.run}
    assert details["byproducts"][0]["annotations"] == {"int8": {"accuracy": 0.93}}


def test_the_same_facts_give_the_same_bytes(signer: CryptoSigner) -> None:
    other_order = dict(reversed(SHA256.items()))
    assert sign(build(other_order, FACTS), signer) == sign(build(SHA256, FACTS), signer)


def test_any_verifier_of_dsse_can_check_it(envelope: bytes, signer: CryptoSigner) -> None:
    """By the text of the standard, without the library that made it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    document = json.loads(envelope)
    payload = base64.b64decode(document["payload"], validate=True)
    kind = document["payloadType"].encode()
    assert kind == b"application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer.public_key.keyval["public"]))
    public.verify(base64.b64decode(document["signatures"][0]["sig"], validate=True), signed)


def test_nobody_else_may_sign_it(envelope: bytes, signer: CryptoSigner) -> None:
    stranger = CryptoSigner.generate_ed25519()
    with pytest.raises(TrustError) as caught:
        verify(envelope, [stranger.public_key])
    assert f"expected a signature by {stranger.public_key.keyid[:12]}" in str(caught.value)
    assert signer.public_key.keyid[:12] in str(caught.value)
    with pytest.raises(TrustError, match="no key at all"):
        verify(envelope, [])


def test_a_stranger_under_anothers_key_id_is_found_out(signer: CryptoSigner) -> None:
    document = json.loads(sign(build(SHA256, FACTS), CryptoSigner.generate_ed25519()))
    document["signatures"][0]["keyid"] = signer.public_key.keyid
    with pytest.raises(TrustError):
        verify(json.dumps(document).encode(), [signer.public_key])


def test_a_changed_statement_is_found_out(envelope: bytes, signer: CryptoSigner) -> None:
    document = json.loads(envelope)
    changed = base64.b64decode(document["payload"]).replace(b"260", b"261")
    document["payload"] = base64.b64encode(changed).decode()
    with pytest.raises(TrustError):
        verify(json.dumps(document).encode(), [signer.public_key])


def statement(**changes: Any) -> dict[str, Any]:
    return {**build(SHA256, FACTS), **changes}


def enveloped(content: bytes, **changes: Any) -> bytes:
    document = {
        "payload": base64.b64encode(content).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"keyid": "aa", "sig": "AAAA"}],
    }
    return json.dumps({**document, **changes}).encode()


PAYLOAD = json.dumps(statement()).encode()
SIGNATURE = {"keyid": "aa", "sig": "AAAA"}
NO_PROVENANCE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no DSSE envelope"),
    "no JSON": (b"\xff{", "no DSSE envelope"),
    "too much": (b" " * (1 << 20) + b"{}", "at most 1048576 are allowed"),
    "no payload": (b'{"payloadType": "x", "signatures": []}', "expected 1 to 16 signatures"),
    "a payload that is no base64": (enveloped(PAYLOAD, payload="!"), "no DSSE envelope"),
    "a payload that is a number": (enveloped(PAYLOAD, payload=1), "the payload in base64"),
    "another type of payload": (
        enveloped(PAYLOAD, payloadType="text/plain"),
        "Expected provenance of type application/vnd.in-toto+json, got 'text/plain'",
    ),
    "a signature that is text": (enveloped(PAYLOAD, signatures=["x"]), "no DSSE envelope"),
    "a key id that is a list": (
        enveloped(PAYLOAD, signatures=[{"keyid": [], "sig": ""}]),
        "key id and value to be text",
    ),
    "two signatures by one key": (
        enveloped(PAYLOAD, signatures=[SIGNATURE, SIGNATURE]),
        "no DSSE envelope: Multiple signatures",
    ),
    "thousands of signatures": (
        enveloped(PAYLOAD, signatures=[SIGNATURE] * 9999),
        "expected 1 to 16 signatures",
    ),
    "a statement that is no object": (enveloped(b"[]"), "not valid JSON"),
    "nested too deeply": (enveloped(b'{"a":' * 99_999), "nested too deeply"),
    "another statement": (
        enveloped(json.dumps(statement(_type="https://other.example")).encode()),
        "_type https://in-toto.io/Statement/v1, got 'https://other.example'",
    ),
    "another predicate": (
        enveloped(json.dumps(statement(predicateType="https://spdx.dev/Document")).encode()),
        "predicateType https://slsa.dev/provenance/v1, got",
    ),
    "about nothing": (enveloped(json.dumps(statement(subject=[])).encode()), "names no weights"),
    "about something without a digest": (
        enveloped(json.dumps(statement(subject=[{"name": "int8"}])).encode()),
        "has no name or no SHA-256",
    ),
    "about something with a hostile digest": (
        enveloped(
            json.dumps(statement(subject=[{"name": "x", "digest": {"sha256": "../x"}}])).encode()
        ),
        "Expected a digest",
    ),
}


@pytest.mark.parametrize(("envelope", "message"), NO_PROVENANCE.values(), ids=NO_PROVENANCE)
def test_what_is_no_provenance_is_refused(envelope: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(envelope, None)
    assert message in str(caught.value)


def test_a_key_that_fails_is_one_clear_line() -> None:
    class Unplugged(CryptoSigner):
        def sign(self, payload: bytes) -> Any:
            raise OSError("the token was removed")

    private = CryptoSigner.generate_ed25519()._private_key
    with pytest.raises(RegistryError, match="cannot be signed: the token was removed"):
        sign(build(SHA256, FACTS), Unplugged(private))


def test_a_passphrase_that_is_missing_is_told_as_it_is() -> None:
    class Locked(Signer):
        @property
        def public_key(self) -> Any:
            raise AssertionError("not needed for signing")

        @classmethod
        def from_priv_key_uri(cls, *_: Any) -> Any:
            raise AssertionError("not needed for signing")

        def sign(self, payload: bytes) -> Any:
            raise EdgelineError("protected by a passphrase")

    with pytest.raises(EdgelineError, match=r"^protected by a passphrase$"):
        sign(build(SHA256, FACTS), Locked())
