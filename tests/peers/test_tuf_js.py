"""tuf-js, a TUF client that knows nothing of edgeline, comes to the same verdicts on a registry.

A small web server gives it what a TUF repository has: metadata from the layers of the bundle, and
for each channel the index of the release that it serves.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgeline.errors import EdgelineError
from edgeline.registry.format import MAX_MANIFEST, TITLE_ANNOTATION, TUF_TAG
from tests.edge.attack_cases import CASES, Case
from tests.edge.attacks import World

pytestmark = pytest.mark.peers

FOLDER = Path(__file__).parent / "tuf_js"


@pytest.fixture(scope="session")
def usual(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that most cases start from."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def node() -> Iterator[subprocess.Popen[str]]:
    """The client's process, in which the locked tuf-js answers one visit after another."""
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=FOLDER,
        check=True,
    )
    with subprocess.Popen(
        ["node", "client.js"],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Peer:
    """A device with tuf-js, that was given the registry's first root."""

    def __init__(self, node: subprocess.Popen[str], world: World, folder: Path, url: str) -> None:
        self._node = node
        self._folder = folder
        self._url = url
        folder.mkdir()
        (folder / "root.json").write_bytes(world.root)

    def visit(self, channel: str = "candidate") -> str | None:
        """Return the digest of the index that was read and verified; None if it was refused."""
        request = {
            "metadataDir": str(self._folder),
            "baseUrl": self._url,
            "target": f"cells/{channel}",
        }
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(f"{json.dumps(request)}\n")
        self._node.stdin.flush()
        answer = json.loads(self._node.stdout.readline())
        assert not re.search(r"ECONN|socket|fetch", answer.get("refused", "")), answer
        return f"sha256:{answer['sha256']}" if "sha256" in answer else None


@contextmanager
def served(world: World) -> Iterator[str]:
    """Serve the registry as a TUF repository, as it is at each request; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = _content(world, self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if data:
                self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _content(world: World, path: str) -> bytes | None:
    blobs = world.path / "blobs" / "sha256"
    target = re.fullmatch(r"/targets/cells/([0-9a-f]{64})\.[a-z]+", path)
    if target:
        return (blobs / target[1]).read_bytes()
    # Without edgeline's own checks of a bundle: the peer is to judge for itself.
    _, manifest = world.store.read_tag(TUF_TAG, limit=MAX_MANIFEST)
    for layer in json.loads(manifest)["layers"]:
        if path == f"/metadata/{layer['annotations'][TITLE_ANNOTATION]}":
            return (blobs / layer["digest"].removeprefix("sha256:")).read_bytes()
    return None


def _visit(world: World, state: Path, channel: str) -> str | None:
    try:
        return world.device(state).visit(channel)
    except EdgelineError:
        return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_clients_agree(
    case: Case, usual: World, node: subprocess.Popen[str], tmp_path: Path
) -> None:
    world = case.world(usual, tmp_path)
    state = tmp_path / "state"
    with served(world) as url:
        peer = Peer(node, world, tmp_path / "tuf-js", url)

        def verdicts(channel: str) -> list[str | None]:
            return [_visit(world, state, channel), peer.visit(channel)]

        case.prepare(world)
        if not case.first_contact:
            for channel in ("candidate", "production"):
                ours, theirs = verdicts(channel)
                assert ours == theirs
                assert ours is not None
        case.attack(world)
        wanted = world.releases[case.serves].index.digest if case.error is None else None
        assert verdicts(case.channel) == [wanted] * 2
        if case.error is not None:
            case.recover(world)
        ours, theirs = verdicts("candidate")
        assert ours == theirs
        assert ours is not None
        assert verdicts("production") == [world.releases[1].index.digest] * 2


def test_the_peer_is_what_it_is_said_to_be() -> None:
    """The lock names exact versions with their hashes, and no address of any machine."""
    lock = json.loads((FOLDER / "package-lock.json").read_bytes())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/tuf-js"]["version"] == "3.1.0"
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert shutil.which("node")
