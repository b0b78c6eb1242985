"""Gets the ImageNet weights of a base, or says within seconds why they can't be had.

Keras' own download waits without limit on a network that drops packets. Here the server has a
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
from pipeline.training.bases import Base

ANSWER_TIMEOUT = 8.0  # seconds until the first answer
STALL_TIMEOUT = 30.0  # seconds without a byte while downloading


def check_imagenet_weights(
    base: Base, url: str | None = None, timeout: float = ANSWER_TIMEOUT
) -> None:
    """Checks that the weights are cached, or that the server that has them answers.

    Needs no Keras, so that a run can fail in seconds instead of at its sixth step.

    Args:
        base: whose weights.
        url: where the file would be fetched from; by default its record's address.
        timeout: seconds to wait for the server's answer.

    Raises:
        UserError: neither is so.
    """
    if not base.digest:
        raise UserError(
            f'trainer.base_weights: "imagenet" can\'t be checked for {base.name}: Keras publishes '
            f"no digest of {base.weights}. Download it, and set trainer.base_weights to its path"
        )
    if cached_file(base).is_file():
        return
    url = url or base.weights
    problem = _why_unreachable(url, timeout)
    if problem:
        raise UserError(
            f"ImageNet weights can't be downloaded: {problem}\n"
            f"expected them at {cached_file(base)} or from {url}\n"
            "put the file there, or set trainer.base_weights to the path of a weights file, or to "
            '"random" to train on an untrained base'
        )


def imagenet_weights_file(base: Base) -> Path:
    """Returns the weights file, downloading it into Keras' cache when it isn't there yet.

    Raises:
        UserError: the server can't be reached in time, stalls, or sends another file.
    """
    check_imagenet_weights(base)
    import keras  # Here, not above: `check_imagenet_weights` needs no 10 seconds of import.

    try:
        with _socket_timeout(STALL_TIMEOUT):
            file = keras.utils.get_file(
                base.file_name, base.weights, cache_subdir="models", file_hash=base.digest
            )
            return Path(file)
    except Exception as error:  # Keras wraps what went wrong in a bare Exception.
        raise UserError(
            f"ImageNet weights can't be downloaded from {base.weights}: {error}"
        ) from error


def cached_file(base: Base) -> Path:
    """Where Keras keeps the weights."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    return home / "models" / base.file_name


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
