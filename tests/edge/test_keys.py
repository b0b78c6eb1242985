"""Keys: made safely, found wherever they are, and asked for a passphrase as late as possible."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Key, Signer

from edgeline.errors import RegistryError
from edgeline.key_files import generate_key, read_public_key
from edgeline.publish.held_keys import ask_secret
from edgeline.publish.keys import Signers, takes_cryptography

PASSPHRASE = "correct horse"


def _nobody(name: str) -> str | None:
    return None


def _never(name: str) -> str | None:
    raise AssertionError(f"asked for the passphrase of {name}")


def _knows(name: str) -> str | None:
    return PASSPHRASE


def _signs(signer: Signer | None, key: Key) -> bool:
    assert signer is not None
    try:
        key.verify_signature(signer.sign(b"payload"), b"payload")
    except UnverifiedSignatureError:
        return False
    return True


def test_a_key_signs_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "ci.pem"
    key = generate_key(file, None)
    assert key.scheme == "ed25519"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_public_key(file) == read_public_key(tmp_path / "folder" / "ci.pub") == key
    assert _signs(Signers.load([str(file)], _never).for_key(key), key)


def test_a_passphrase_protects_a_key_and_is_asked_for_when_it_signs(tmp_path: Path) -> None:
    file = tmp_path / "release.pem"
    key = generate_key(file, PASSPHRASE)
    assert b"ENCRYPTED" in file.read_bytes()
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(file.read_bytes(), None)
    asked: list[str] = []

    def passphrase(name: str) -> str:
        asked.append(name)
        return PASSPHRASE

    signer = Signers.load([str(file)], passphrase).for_key(key)
    assert asked == []
    assert _signs(signer, key)
    assert _signs(signer, key)
    assert asked == [str(file)]


def test_a_protected_key_without_its_public_half_is_opened_at_once(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "release.pem", PASSPHRASE)
    (tmp_path / "release.pub").unlink()
    assert Signers.load([str(tmp_path)], _knows).public_keys == (key,)
    with pytest.raises(RegistryError, match="EDGELINE_PASSPHRASE"):
        Signers.load([str(tmp_path)], _nobody)


def test_a_wrong_or_a_missing_passphrase_is_named(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "release.pem", PASSPHRASE)
    for answer, message in (("wrong", "passphrase of .* is wrong"), (None, "EDGELINE_PASSPHRASE")):
        signer = Signers.load([str(tmp_path)], lambda _, answer=answer: answer).for_key(key)  # type: ignore[misc]
        with pytest.raises(RegistryError, match=message):
            _signs(signer, key)


@pytest.mark.parametrize("taken", ["ci.pem", "ci.pub"])
@pytest.mark.parametrize("how", ["a file", "a dangling link"])
def test_no_key_is_ever_overwritten(taken: str, how: str, tmp_path: Path) -> None:
    if how == "a file":
        (tmp_path / taken).write_text("precious")
    else:
        (tmp_path / taken).symlink_to(tmp_path / "nowhere")
    with pytest.raises(RegistryError, match="never overwritten"):
        generate_key(tmp_path / "ci.pem", None)
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_an_empty_passphrase_and_a_public_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="must not be empty"):
        generate_key(tmp_path / "ci.pem", "")
    with pytest.raises(RegistryError, match="a public key's name"):
        generate_key(tmp_path / "ci.pub", None)
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="cannot be made a folder"):
        generate_key(tmp_path / "file" / "ci.pem", None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_keys_come_from_files_folders_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [generate_key(tmp_path / f"folder/{name}.pem", None) for name in ("a", "b")]
    made.append(generate_key(tmp_path / "c.pem", PASSPHRASE))
    made.append(generate_key(tmp_path / "d.pem", PASSPHRASE))
    monkeypatch.setenv("THE_KEY", (tmp_path / "d.pem").read_text())
    uris = [str(tmp_path / "folder"), str(tmp_path / "c.pem"), "envvar:THE_KEY"]
    signers = Signers.load(uris, _knows)
    assert signers.public_keys == tuple(made)
    assert signers.key_ids == tuple(key.keyid for key in made)
    assert all(_signs(signers.for_key(key), key) for key in made)


def test_a_key_comes_from_any_signer_of_securesystemslib(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "far.pem", None)
    signers = Signers.load([f"{key.keyid}=file2:{tmp_path}/far.pem"])
    assert (signers.public_keys, signers.key_ids) == ((), (key.keyid,))
    assert _signs(signers.for_key(key), key)
    assert signers.public_keys == (key,)
    other = generate_key(tmp_path / "other.pem", None)
    for uri in ("nonsense:x", f"file2:{tmp_path}/missing.pem", f"file2:{tmp_path}/other.pem"):
        with pytest.raises(RegistryError, match="cannot be used through"):
            Signers.load([f"{key.keyid}={uri}"]).for_key(key)
    assert Signers.load([f"{key.keyid}=nonsense:x"]).for_key(other) is None


def test_another_key_under_the_same_id_is_not_signed_for(tmp_path: Path) -> None:
    mine, other = (generate_key(tmp_path / f"{name}.pem", None) for name in ("mine", "other"))
    posing = type(other)(mine.keyid, other.keytype, other.scheme, other.keyval)
    assert Signers.load([str(tmp_path / "mine.pem")]).for_key(posing) is None
    assert Signers.load([str(tmp_path / "mine.pem")]).for_key(other) is None
    assert Signers().for_key(mine) is None


def _pem(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: b"", "no private key", id="nothing"),
        pytest.param(lambda: b"\xff\xfe", "no private key", id="bytes"),
        pytest.param(
            lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "no private key",
            id="a damaged key",
        ),
        pytest.param(lambda: b" " * 100_000, "too large", id="a large file"),
        pytest.param(
            lambda: _pem(ec.generate_private_key(ec.SECP384R1())), "verify Ed25519", id="P-384"
        ),
        pytest.param(
            lambda: _pem(rsa.generate_private_key(65537, 2048)), "verify Ed25519", id="RSA"
        ),
    ],
)
def test_what_is_no_usable_key_is_refused(
    make: Callable[[], bytes], message: str, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(make())
    with pytest.raises(RegistryError, match=message):
        Signers.load([str(tmp_path / "key.pem")], _never)
    (tmp_path / "key.pub").write_bytes(make())
    with pytest.raises(RegistryError):
        read_public_key(tmp_path / "key.pem")


def test_an_ecdsa_key_on_the_curve_p_256_signs(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    signers = Signers.load([str(tmp_path / "key.pem")])
    (key,) = signers.public_keys
    assert takes_cryptography(key)
    assert _signs(signers.for_key(key), key)


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    for uri, message in (
        (str(tmp_path / "missing.pem"), r"missing\.pem cannot be read"),
        (str(tmp_path), r"holds no keys: expected files named \*\.pem"),
        ("envvar:THE_KEY", "'THE_KEY' is not set"),
    ):
        with pytest.raises(RegistryError, match=message):
            Signers.load([uri])


def test_halves_of_two_keys_do_not_sign(tmp_path: Path) -> None:
    generate_key(tmp_path / "a.pem", None)
    other = generate_key(tmp_path / "b.pem", None)
    (tmp_path / "a.pub").write_bytes((tmp_path / "b.pub").read_bytes())
    signer = Signers.load([str(tmp_path / "a.pem")]).for_key(other)
    with pytest.raises(RegistryError, match="not two halves of one key"):
        _signs(signer, other)


def test_the_passphrase_comes_from_the_environment_or_from_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGELINE_PASSPHRASE", PASSPHRASE)
    assert ask_secret("ci.pem") == PASSPHRASE
    monkeypatch.delenv("EDGELINE_PASSPHRASE")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert ask_secret("ci.pem") is None
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt!r}")
    assert ask_secret("ci.pem") == "typed at 'Passphrase of ci.pem: '"
    assert ask_secret("pin") == "typed at 'PIN of the HSM: '"
    monkeypatch.setenv("EDGELINE_PIN", "1234")
    assert ask_secret("pin") == "1234"


def test_signers_take_what_is_at_hand_already() -> None:
    signer = CryptoSigner.generate_ed25519()
    assert Signers([signer]).for_key(signer.public_key) is signer
