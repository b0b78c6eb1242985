"""Releases go to and come from servers that differ as those of the field do.

What each does is from its documentation, or from its source where that is public.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgeline.errors import RegistryError
from edgeline.publish import remote
from edgeline.registry.format import EMPTY_CONFIG, MODEL_CONFIG, MODEL_MANIFEST, TUF_BUNDLE
from tests.edge.servers import REPOSITORY, Auth, Kind, RegistryServer, Repository
from tests.edge.stores import Store

AWS = Auth("Basic", username="AWS", password="a token of twelve hours")
ROBOT = Auth("Bearer", username="robot$cells+ci", password="secret")


@pytest.fixture
def logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Docker's logins; and no waiting for other writers."""
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.0)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


@contextmanager
def serving(logins: Path, auth: Auth, server: RegistryServer) -> Iterator[RegistryServer]:
    """A server to which somebody has logged in."""
    with server:
        pair = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        config = {"auths": {server.host: {"auth": pair}}}
        (logins / "config.json").write_text(json.dumps(config))
        yield server


def publish_and_read(store: Store, server: RegistryServer) -> None:
    """Make a registry, publish two releases, and read every byte as a device does."""
    there = replace(store, location=server.location).initialized()
    there.publish({"float32": b"first"})
    there.publish({"float32": b"second"})
    server.expire_untagged()
    assert [release.version for release in there.read_everything()] == [1, 2]
    assert there.serving().version == 2


def test_harbor(store: Store, logins: Path) -> None:
    """Uploads go to a path, not a URL; a session is offered, which a client must not take."""
    server = RegistryServer(auth=ROBOT, absolute_urls=False, kind=Kind(cookies=True))
    with serving(logins, ROBOT, server):
        publish_and_read(store, server)


def test_quay(store: Store, logins: Path) -> None:
    """Pages have tokens, blobs are elsewhere, and a manifest without a tag is soon gone."""
    kind = Kind(page_tokens=True, storage=True)
    server = RegistryServer(auth=ROBOT, page_size=2, kind=kind)
    with serving(logins, ROBOT, server):
        publish_and_read(store, server)


def test_ecr(store: Store, logins: Path) -> None:
    """Nothing goes to a repository that nobody made, and blobs are elsewhere."""
    server = RegistryServer(auth=AWS, kind=Kind(create_first=True, storage=True))
    with serving(logins, AWS, server):
        with pytest.raises(RegistryError, match="created first"):
            publish_and_read(store, server)
        server.repositories[REPOSITORY] = Repository()
        publish_and_read(store, server)


def test_gitlab_takes_only_types_on_its_list(store: Store, logins: Path) -> None:
    listed = frozenset({EMPTY_CONFIG, "application/vnd.oci.image.config.v1+json"})
    server = RegistryServer(auth=ROBOT, kind=Kind(types=listed, storage=True))
    with (
        serving(logins, ROBOT, server),
        pytest.raises(RegistryError, match=f"unknown media type: {re.escape(TUF_BUNDLE)}"),
    ):
        replace(store, location=server.location).initialized()
    assert server.repositories[REPOSITORY].tags == {}


def test_a_gitlab_of_ones_own_may_list_more_types(store: Store, logins: Path) -> None:
    listed = frozenset({EMPTY_CONFIG, TUF_BUNDLE, MODEL_MANIFEST, MODEL_CONFIG})
    server = RegistryServer(auth=ROBOT, kind=Kind(types=listed, storage=True))
    with serving(logins, ROBOT, server):
        publish_and_read(store, server)
