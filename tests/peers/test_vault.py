"""A registry whose keys are in the transit engine of Vault, or of a server that is spoken to alike.

`make test-peers VAULT_ADDR=... VAULT_TOKEN=...` names one, such as `vault server -dev` starts. The
token has to be allowed to make and delete keys, whose names begin with `edgeline-test-`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.peers.held import ROLES, Held, check_that_they_count, make_holder

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not (os.environ.get("VAULT_ADDR") and os.environ.get("VAULT_TOKEN")),
        reason="VAULT_ADDR and VAULT_TOKEN name no Vault",
    ),
]


class Transit:
    """The administrator of Vault's transit engine, who makes keys and lets them end."""

    def __init__(self) -> None:
        self._prefix = f"edgeline-test-{secrets.token_hex(4)}"
        self._made: list[str] = []
        types = {each["type"] for each in self._ask("GET", "sys/mounts")["data"].values()}
        if "transit" not in types:
            self._ask("POST", "sys/mounts/transit", type="transit")

    def make(self, name: str, kind: str = "ed25519") -> str:
        """Makes a key; returns its name in the engine."""
        key = f"{self._prefix}-{name}"
        self._ask("POST", f"transit/keys/{key}", type=kind)
        self._made.append(key)
        return key

    def rotate(self, key: str) -> None:
        self._ask("POST", f"transit/keys/{key}/rotate")

    def configure(self, key: str, **settings: Any) -> None:
        self._ask("POST", f"transit/keys/{key}/config", **settings)

    def delete(self, key: str) -> None:
        self.configure(key, deletion_allowed=True)
        self._ask("DELETE", f"transit/keys/{key}")
        self._made.remove(key)

    def clean(self) -> None:
        for key in [*self._made]:
            self.delete(key)

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = urllib3.request(
            method,
            f"{os.environ['VAULT_ADDR'].rstrip('/')}/v1/{path}",
            headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]},
            json=body or None,
        )
        assert answer.status < 300, (path, answer.data)
        return json.loads(answer.data) if answer.data else {}


@pytest.fixture(scope="module")
def transit() -> Iterator[Transit]:
    transit = Transit()
    yield transit
    transit.clean()


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_holder(tmp_path_factory.mktemp("vault") / "holder", "vault")


@pytest.fixture(scope="module")
def held(transit: Transit, holder: Path, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """A registry of which root, online and release keys are in Vault, and serve a release."""
    held = Held.make(tmp_path_factory.mktemp("held"), holder)
    held.bring({role: f"hv:{transit.make(role)}" for role in ROLES})
    held.promote()
    return held


@pytest.fixture
def online(held: Held, transit: Transit) -> str:
    """The name of a key of its own, which signs as the registry's online key from here on."""
    key = transit.make(f"online-{secrets.token_hex(4)}")
    held.bring({"online": f"hv:{key}"})
    return key


def test_vaults_keys_are_those_that_count_and_a_device_follows(
    held: Held, holder: Path, tmp_path: Path
) -> None:
    check_that_they_count(held, holder, tmp_path)


def test_a_newer_version_of_a_key_is_another_key(
    held: Held, online: str, transit: Transit, tmp_path: Path
) -> None:
    uri = held.uris["online"]
    assert uri.endswith(f"=hv:{online}/1")
    # Past 9, as the greatest of two numbers is not the last of two words.
    for _ in range(10):
        transit.rotate(online)
    held.refresh()
    before = held.content()
    with pytest.raises(AssertionError, match=r"signs with another key.*Nothing was changed"):
        held.refresh(f"{uri.rpartition('/')[0]}/2")
    newest = json.loads(
        held.registry("keys", "import", f"hv:{online}", str(tmp_path / "newest.pub"), "--json")
    )["key"]
    assert newest.endswith(f"=hv:{online}/11")
    assert held.content() == before


@pytest.mark.parametrize(
    ("token", "address", "message"),
    [
        ("wrong", None, "did not sign: permission denied"),
        (None, "http://127.0.0.1:1", r"did not sign: http://127\.0\.0\.1:1/.*: Connection refused"),
    ],
    ids=["wrong token", "absent"],
)
def test_a_vault_that_does_not_sign_is_told_and_changes_nothing(
    token: str | None,
    address: str | None,
    message: str,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = held.content()
    for name, value in {"VAULT_TOKEN": token, "VAULT_ADDR": address}.items():
        if value:
            monkeypatch.setenv(name, value)
    with pytest.raises(AssertionError, match=f"{message}.*Nothing was changed"):
        held.refresh()
    assert held.content() == before


def test_a_version_that_may_no_longer_sign_is_told(
    held: Held, online: str, transit: Transit
) -> None:
    transit.rotate(online)
    transit.configure(online, min_encryption_version=2)
    with pytest.raises(AssertionError, match=r"did not sign: .*less than the minimum"):
        held.refresh()


def test_a_deleted_key_is_told_and_another_takes_its_place(
    held: Held, online: str, transit: Transit, holder: Path, tmp_path: Path
) -> None:
    transit.delete(online)
    with pytest.raises(AssertionError, match="did not sign: signing key not found"):
        held.refresh()
    with pytest.raises(AssertionError, match=f"Vault has no key '{online}'"):
        held.registry("keys", "import", f"hv:{online}", str(tmp_path / "key.pub"))
    held.bring({"online": f"hv:{transit.make('another')}"})
    assert held.pull(holder, tmp_path).returncode == 0


def test_another_kind_of_key_is_refused(held: Held, transit: Transit, tmp_path: Path) -> None:
    key = transit.make("ecdsa", "ecdsa-p256")
    with pytest.raises(AssertionError, match="has to be of the type ed25519"):
        held.registry("keys", "import", f"hv:{key}", str(tmp_path / "key.pub"))
    assert not list(tmp_path.iterdir())
