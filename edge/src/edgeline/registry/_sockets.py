"""Connections that keep to a budget of time, whatever the other side does.

A socket's own timeout bounds one call on it: a server that sends a byte now and then never runs
into it. Here every call gets what is left of the budget of the operation that it belongs to. The
rest of HTTP is urllib3's.
"""

import queue
import socket
import ssl
import threading
import time
from typing import Any

import urllib3
import urllib3.connection

from edgeline._text import one_line
from edgeline.errors import RegistryError
from edgeline.registry.connection import Connection
from edgeline.registry.proxy import Proxy

CONNECT_SECONDS = 10.0  # to find a server and connect to it, at most
_WORTH_WAITING = 64 << 10  # bytes of content that buy the whole time again
_KEPT_CONNECTIONS = 4  # per server
_TUNNEL_REFUSED = "Tunnel connection failed: "  # what http.client says of a proxy's answer

_Address = tuple[int, int, int, str, Any]  # as getaddrinfo returns them


class CannotConnectError(Exception):
    """There is nobody to talk to. Its text says why, without naming the server."""


class Budget:
    """The time that an operation may take in all, and for how long the other side may be silent."""

    def __init__(self, seconds: float, silence: float) -> None:
        self.seconds = seconds
        self.silence = silence
        self._received = 0
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the operation has to be over; below zero afterwards."""
        return self._end - time.monotonic()

    def share(self, at_most: float) -> float:
        """Return how many seconds the next step may take.

        Raises:
            TimeoutError: none are left.
        """
        left = self.left
        if left <= 0:
            raise TimeoutError("the time for the whole operation is over")
        return min(left, at_most)

    def progress(self, size: int) -> None:
        """Start the time anew for every 64 KiB of content: a drip does not count as progress."""
        self._received += size
        if self._received >= _WORTH_WAITING:
            self._received = 0
            self._end = time.monotonic() + self.seconds


class Clock:
    """The budget of what is being done right now, shared by all connections of a client."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget


class _Socket(socket.socket):
    """A socket whose calls are bounded by a clock's budget."""

    clock: Clock

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        budget = self.clock.budget
        self.settimeout(budget.share(budget.silence))
        return super().recv_into(buffer, nbytes or memoryview(buffer).nbytes, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        budget = self.clock.budget
        self.settimeout(budget.share(budget.silence))
        super().sendall(data, flags)


class _TLSSocket(_Socket, ssl.SSLSocket):
    """The same over TLS; a handshake is bounded by the timeout that is set when it starts."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        try:
            super().sendall(data, flags)
        except ssl.SSLEOFError:
            # As without TLS: urllib3 then reads what the server had to say before it closed, such
            # as that it wants a client certificate.
            raise BrokenPipeError from None


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, *arguments: Any, clock: Clock, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clock = clock

    def _new_conn(self) -> socket.socket:
        return _connect(self.host, self.port, self._clock)


class _TLSConnection(urllib3.connection.HTTPSConnection):
    def __init__(
        self, *arguments: Any, clock: Clock, through: Proxy | None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._clock = clock
        self._through = through

    def _new_conn(self) -> socket.socket:
        if self._through is None:
            return _connect(self.host, self.port, self._clock)
        try:
            return _connect(self._through.host, self._through.port, self._clock)
        except CannotConnectError as error:
            raise CannotConnectError(f"{self._through} cannot be reached ({error})") from None

    def connect(self) -> None:
        if self._through is not None:
            # Each time, since urllib3 forgets it when a connection is closed.
            self.set_tunnel(self.host, self.port, self._through.headers)
        try:
            super().connect()
        except OSError as error:
            if not str(error).startswith(_TUNNEL_REFUSED):
                raise
            said = one_line(str(error).removeprefix(_TUNNEL_REFUSED), limit=80)
            raise CannotConnectError(f"{self._through} does not let us through ({said})") from None
        assert isinstance(self.sock, _TLSSocket)
        self.sock.clock = self._clock


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def open_pool(
    host: str, port: int, clock: Clock, context: ssl.SSLContext | None, through: Proxy | None
) -> urllib3.HTTPConnectionPool:
    """Return the connections to a server, none of them open yet.

    They are over TLS with a `context`, and then `through` a proxy if one is given.
    """
    if context is None:
        return _Pool(host, port, maxsize=_KEPT_CONNECTIONS, clock=clock)
    # The standard library makes sockets of this class, and urllib3 reads from them.
    context.sslsocket_class = _TLSSocket
    return _TLSPool(
        host, port, maxsize=_KEPT_CONNECTIONS, clock=clock, ssl_context=context, through=through
    )


def tls_contexts(connection: Connection) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return how to speak TLS with the registry server, and with others that it refers to.

    Raises:
        RegistryError: a certificate or a key cannot be used.
    """

    def refuse() -> str:
        raise RegistryError(
            f"The key of {connection.client_cert} is encrypted. Expected one without a passphrase"
        )

    try:
        own, others = (
            ssl.create_default_context(cafile=connection.ca_file and str(connection.ca_file))
            for _ in range(2)
        )
    except OSError as error:
        raise RegistryError(
            f"{connection.ca_file} cannot be used as CA: {error.strerror or error}. "
            "Expected certificates as PEM"
        ) from None
    if connection.client_cert is not None:
        try:
            own.load_cert_chain(connection.client_cert, connection.client_key, refuse)
        except OSError as error:
            files = connection.client_cert, connection.client_key
            raise RegistryError(
                f"{' and '.join(str(file) for file in files if file)} cannot be used as client "
                f"certificate and key: {error.strerror or error}. Expected both as PEM"
            ) from None
    return own, others


def _connect(host: str, port: int, clock: Clock) -> _Socket:
    """Connect to the first of the host's addresses that answers, in the time there is for all."""
    budget = Budget(clock.budget.share(CONNECT_SECONDS), CONNECT_SECONDS)
    reason = "its name has no address"
    try:
        addresses = _resolve(host, port, budget)
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            new = _Socket(family, kind, protocol)
            try:
                new.clock = clock
                new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # One address that swallows packets must not use up the time of the others.
                new.settimeout(budget.share(budget.left / (len(addresses) - tried)))
                new.connect(address)
                new.settimeout(budget.share(CONNECT_SECONDS))  # for a TLS handshake
                return new
            except OSError as error:
                new.close()
                reason = error.strerror or str(error)
        budget.share(CONNECT_SECONDS)
    except TimeoutError:
        reason = f"no connection within {min(clock.budget.seconds, CONNECT_SECONDS):g} seconds"
    raise CannotConnectError(reason)


def _resolve(host: str, port: int, budget: Budget) -> list[_Address]:
    """Look up a host's addresses, in a thread because the system's resolver knows no timeout."""
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=budget.share(CONNECT_SECONDS))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        reason = getattr(answer, "strerror", None) or str(answer)
        raise CannotConnectError(f"its name cannot be resolved ({reason})")
    return answer
