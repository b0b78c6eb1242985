"""HTTP as a registry server's clients need it: bounded, authenticated, and suspicious.

`Client` talks to one server. Whatever is asked of it is over within a budget of time, takes no more
bytes than the caller expects, and ends in what was asked for or in one error that says in one line
what failed at which server, why, and what to do. It sends a login to nobody but the server and the
token service that the server names, and never from TLS to plain HTTP.

Both sides of edgeline use it, and no oras, so that limits, TLS and logins are kept in one place.
"""

import itertools
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import TypeVar
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError, SSLError
from urllib3.exceptions import TimeoutError as UrllibTimeoutError
from urllib3.util import Retry, Url, parse_url

from edgeline._distribution import edgeline_version
from edgeline._json import parse_object
from edgeline._text import quoted
from edgeline.errors import IntegrityError, NotFoundError, RegistryError, UnreachableError
from edgeline.registry._sockets import Budget, CannotConnectError, Clock, Network
from edgeline.registry.connection import Connection
from edgeline.registry.login import (
    DOCKER_HUB,
    DOCKER_HUB_HOST,
    Login,
    find_login,
    login_files,
    parse_challenges,
    parse_token,
)
from edgeline.registry.proxy import is_loopback

SILENCE_SECONDS = 15.0  # without a byte, and the other side is given up
BACKOFF_SECONDS = 0.25  # before the second try; doubled before each further one
TRIES = 5
MAX_REDIRECTS = 5
MAX_ERROR = 64 << 10  # bytes of an error's body, or of a token service's answer

_LONG = 1e9  # seconds; what a server asks for beyond that is no matter
_CHUNK = 256 << 10  # bytes
_RETRIED = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACTIONS = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}  # a token is for one; else "push"

_UNKNOWN_ISSUER = (18, 19, 20, 21)  # X509_V_ERR_...: self-signed, or of a CA that is not known
_CA_HINT = ". If the server's certificate is of a CA of your own, give the CA's"
_REACH_HINT = "Check its address, and that it runs and may be reached from here"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to ask of the server."""

    what: str  # for errors: "registry.example:5000/cells: reading tag 'v7'"
    method: str
    target: str | Callable[[], str]  # path and query, or a URL at the server; called at each try
    success: frozenset[int] = frozenset({200})
    headers: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[int, str] = field(default_factory=dict)  # what a status means here
    body: Callable[[], Iterable[bytes]] | bytes | None = None  # called whenever it is to be sent

    def line(self, reason: str) -> str:
        """Return an error's message: that this request was of no avail, and why."""
        return f"{self.what} failed: {reason}"


@dataclass(frozen=True)
class _Target:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    path: str  # and query

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs have in common that lead to one server."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The whole of it."""
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"


