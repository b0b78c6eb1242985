"""Gets the ImageNet weights of DenseNet121, or says within seconds why they can't be had.

Keras' own download waits without limit on a network that swallows packets. Here the server has a
bounded time to answer before Keras fetches, checks and caches the file.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError

# Name, place and hash as in keras.applications.densenet.
FILE_NAME = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
URL = "https://storage.googleapis.com/tensorflow/keras-applications/densenet/" + FILE_NAME
MD5 = "30ee3e1110167f948a6b9946edeeb738"
ANSWER_TIMEOUT = 8.0  # seconds until the first answer
STALL_TIMEOUT = 30.0  # seconds without a byte while downloading


def check_imagenet_weights(url: str = URL, timeout: float = ANSWER_TIMEOUT) -> None:
    """Checks that the weights are cached, or that the server that has them answers.

    Needs no Keras, so that a run can fail in seconds instead of at its sixth step.

    Args:
        url: where the file would be fetched from.
        timeout: seconds to wait for the server's answer.

    Raises:
        UserError: neither is so.
    """
    if cached_file().is_file():
        return
    problem = _why_unreachable(url, timeout)
    if problem:
        raise UserError(
            f"ImageNet weights can't be downloaded: {problem}\n"
            f"expected them at {cached_file()} or from {url}\n"
            "put the file there, or set trainer.base_weights to the path of a weights file, or to "
            '"random" to train on an untrained base'
        )


def imagenet_weights_file() -> Path:
    """Returns the weights file, downloading it into Keras' cache when it isn't there yet.

    Raises:
        UserError: the server can't be reached in time, stalls, or sends another file.
    """
    check_imagenet_weights()
    import keras  # Here, not above: `check_imagenet_weights` needs no 10 seconds of import.

    try:
        with _socket_timeout(STALL_TIMEOUT):
            return Path(keras.utils.get_file(FILE_NAME, URL, cache_subdir="models", file_hash=MD5))
    except Exception as error:  # Keras wraps what went wrong in a bare Exception.
        raise UserError(f"ImageNet weights can't be downloaded from {URL}: {error}") from error


def cached_file() -> Path:
    """Where Keras keeps the weights."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / FILE_NAME


def _why_unreachable(url: str, timeout: float) -> str | None:
    """Says what is wrong with the server, or None. A thread bounds what no timeout does: DNS."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=timeout).close()
            outcome.append(None)
        except OSError as error:  # URLError and timeouts are OSErrors.
            outcome.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else f"no answer within {timeout:g} s"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
