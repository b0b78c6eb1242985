"""A registry whose keys are brought, one role after another, to where they never leave."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import make_registry, publish_release
from tests.edge.judged import judged
from tests.peers.test_device_pythons import CONTRACT, colours_model, make_environment, run_in

# Whose keys are exchanged, and which file signed before.
ROLES = {"root": "root-1", "online": "online", "colours-release": "colours-release"}


@dataclass(frozen=True)
class Held:
    """A registry that serves a release, and the environment of who holds its keys."""

    folder: Path
    holder: Path
    uris: dict[str, str] = field(default_factory=dict)  # "<key id>=<URI>" by role

    @staticmethod
    def make(folder: Path, holder: Path) -> Held:
        """Make one whose keys are all in files yet."""
        make_registry(folder, "colours")
        content = {"float32": colours_model()}
        publish_release(folder, "colours", content, CONTRACT, verdict=judged(content))
        return Held(folder, holder)

    @property
    def root(self) -> str:
        return str(self.folder / "keys" / "root.json")

    @property
    def store(self) -> str:
        return str(self.folder / "registry")

    def bring(self, uris: Mapping[str, str]) -> None:
        """Have the keys at these URIs sign for roles in the place of those that did."""
        for role, uri in uris.items():
            removed = self.uris[role].partition("=")[0] if role in self.uris else None
            public = str(self.folder / f"{role}-{secrets.token_hex(4)}.pub")
            said = self.registry("keys", "import", uri, public, "--json")
            self.uris[role] = json.loads(said)["key"]
            self.signed(
                *("keys", "rotate", self.store, role, "--add", public),
                *("--remove", removed or self.key_id(ROLES[role])),
            )

    def promote(self) -> None:
        self.signed(
            *("promote", self.store, "colours", "--yes"),
            *("--from", "candidate", "--to", "production"),
        )

    def registry(self, *arguments: str) -> str:
        return run_in(self.holder, "edgeline", "registry", *arguments)

    def signed(self, *arguments: str) -> str:
        """Changes the registry, with every key in a file and every one that is brought away."""
        uris = (str(self.folder / "keys"), *self.uris.values())
        keys = [argument for uri in uris for argument in ("--key", uri)]
        return self.registry(*arguments, "--root", self.root, *keys)

    def refresh(self, uri: str | None = None) -> str:
        """Signs with the online key alone, by "<key id>=<URI>" if it is not to be its own."""
        key = uri or self.uris["online"]
        return self.registry("refresh", self.store, "--root", self.root, "--key", key)

    def key_id(self, name: str) -> str:
        said = self.registry("keys", "public", str(self.folder / "keys" / f"{name}.pub"), "--json")
        found: str = json.loads(said)["key_id"]
        return found

    def key_ids(self) -> dict[str, str]:
        """The ids of each role's keys, in JSON."""
        lines = self.registry("keys", "list", self.store, "--root", self.root, "--json")
        roles = map(json.loads, lines.splitlines())
        return {role["role"]: json.dumps(role["keys"]) for role in roles}

    def content(self) -> dict[Path, bytes]:
        """Every file of the registry."""
        files = (path for path in Path(self.store).rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    def pull(self, environment: Path, folder: Path) -> subprocess.CompletedProcess[str]:
        """Has a device, which edgeline is installed for, fetch what production serves."""
        return subprocess.run(
            [
                *(str(environment / "bin" / "edgeline"), "pull", "--model", "colours"),
                *("--registry", self.store, "--root", self.root),
                *("--state", str(folder / "state")),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )


def check_that_they_count(held: Held, device: Path, folder: Path) -> None:
    """Checks that the keys are the roles' and no others, and that a device takes what they sign."""
    keys = held.key_ids()
    for role, name in {"root": "root", "online": "timestamp"}.items():
        assert held.uris[role].partition("=")[0] in keys[name]
    assert held.key_id("root-1") not in str(keys)
    done = held.pull(device, folder)
    assert done.returncode == 0, done.stderr
    assert "is served from now on" in done.stdout


def make_holder(folder: Path, extra: str) -> Path:
    """Install edgeline-registry with one of its extras, and with what a device needs."""
    make_environment(folder, "3.10", extras=f"[device,{extra}]", part="edge/registry")
    return folder
