"""A registry whose keys are in an HSM: SoftHSM, which is spoken to by PKCS#11 as any other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.held import ROLES, Held, make_holder
from tests.peers.test_device_pythons import make_environment, run_in

pytestmark = pytest.mark.peers

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
TOKEN, PIN = "edgeline", "1234"

# Makes a pair of keys on the token for each argument, numbered from 1.
GENERATE = """\
import os, sys
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters

token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label=sys.argv[1])
curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
with token.open(rw=True, user_pin=os.environ["EDGELINE_PIN"]) as session:
    for number, label in enumerate(sys.argv[2:], start=1):
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        parameters.generate_keypair(store=True, id=bytes([number]), label=label)
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The label of a token in SoftHSM, which what is run from here on finds."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        environment.setenv("PYKCS11LIB", str(LIBRARY))
        environment.setenv("EDGELINE_PIN", PIN)
        pins = ("--pin", PIN, "--so-pin", "5678")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, *pins], check=True
        )
        yield TOKEN


@pytest.fixture(scope="module")
def held(token: str, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """A registry of which root, online and release keys are in the HSM, and serve a release."""
    folder = tmp_path_factory.mktemp("held")
    holder = make_holder(folder / "holder", "hsm")
    run_in(holder, "python", "-c", GENERATE, token, *ROLES)
    held = Held.make(folder, holder)
    held.bring({role: f"hsm:{number}?label={token}" for number, role in enumerate(ROLES, start=1)})
    held.promote()
    return held


def test_the_hsms_keys_are_those_that_count(held: Held) -> None:
    keys = held.key_ids()
    for role, names in {"root": ["root"], "online": ["timestamp", "snapshot"]}.items():
        for name in names:
            assert held.uris[role].partition("=")[0] in keys[name]
    assert held.key_id("root-1") not in str(keys)


def test_a_wrong_pin_is_told_and_changes_nothing(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELINE_PIN", "4321")
    before = held.content()
    with pytest.raises(AssertionError, match=r"did not sign: PinIncorrect.*Nothing was changed"):
        held.refresh()
    assert held.content() == before


@pytest.mark.parametrize(
    ("extras", "said"),
    [("[ecdsa]", "is served from now on"), ("", "pip install 'edgeline[ecdsa]'")],
    ids=["with cryptography", "without"],
)
def test_a_device_follows_what_the_hsm_signed(
    extras: str, said: str, held: Held, tmp_path: Path
) -> None:
    make_environment(tmp_path / "device", "3.10", extras=extras)
    done = held.pull(tmp_path / "device", tmp_path)
    assert said in done.stdout + done.stderr
    assert (done.returncode == 0) == bool(extras), done.stderr