class BrokenOffError(UnreachableError):
    """The server broke off, or said that it cannot answer now. Trying again may help at once."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait  # seconds, when the server said how long


class Response:
    """A server's answer. Its body is read once at most; it has to be read or discarded."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, exchange: "_Exchange") -> None:
        self.status = raw.status
        self.url = exchange.target.url
        self._raw = raw
        self._exchange = exchange

    @property
    def origin(self) -> tuple[str, str, int]:
        """The server that it comes from, which redirects may have led to."""
        return self._exchange.target.origin

    @property
    def length(self) -> int | None:
        """How many bytes the body is said to have, if it is said."""
        value = self.header("Content-Length") or ""
        return int(value) if re.fullmatch("[0-9]{1,18}", value) else None

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        value = self._raw.headers.get(name)
        return None if value is None else str(value)

    def line(self, reason: str) -> str:
        """Return an error's message: that this response cannot be used, and why."""
        return self._exchange.request.line(reason)

    def read(self, limit: int, *, lasting: bool = False) -> bytes:
        """Return the whole body; see `chunks`."""
        return b"".join(self.chunks(limit, lasting=lasting))

    def chunks(self, limit: int, *, lasting: bool = False) -> Iterator[bytes]:
        """Yield the body as it comes; a `lasting` one in any time, as long as it makes progress.

        Raises:
            IntegrityError: it has more than `limit` bytes, or is encoded.
            UnreachableError: it ends too early, or does not come in time.
        """
        got = 0
        try:
            self._check(limit)
            while chunk := self._next(limit - got + 1):  # a byte too many is enough to know
                got += len(chunk)
                if got > limit:
                    raise IntegrityError(self.line(f"it has more than the {limit} bytes allowed"))
                if lasting:
                    self._exchange.budget.progress(len(chunk))
                yield chunk
        finally:
            # Ends a connection from which something is left to be read; another one is kept.
            self._raw.close()

    def discard(self) -> None:
        """Do without the body, and with the connection unless little is left of it to be read."""
        try:
            self.read(MAX_ERROR)
        except (IntegrityError, UnreachableError):
            self._raw.close()

    def _next(self, at_most: int) -> bytes:
        with self._exchange.guarded():
            return self._raw.read1(min(_CHUNK, at_most))

    def _check(self, limit: int) -> None:
        encoding = self.header("Content-Encoding")
        if encoding not in (None, "", "identity"):
            raise IntegrityError(
                self.line(f"it is encoded as {quoted(encoding)}, which was not asked for")
            )
        length = None if self._exchange.request.method == "HEAD" else self.length
        if length is not None and length > limit:
            raise IntegrityError(self.line(f"it has {length} bytes; {limit} are allowed"))


