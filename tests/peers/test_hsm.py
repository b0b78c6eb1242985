"""A registry whose keys are in an HSM: SoftHSM, which is spoken to by PKCS#11 as any other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import make_registry, publish_release
from tests.edge.judged import judged
from tests.peers.test_device_pythons import CONTRACT, colours_model, make_environment, run_in

pytestmark = pytest.mark.peers

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
TOKEN, PIN = "edgeline", "1234"
# Whose keys are exchanged for some of the HSM, and which file signed before.
ROLES = {"root": "root-1", "online": "online", "colours-release": "colours-release"}

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


@dataclass(frozen=True)
class Held:
    """A registry, and the environment of who holds its keys."""

    folder: Path
    holder: Path
    uris: dict[str, str] = field(default_factory=dict)  # "<key id>=<URI>" by role

    @property
    def root(self) -> str:
        return str(self.folder / "keys" / "root.json")

    def registry(self, *arguments: str) -> str:
        return run_in(self.holder, "edgeline", "registry", *arguments)

    def signed(self, *arguments: str) -> str:
        """Changes the registry, with every key in a file and every one in the HSM."""
        uris = (str(self.folder / "keys"), *self.uris.values())
        keys = [argument for uri in uris for argument in ("--key", uri)]
        return self.registry(*arguments, "--root", self.root, *keys)

    def key_id(self, name: str) -> str:
        said = self.registry("keys", "public", str(self.folder / "keys" / f"{name}.pub"), "--json")
        found: str = json.loads(said)["key_id"]
        return found


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
    held = Held(folder, folder / "holder")
    make_environment(held.holder, "3.10", extras="[hsm]")
    run_in(held.holder, "python", "-c", GENERATE, token, *ROLES)
    make_registry(folder, "colours")
    content = {"float32": colours_model()}
    publish_release(folder, "colours", content, CONTRACT, verdict=judged(content))
    for number, (role, replaced) in enumerate(ROLES.items(), start=1):
        public = str(folder / f"{role}.pub")
        uri = f"hsm:{number}?label={token}"
        imported = json.loads(held.registry("keys", "import", uri, public, "--json"))
        held.uris[role] = imported["key"]
        held.signed(
            *("keys", "rotate", str(folder / "registry"), role),
            *("--add", public, "--remove", held.key_id(replaced)),
        )
    held.signed(
        *("promote", str(folder / "registry"), "colours", "--yes"),
        *("--from", "candidate", "--to", "production"),
    )
    return held


def test_the_hsms_keys_are_those_that_count(held: Held) -> None:
    lines = held.registry(
        "keys", "list", str(held.folder / "registry"), "--root", held.root, "--json"
    )
    keys = {role["role"]: role["keys"] for role in map(json.loads, lines.splitlines())}
    for role, names in {"root": ["root"], "online": ["timestamp", "snapshot"]}.items():
        for name in names:
            assert held.uris[role].partition("=")[0] in str(keys[name])
    assert held.key_id("root-1") not in str(keys)


def test_a_wrong_pin_is_told_and_changes_nothing(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELINE_PIN", "4321")
    before = sorted((held.folder / "registry").rglob("*"))
    with pytest.raises(AssertionError, match=r"did not sign: .*PinIncorrect.*Nothing was changed"):
        held.signed("refresh", str(held.folder / "registry"))
    assert sorted((held.folder / "registry").rglob("*")) == before


@pytest.mark.parametrize(
    ("extras", "said"),
    [("[ecdsa]", "is served from now on"), ("", "pip install 'edgeline[ecdsa]'")],
    ids=["with cryptography", "without"],
)
def test_a_device_follows_what_the_hsm_signed(
    extras: str, said: str, held: Held, tmp_path: Path
) -> None:
    make_environment(tmp_path / "device", "3.10", extras=extras)
    done = subprocess.run(
        [
            *(str(tmp_path / "device" / "bin" / "edgeline"), "pull", "--model", "colours"),
            *("--registry", str(held.folder / "registry"), "--root", held.root),
            *("--state", str(tmp_path / "state")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert said in done.stdout + done.stderr
    assert (done.returncode == 0) == bool(extras), done.stderr
