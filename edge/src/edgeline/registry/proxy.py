"""The HTTP proxy that TLS connections go through, where the environment names one.

As with curl and requests: HTTPS_PROXY, or else ALL_PROXY, is a proxy's URL, and NO_PROXY lists the
hosts that are reached without. Each may be written in lower case, which then counts. A proxy sees
which server is talked to, and nothing of what is said: TLS goes through it from end to end.
"""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import unquote
from urllib.request import proxy_bypass

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, make_headers, parse_url

from edgeline.errors import RegistryError

_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_DEFAULT_PORT = 80


@dataclass(frozen=True)
class Proxy:
    """Where a proxy is, and what shows it that we may use it."""

    variable: str  # of the environment, that names it
    host: str
    port: int
    login: str | None = field(default=None, repr=False)  # "user:password"

    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port} of {self.variable}"

    @property
    def headers(self) -> dict[str, str]:
        """What to send to it besides where to."""
        return make_headers(proxy_basic_auth=self.login) if self.login else {}


def is_loopback(host: str) -> bool:
    """Tell whether a host is this very machine: localhost, 127.0.0.0/8 or [::1]."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def find_proxy(host: str, port: int) -> Proxy | None:
    """Return the proxy to reach a host through; None when it is to be reached without.

    Raises:
        RegistryError: what the environment names is no HTTP proxy.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None or is_loopback(host):
        return None
    return None if proxy_bypass(f"{host}:{port}") else _parse(variable, os.environ[variable])


def _parse(variable: str, value: str) -> Proxy:
    try:
        url = parse_url(value if "://" in value else f"http://{value}")
    except LocationParseError:
        url = Url()
    if url.scheme == "http" and url.host:
        login = None if url.auth is None else unquote(url.auth)
        return Proxy(variable, url.host, url.port or _DEFAULT_PORT, login)
    # Without what may be a password.
    found = f"{url.scheme}://{url.host}" if url.scheme and url.host else "something else"
    raise RegistryError(
        f"{variable} names a proxy that cannot be used: expected http://[user:password@]host:port, "
        f"got {found!r}. Correct it, or list the registry's host in NO_PROXY"
    )
