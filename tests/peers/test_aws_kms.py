"""A registry whose keys are in AWS KMS: boto3 against a server that answers as it documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.peers.aws_kms import Kms, served
from tests.peers.held import ROLES, Held, check_that_they_count, make_holder

pytestmark = pytest.mark.peers

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890a{}"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{KEY_ID}"


@pytest.fixture(scope="module")
def kms() -> Iterator[Kms]:
    """A key for each role, by id, by ARN and by alias, and what finds them."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in ROLES]
    named = dict(zip((KEY_ID.format(0), ARN.format(1), KEY_ID.format(2)), keys, strict=True))
    kms = Kms("AKIDEXAMPLE", {**named}, {"alias/release": KEY_ID.format(2)})
    with served(kms) as url, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL_KMS": url,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": kms.access_key,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():
            environment.setenv(name, value)
        yield kms


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_holder(tmp_path_factory.mktemp("aws") / "holder", "awskms")


@pytest.fixture(scope="module")
def held(kms: Kms, holder: Path, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """A registry of which root, online and release keys are in KMS, and serve a release."""
    held = Held.make(tmp_path_factory.mktemp("held"), holder)
    names = (KEY_ID.format(0), ARN.format(1), "alias/release")
    held.bring({role: f"awskms:{name}" for role, name in zip(ROLES, names, strict=True)})
    held.promote()
    return held


def test_the_keys_are_those_that_count_and_a_device_follows(
    held: Held, holder: Path, tmp_path: Path
) -> None:
    check_that_they_count(held, holder, tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIDOTHER", r"did not sign: .*UnrecognizedClientException"),
        ("AWS_ACCESS_KEY_ID", "", "did not sign: Unable to locate credentials"),
        (
            "AWS_DEFAULT_REGION",
            "",
            r"cannot be used through .*: You must specify a region",
        ),
        ("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1", r"did not sign: Could not connect .*:1/"),
    ],
    ids=["another account", "no credentials", "no region", "absent"],
)
def test_a_kms_that_does_not_sign_is_told_and_changes_nothing(
    variable: str, value: str, message: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held.content()
    if value:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.delenv(variable)
    if message.startswith("did not sign: Unable"):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AssertionError, match=message):
        held.refresh()
    assert held.content() == before


def test_a_disabled_key_is_told(held: Held, kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kms, "disabled", {ARN.format(1)})
    with pytest.raises(AssertionError, match=r"did not sign: .*DisabledException"):
        held.refresh()


def test_an_alias_that_was_moved_to_another_key_is_told(held: Held, kms: Kms) -> None:
    key_id = held.uris["online"].partition("=")[0]
    with pytest.raises(AssertionError, match="signs with another key"):
        held.refresh(f"{key_id}=awskms:alias/release")


def test_what_no_device_verifies_is_not_imported(held: Held, kms: Kms, tmp_path: Path) -> None:
    kms.keys["rsa"] = rsa.generate_private_key(65537, 2048)
    kms.keys["p384"] = ec.generate_private_key(ec.SECP384R1())
    for name in ("rsa", "p384"):
        with pytest.raises(AssertionError, match="devices verify Ed25519 and ECDSA on the curve"):
            held.registry("keys", "import", f"awskms:{name}", str(tmp_path / "key.pub"))
    with pytest.raises(AssertionError, match="NotFoundException"):
        held.registry("keys", "import", "awskms:alias/none", str(tmp_path / "key.pub"))
    assert not list(tmp_path.iterdir())