@dataclass(frozen=True)
class _Exchange:
    """A request that was sent to a server: what to say and to heed while its answer is read."""

    request: Request
    target: _Target
    home: _Target
    clock: Clock
    budget: Budget

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Bound what is done on the connection, and turn what goes wrong there into our errors."""
        # Anew each time: between two chunks of a body, something else may have been asked.
        self.clock.budget = self.budget
        there = "" if self.target.origin == self.home.origin else f" at {quoted(self.target.host)}"
        try:
            yield
        except CannotConnectError as error:
            raise UnreachableError(
                self.request.line(f"the server cannot be reached{there}: {error}. {_REACH_HINT}")
            ) from None
        except SSLError as error:
            raise self._tls_error(error, there) from None
        except (HTTPError, HTTPException, OSError) as error:
            cause = _cause(error)
            if not isinstance(cause, (UrllibTimeoutError, TimeoutError)):
                reason = f"the connection broke{there} ({_words(cause)})"
            elif self.budget.left <= 0:
                reason = f"no answer{there} within {self.budget.seconds:g} seconds"
            else:
                reason = f"nothing moved{there} for {self.budget.silence:g} seconds"
            raise BrokenOffError(self.request.line(reason)) from None

    def _tls_error(self, error: SSLError, there: str) -> RegistryError:
        cause = error.args[0] if error.args else error
        reason = getattr(cause, "reason", None) or ""
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = _CA_HINT if cause.verify_code in _UNKNOWN_ISSUER else ""
            why = f"its certificate{there} is not trusted ({cause.verify_message}){hint}"
        elif "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            why = f"it wants a client certificate{there} that it trusts ({reason})"
        elif reason in _NO_TLS:
            why = f"it does not speak TLS{there}. Plain HTTP has to be allowed for it explicitly"
        else:
            return BrokenOffError(
                self.request.line(f"the connection broke{there} ({quoted(str(cause))})")
            )
        return RegistryError(self.request.line(why))


class Client:
    """Talks to the registry server at `server`, a host[:port], about one repository.

    Plain HTTP is spoken only to this very machine (localhost, 127.0.0.0/8, [::1]), unless the
    connection is `insecure`; and not even then when it has a CA or a client's certificate. A client
    is used by one thread at a time.

    Raises:
        RegistryError: the connection's settings contradict each other, or its files cannot be used.
    """

    def __init__(self, server: str, repository: str, connection: Connection) -> None:
        if not connection.timeout > 0:
            raise RegistryError(f"Expected a timeout above 0 seconds, got {connection.timeout}")
        self._server = server
        self._repository = repository
        self._connection = connection
        host = DOCKER_HUB_HOST if server == DOCKER_HUB else server
        self._home = _parse_url(f"{choose_scheme(server, connection)}://{host}/")
        self._clock = Clock(self.budget())
        self._network = Network(self._home.host, connection, self._clock)
        self._network.pool(*self._home.origin)  # here already, for what is wrong with it
        self._login: Login | None = None
        self._looked_for_login = False
        self._authorizations: dict[str, str] = {}  # by action

    @property
    def timeout(self) -> float:
        """Seconds that one operation may take."""
        return self._connection.timeout

    def budget(self, silence: float = SILENCE_SECONDS) -> Budget:
        """Return the time that one operation may take, starting now."""
        return Budget(self.timeout, silence)

    def call(self, request: Request, budget: Budget, consume: Callable[[Response], _T]) -> _T:
        """Send a request, and again if the server breaks off or asks for it; return what it gave.

        `consume` makes something of the response when its status is one that means success.

        Raises:
            NotFoundError: the server says 404.
            IntegrityError: as `consume` says.
            UnreachableError: the server does not answer properly, or not in time.
            RegistryError: the server refuses.
        """
        for tried in itertools.count(1):
            try:
                response = self._exchange(request, budget)
                if response.status in request.success:
                    return consume(response)
                raise self._failure(request, response)
            except BrokenOffError as error:
                backoff = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
                wait = backoff if error.wait is None else error.wait
                if tried == TRIES or wait >= budget.left:
                    raise self._final(error, tried) from None
                _log.info("%s. Trying again in %.1f seconds", error, wait)
            time.sleep(wait)
        raise AssertionError

    def url(self, response: Response, reference: str) -> str:
        """Return the URL of a reference that the server gave to another place at itself.

        Raises:
            RegistryError: it leads elsewhere.
        """
        try:
            target = _parse_url(urljoin(response.url, reference))
        except ValueError as error:
            raise RegistryError(response.line(f"unusable Location: {error}")) from None
        if target.origin != self._home.origin:
            raise RegistryError(
                response.line(
                    f"it refers to {quoted(replace(target, path='/').url)}, not to itself at "
                    f"{self._home.url}. If a proxy stands before it, that has to pass on Host "
                    "and X-Forwarded-Proto"
                )
            )
        return target.url

    def _final(self, error: BrokenOffError, tries: int) -> UnreachableError:
        hint = f" (tried {tries} times)" if tries > 1 else ""
        if error.wait is not None:
            hint += f"; it asks to wait {error.wait:.0f} seconds"
        return UnreachableError(f"{error}{hint}")

    # What a server refuses, and why.

    def _failure(self, request: Request, response: Response) -> RegistryError:
        """Return the error that a response without success means."""
        status, said = response.status, _said(response)
        if status in request.hints:
            return RegistryError(request.line(f"{request.hints[status]}{said}"))
        if status == 404:
            return NotFoundError(request.line(f"it is not there{said}"))
        if status == 401:
            return RegistryError(request.line(f"{self._login_hint()}{said}"))
        if status == 403:
            return RegistryError(
                request.line(
                    "access is denied. Ask for the right to it, or log in as somebody who has it: "
                    f"docker login {self._server}{said}",
                )
            )
        if status in _RETRIED:
            reason = "it is asked too much" if status == 429 else "it cannot answer now"
            line = request.line(f"{reason} (HTTP {status}){said}")
            return BrokenOffError(line, _retry_after(response.header("Retry-After")))
        if status >= 500:
            line = request.line(f"the server has an error of its own (HTTP {status}){said}")
            # docker-registry says so, too, to who reads a tag just when it is set.
            passing = status == 500 and request.method in ("GET", "HEAD")
            return BrokenOffError(line) if passing else UnreachableError(line)
        # That is what many a server with TLS says to who speaks without.
        unclear = status == 400 and not said and self._home.scheme == "http"
        hint = ". If it speaks TLS, give its CA's certificate" if unclear else said
        return RegistryError(request.line(f"the server refuses with HTTP {status}{hint}"))

    def _login_hint(self) -> str:
        if self._login is not None:
            return (
                f"the login in {self._login.source} was refused. "
                f"Log in again: docker login {self._server}"
            )
        searched = " or ".join(str(path) for path in login_files())
        return f"it wants a login, and {searched} has none: docker login {self._server}"

    # One request, with what it takes to get an answer.

    def _exchange(self, request: Request, budget: Budget) -> Response:
        """Send a request, and once more when a login is asked for."""
        target = request.target if isinstance(request.target, str) else request.target()
        home = _parse_url(urljoin(self._home.url, target))
        action = _ACTIONS.get(request.method, "push")
        response = self._follow(request, home, self._authorizations.get(action), budget)
        if response.status == 401 and response.origin == self._home.origin:
            refused = self._authorizations.pop(action, None)
            authorization = self._answer_challenge(request, response, budget)
            if authorization is not None and authorization != refused:
                response.discard()
                self._authorizations[action] = authorization
                response = self._follow(request, home, authorization, budget)
        return response

    def _follow(
        self, request: Request, first: _Target, authorization: str | None, budget: Budget
    ) -> Response:
        """Send a request, and a reading one on to where it is redirected."""
        target = first
        for _ in range(MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if authorization is not None and target.origin == first.origin:
                headers["Authorization"] = authorization
            response = self._send(request, target, headers, budget)
            if response.status not in _REDIRECTS:
                return response
            target = self._redirected(request, target, response)
        raise RegistryError(request.line(f"more than {MAX_REDIRECTS} redirects in a row"))

    def _redirected(self, request: Request, target: _Target, response: Response) -> _Target:
        location = response.header("Location")
        response.discard()
        try:
            if location is None or request.method not in ("GET", "HEAD"):
                raise ValueError(f"it answers {request.method} with HTTP {response.status}")
            new = _parse_url(urljoin(target.url, location))
        except ValueError as error:
            raise RegistryError(request.line(f"unusable redirect: {error}")) from None
        plain = target.scheme == "http" and (is_loopback(new.host) or self._connection.insecure)
        if new.scheme == "http" and not plain:
            raise RegistryError(request.line(f"it redirects to plain HTTP, at {quoted(new.host)}"))
        return new

    def _send(
        self, request: Request, target: _Target, headers: Mapping[str, str], budget: Budget
    ) -> Response:
        """Send a request once."""
        exchange = _Exchange(request, target, self._home, self._clock, budget)
        with exchange.guarded():
            raw = self._network.pool(*target.origin).urlopen(
                request.method,
                target.path,
                body=request.body() if callable(request.body) else request.body,
                headers={
                    "User-Agent": f"edgeline/{edgeline_version()}",
                    "Accept-Encoding": "identity",
                    **headers,
                },
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        _log.debug("%s %s: HTTP %d", request.method, target.url.partition("?")[0], raw.status)
        return Response(raw, exchange)

    # Logins.

    def _answer_challenge(self, request: Request, response: Response, budget: Budget) -> str | None:
        """Return the Authorization that a 401 asks for; None when there is none to give."""
        challenges = parse_challenges(response.header("WWW-Authenticate") or "")
        if not self._looked_for_login:
            seconds = budget.share(budget.seconds)
            self._login = find_login(self._server, self._repository, seconds=seconds)
            self._looked_for_login = True
        if "bearer" in challenges:
            return f"Bearer {self._fetch_token(request, challenges['bearer'], budget)}"
        if "basic" in challenges and self._login and not self._login.identity_token:
            return self._login.basic
        return None

    def _fetch_token(self, request: Request, challenge: Mapping[str, str], budget: Budget) -> str:
        """Return the token that the service named by a challenge gives for our login."""
        service = self._token_service(request, challenge)
        asking, path = _token_request(request, service.path, challenge, self._login)
        basic = self._login.basic if self._login and not self._login.identity_token else None
        response = self._follow(asking, replace(service, path=path), basic, budget)
        if response.status != 200:
            failure = self._failure(asking, response)
            # What is missing is the token service, and not what was asked for.
            raise RegistryError(str(failure)) if response.status == 404 else failure
        try:
            return parse_token(response.read(MAX_ERROR))
        except (ValueError, IntegrityError) as error:
            raise RegistryError(
                asking.line(f"{quoted(service.host)} gave no usable token: {error}")
            ) from None

    def _token_service(self, request: Request, challenge: Mapping[str, str]) -> _Target:
        """Return where to get a token, if a login may be shown there."""
        try:
            service = _parse_url(challenge.get("realm", ""))
        except ValueError as error:
            raise RegistryError(
                request.line(f"it names no usable token service: {error}")
            ) from None
        plain = self._home.scheme == "http" and (
            is_loopback(service.host) or service.host == self._home.host
        )
        if service.scheme != "https" and not plain:
            raise RegistryError(
                request.line(
                    f"it wants a login sent over plain HTTP to {quoted(service.host)}. "
                    "Expected a token service with https",
                )
            )
        return service


def choose_scheme(server: str, connection: Connection) -> str:
    """Return "https", or "http" where a connection may be plain.

    Raises:
        RegistryError: the connection's settings contradict each other.
    """
    if connection.client_key is not None and connection.client_cert is None:
        raise RegistryError(f"{connection.client_key} is a key without a client certificate")
    tls = connection.ca_file is not None or connection.client_cert is not None
    if tls and connection.insecure:
        raise RegistryError(
            "A connection is either insecure, which is plain HTTP, or has certificates; got both"
        )
    host = server if server.endswith("]") else server.rpartition(":")[0] or server
    return "http" if not tls and (connection.insecure or is_loopback(host)) else "https"


def _token_request(
    request: Request, path: str, challenge: Mapping[str, str], login: Login | None
) -> tuple[Request, str]:
    """Return how to ask a token service for what a challenge says, and at which path."""
    what = f"{request.what}: the login"
    wanted = [("service", challenge["service"])] if "service" in challenge else []
    wanted += [("scope", scope) for scope in challenge.get("scope", "").split()]
    if login is None or login.identity_token is None:
        separator = "&" if "?" in path else "?"
        return Request(what, "GET", ""), f"{path}{separator}{urlencode(wanted)}"
    form = [
        ("grant_type", "refresh_token"),
        ("client_id", "edgeline"),
        ("refresh_token", login.identity_token),
        *wanted,
    ]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request(what, "POST", "", headers=headers, body=urlencode(form).encode()), path


def _parse_url(url: str) -> _Target:
    """Return where an untrusted URL leads.

    Raises:
        ValueError: it is malformed, or neither http nor https.
    """
    try:
        parsed = parse_url(url)
        (parsed.host or "").encode("idna")  # as TLS and the resolver do
    except (LocationParseError, UnicodeError):
        parsed = Url()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.auth is not None:
        raise ValueError(f"{quoted(url)} is no http or https URL of a host")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return _Target(parsed.scheme, parsed.host, port, parsed.request_uri)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After asks to wait, from a number or a date."""
    try:
        return None if value is None else min(Retry().parse_retry_after(value), _LONG)
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _said(response: Response) -> str:
    """Return what an error's body says of itself, as OCI prescribes; nothing when it does not."""
    try:
        (first, *_) = parse_object(response.read(MAX_ERROR))["errors"]
        detail = first.get("detail")
        if isinstance(detail, dict):  # as Quay has it; GitLab has a string
            detail = detail.get("message")
        parts = [first.get("code"), first.get("message"), isinstance(detail, str) and detail]
    except (IntegrityError, UnreachableError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f". It said {quoted(': '.join(str(part) for part in parts if part))}"


def _cause(error: BaseException) -> BaseException:
    """Return the innermost of the errors that urllib3 wraps in one another."""
    inner = error.args[-1] if error.args else None
    return _cause(inner) if isinstance(inner, BaseException) else error


def _words(error: BaseException) -> str:
    """Return what an error says, as part of one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return quoted(" ".join(text.split()))[1:-1]
