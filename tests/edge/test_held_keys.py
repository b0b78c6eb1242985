"""Keys in an HSM or a KMS, as far as it takes none: tests/peers has those that sign by one."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer

from edgeline._dsse import seal
from edgeline.errors import RegistryError
from edgeline.key_files import read_public_key
from edgeline.publish.held_keys import _to_pem, import_key, said
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.repository import Keys, ModelKeys, initialize


@pytest.mark.parametrize(
    ("uri", "file", "message"),
    [
        ("hsm:two", "key.pub", "such as 'hsm:2?label=TOKEN', got 'hsm:two'"),
        ("hv:", "key.pub", "such as 'hv:NAME', got 'hv:'"),
        ("hv:release/1", "key.pub", "such as 'hv:NAME', got 'hv:release/1'"),
        ("awskms:", "key.pub", "such as 'awskms:KEY', got 'awskms:'"),
        ("release", "key.pub", "'hsm:2?label=TOKEN', 'hv:NAME', 'awskms:KEY'; got 'release'"),
        ("hsm:2", "key.pem", "name it *.pub"),
    ],
)
def test_a_uri_to_import_by_is_checked(uri: str, file: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)):
        import_key(uri, tmp_path / file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hsm:two", "hsm:2?label=TOKEN"),
        ("hv:release", "hv:NAME/VERSION"),
        ("hv:release/0", "hv:NAME/VERSION"),
        ("hv:release/new", "hv:NAME/VERSION"),
        ("awskms:", "awskms:KEY"),
    ],
)
def test_a_uri_to_sign_by_is_checked(uri: str, expected: str) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    with pytest.raises(RegistryError, match=re.escape(f"such as {expected!r}, got {uri!r}")):
        Signers.load([f"{key.keyid}={uri}"]).for_key(key)


@pytest.mark.parametrize(
    ("imported", "signing", "library", "extra"),
    [
        ("hsm:2", "hsm:2", "pkcs11", "hsm"),
        ("hv:release", "hv:release/1", "hvac", "vault"),
        ("awskms:alias/release", "awskms:alias/release", "boto3", "awskms"),
    ],
)
def test_what_is_not_installed_is_told(
    imported: str,
    signing: str,
    library: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    message = re.escape(f"{library} is missing: pip install 'edgeline-registry[{extra}]'")
    with pytest.raises(RegistryError, match=message):
        import_key(imported, tmp_path / "key.pub")
    key = CryptoSigner.generate_ecdsa().public_key
    with pytest.raises(RegistryError, match=message):
        Signers.load([f"{key.keyid}={signing}"]).for_key(key)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [CryptoSigner.generate_ed25519, CryptoSigner.generate_ecdsa])
def test_an_imported_key_is_the_one_that_its_file_holds(
    make: Callable[[], CryptoSigner], tmp_path: Path
) -> None:
    key = make().public_key
    (tmp_path / "key.pub").write_bytes(_to_pem(key))
    assert read_public_key(tmp_path / "key.pub") == key


class _WrongVersion(Signer):
    """Signs as a KMS does, which takes the key that a URI names for the one that was meant."""

    def __init__(self, meant: Key, named: Signer) -> None:
        self._meant = meant
        self._named = named

    @property
    def public_key(self) -> Key:
        return self._meant

    def sign(self, payload: bytes) -> Signature:
        return Signature(self._meant.keyid, self._named.sign(payload).signature)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None
    ) -> Signer:
        raise NotImplementedError("made by hand")


@pytest.mark.parametrize("role", ["root", "online"])
def test_a_signature_by_another_key_is_no_signature(role: str, tmp_path: Path) -> None:
    names = ("root", "root-2", "targets", "online", "ci", "release")
    signers: dict[str, Signer] = {name: CryptoSigner.generate_ed25519() for name in names}
    keys = {name: signer.public_key for name, signer in signers.items()}
    signers[role] = _WrongVersion(keys[role], CryptoSigner.generate_ed25519())
    named = Keys(
        root=(keys["root"], keys["root-2"]),
        targets=keys["targets"],
        online=keys["online"],
        models={"cells": ModelKeys(keys["ci"], keys["release"])},
    )
    message = f"given for key {keys[role].keyid[:12]} signs with another key"
    with pytest.raises(RegistryError, match=message):
        initialize(LayoutWriter(tmp_path / "registry"), named, Signers(signers.values()))


def test_an_envelope_that_another_key_signed_is_none() -> None:
    meant, named = (CryptoSigner.generate_ed25519() for _ in range(2))
    wrong = _WrongVersion(meant.public_key, named)
    with pytest.raises(RegistryError, match="The report cannot be signed"):
        seal({"a": 1}, "application/json", wrong, "The report")
    assert seal({"a": 1}, "application/json", meant, "The report")


def test_a_server_that_does_not_answer_is_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/transit/keys/release"
    with pytest.raises(requests.ConnectionError) as caught:
        requests.get(url, timeout=5)
    assert said(caught.value) == f"{url}: Connection refused"


def test_errors_say_something() -> None:
    assert said(ValueError("Two\nlines.")) == "Two lines"
    assert said(ValueError()) == "ValueError"
