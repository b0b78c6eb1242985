"""ImageNet weights where there is no network, or one that does not answer."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.training.base_weights import check_imagenet_weights
from pipeline.training.bases import BASES, ROOT, Base

DENSENET = BASES["densenet121"]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never says a word, as a network that swallows packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/weights.h5"


@pytest.fixture
def answering_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path == "/weights.h5" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Keeps the test's output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_never_answers_is_given_up_on(silent_server: str) -> None:
    with pytest.raises(UserError, match=r"(?s)can't be downloaded: .*timed out|no answer within"):
        check_imagenet_weights(DENSENET, silent_server, timeout=0.5)


def test_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_imagenet_weights(DENSENET, "http://127.0.0.1:9/weights.h5", timeout=60)
    message = str(caught.value)
    assert "Connection refused" in message
    assert str(tmp_path / "models" / DENSENET.file_name) in message
    assert "trainer.base_weights" in message
    assert '"random"' in message


def test_a_server_that_lacks_the_file_is_told_apart(answering_server: str) -> None:
    with pytest.raises(UserError, match="Not Found"):
        check_imagenet_weights(DENSENET, f"{answering_server}/other.h5", timeout=60)


def test_a_server_that_answers_is_good_enough_to_start(answering_server: str) -> None:
    check_imagenet_weights(DENSENET, f"{answering_server}/weights.h5", timeout=60)


def test_a_cached_file_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / DENSENET.file_name).write_bytes(b"")
    check_imagenet_weights(DENSENET, "http://127.0.0.1:9/weights.h5", timeout=2)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_address_and_digest_are_those_of_keras(base: Base) -> None:
    import inspect
    import re

    import keras
    from keras.src.applications import resnet

    constructor = getattr(keras.applications, base.constructor)
    module = resnet if base.name == "resnet50v2" else inspect.getmodule(constructor)
    assert module is not None
    source = inspect.getsource(module)
    folder = re.search(rf'"{re.escape(ROOT)}(\w+)/"', source)
    assert folder
    assert base.weights == f"{ROOT}{folder[1]}/{base.file_name}"
    assert base.digest in source
    # Of the file's name, what the source has in one piece.
    piece = {
        "mobilenet_v3": "_no_top_v2.h5",
        "efficientnet_v2": "_notop.h5",
        "mobilenet_v2": "_no_top.h5",
    }.get(folder[1], "_weights_tf_dim_ordering_tf_kernels_notop.h5")
    assert piece in source
    assert base.file_name.endswith(piece)


def test_weights_without_a_digest_are_not_downloaded() -> None:
    with pytest.raises(
        UserError, match=r"Keras publishes no digest of https://.*no_top\.h5\. Down"
    ):
        check_imagenet_weights(BASES["mobilenetv2"], timeout=1)
