"""Connections that keep to a budget of time, whatever the other side does.

A socket's own timeout bounds one call on it: a server that sends a byte now and then never runs
into it. Here every call gets what is left of the budget of the operation that it belongs to. The
rest of HTTP is urllib3's.
"""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

import urllib3.connection
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import ssl_wrap_socket

from edgeline._text import one_line
from edgeline.errors import RegistryError
from edgeline.registry.connection import Connection
from edgeline.registry.proxy import Proxy, find_proxy

CONNECT_SECONDS = 10.0  # to find a server and connect to it, at most
_WORTH_WAITING = 64 << 10  # bytes of content that buy the whole time again
_KEPT_CONNECTIONS = 4  # per server
_MAX_POOLS = 8  # servers that connections are kept open to

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


@dataclass
class Clock:
    """The budget of what is being done right now, shared by all connections of a client."""

    budget: Budget


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
    def __init__(self, *arguments: Any, dialer: "_Dialer", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dialer = dialer

    def connect(self) -> None:
        self.sock = self.dialer.connect(self.host, self.port)


class _TLSConnection(urllib3.connection.HTTPSConnection):
    def __init__(self, *arguments: Any, dialer: "_Dialer", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dialer = dialer

    def connect(self) -> None:
        self.sock = self.dialer.connect_securely(self.host, self.port)
        self.is_verified = True


@dataclass(frozen=True)
class _Dialer:
    """Connects in the time that there is for all of it; urllib3's timeout is one for each step."""

    clock: Clock
    context: ssl.SSLContext | None = None
    through: Proxy | None = None

    def connect(self, host: str, port: int) -> _Socket:
        """Connect to the first of a host's addresses that answers."""
        budget = Budget(self.clock.budget.share(CONNECT_SECONDS), CONNECT_SECONDS)
        reason = "its name has no address"
        try:
            addresses = _resolve(host.strip("[]"), port, budget)
            for tried, (family, kind, protocol, _, address) in enumerate(addresses):
                new = _Socket(family, kind, protocol)
                try:
                    new.clock = self.clock
                    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    # One address that swallows packets must not use up the time of the others.
                    new.settimeout(budget.share(budget.left / (len(addresses) - tried)))
                    new.connect(address)
                    return new
                except OSError as error:
                    new.close()
                    reason = error.strerror or str(error)
            budget.share(CONNECT_SECONDS)
        except TimeoutError:
            seconds = min(self.clock.budget.seconds, CONNECT_SECONDS)
            reason = f"no connection within {seconds:g} seconds"
        raise CannotConnectError(reason)

    def connect_securely(self, host: str, port: int) -> ssl.SSLSocket:
        """Connect to a host over TLS, which goes through the proxy if there is one."""
        sock = self._tunnel(host, port, self.through) if self.through else self.connect(host, port)
        sock.settimeout(self.clock.budget.share(CONNECT_SECONDS))  # for the whole handshake
        secured = ssl_wrap_socket(sock, ssl_context=self.context, server_hostname=host)
        assert isinstance(secured, _TLSSocket)
        secured.clock = self.clock
        return secured

    def _tunnel(self, host: str, port: int, proxy: Proxy) -> _Socket:
        try:
            sock = self.connect(proxy.host, proxy.port)
        except CannotConnectError as error:
            raise CannotConnectError(f"{proxy} cannot be reached ({error})") from None
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with closing(HTTPConnection(proxy.host, proxy.port)) as asking:
            # Another one, since http.client closes it after an answer that says no length.
            asking.sock = own = sock.dup()
            own.clock = self.clock
            asking.request("CONNECT", there, headers={"Host": there, **proxy.headers})
            answer = asking.getresponse()
        if answer.status != HTTPStatus.OK:
            sock.close()
            said = one_line(f"{answer.status} {answer.reason}", limit=80)
            raise CannotConnectError(f"{proxy} does not let us through ({said})")
        return sock


class Network:
    """A client's connections to servers, each call on which is bounded by the clock's budget.

    Args:
        home: the host that a client certificate is shown to.
        connection: what the client's user says about connections.
        clock: the client's.
    """

    def __init__(self, home: str, connection: Connection, clock: Clock) -> None:
        self._clock = clock
        self._home = home
        self._connection = connection
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}

    def pool(self, scheme: str, host: str, port: int) -> HTTPConnectionPool:
        """Return the connections to a server, which are opened as they are needed.

        Raises:
            RegistryError: the connection's files, or the proxy that is named, cannot be used.
        """
        pool: HTTPConnectionPool
        origin = scheme, host, port
        if origin in self._pools:
            return self._pools[origin]
        if len(self._pools) >= _MAX_POOLS:
            self._pools.pop(next(iter(self._pools))).close()
        if scheme == "https":
            own, others = self._contexts
            context = own if host == self._home else others
            dialer = _Dialer(self._clock, context, find_proxy(host, port))
            pool = HTTPSConnectionPool(host, port, maxsize=_KEPT_CONNECTIONS, dialer=dialer)
            pool.ConnectionCls = _TLSConnection
        else:
            dialer = _Dialer(self._clock)
            pool = HTTPConnectionPool(host, port, maxsize=_KEPT_CONNECTIONS, dialer=dialer)
            pool.ConnectionCls = _Connection
        self._pools[origin] = pool
        return pool

    @cached_property
    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """How to speak TLS with the registry server, and with others that it refers to."""
        given = self._connection
        ca, certificate, key = given.ca_file, given.client_cert, given.client_key

        def refuse() -> str:
            raise RegistryError(
                f"The key of {certificate} is encrypted. Expected one without a passphrase"
            )

        try:
            own, others = (ssl.create_default_context(cafile=ca) for _ in range(2))
        except OSError as error:
            raise RegistryError(
                f"{ca} cannot be used as CA: {error.strerror or error}. "
                "Expected certificates as PEM"
            ) from None
        own.sslsocket_class = others.sslsocket_class = _TLSSocket
        try:
            if certificate is not None:
                own.load_cert_chain(certificate, key, refuse)
        except OSError as error:
            files = " and ".join(str(file) for file in (certificate, key) if file)
            raise RegistryError(
                f"{files} cannot be used as client certificate and key: {error.strerror or error}. "
                "Expected both as PEM"
            ) from None
        return own, others


def _resolve(host: str, port: int, budget: Budget) -> Sequence[_Address]:
    """Look up a host's addresses, in a thread because the system's resolver knows no timeout."""
    found: Future[Sequence[_Address]] = Future()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            found.set_exception(CannotConnectError(f"its name cannot be resolved ({reason})"))

    threading.Thread(target=look_up, daemon=True).start()
    if not wait([found], timeout=budget.share(CONNECT_SECONDS)).done:
        raise TimeoutError
    return found.result()
