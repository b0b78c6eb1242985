"""Logins for registry servers, from where `docker login` and `podman login` leave them.

Passwords lie in a JSON file, or with a program that the file names: docker-credential-<name>.
"""

import base64
import binascii
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeline._files import read_bounded
from edgeline._json import parse_object
from edgeline.errors import RegistryError

_MAX_FILE = 1 << 20  # bytes
_HELPER_NAME = re.compile(r"[a-z0-9-]+")
_HELPER_SECONDS = 10.0  # a helper may ask a keyring, but not a person
_NOT_THERE = "credentials not found"  # how every helper begins to say that it has none
_CHALLENGE = re.compile(
    r'(?P<key>[\w-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s",]+))|(?P<scheme>[\w-]+)'
)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_TOKEN_USER = "<token>"  # the user's name when the secret is an identity token
DOCKER_HUB, DOCKER_HUB_HOST = "docker.io", "registry-1.docker.io"  # its name, and who answers
_DOCKER_HUB_NAMES = (DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST)
# What `docker login` without a server leaves the login of Docker Hub under.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Login:
    """What a registry server takes as proof of who asks."""

    source: Path  # the file that holds it, or names the program that does
    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)  # instead of the other two

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def login_files() -> list[Path]:
    """Return the files where a login may be, the first of which that has one counts.

    REGISTRY_AUTH_FILE and XDG_RUNTIME_DIR name podman's, DOCKER_CONFIG the folder of Docker's.
    """
    files = []
    if chosen := os.environ.get("REGISTRY_AUTH_FILE"):
        files.append(Path(chosen))
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        files.append(Path(runtime, "containers", "auth.json"))
    if folder := os.environ.get("DOCKER_CONFIG"):
        files.append(Path(folder, "config.json"))
    else:
        files.append(Path("~/.docker/config.json").expanduser())
    return files


def find_login(server: str, repository: str, *, seconds: float) -> Login | None:
    """Return the login for a repository of `server`, a host[:port]; None when there is none.

    A helper that is not installed has none: a server may let everybody read.

    Raises:
        RegistryError: a file or a helper that should hold it cannot be used, or the helper does not
            answer within `seconds`.
    """
    for path in login_files():
        config = _read(path)
        known_as = _DOCKER_HUB_KEY if server in _DOCKER_HUB_NAMES else server
        helper = _helper(path, config, known_as)
        login = _ask_helper(path, helper, known_as, seconds) if helper else None
        if login is None:
            login = _stored(path, config, server, repository)
        if login is not None:
            return login
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return parse_object(read_bounded(path, _MAX_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RegistryError(f"The logins in {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RegistryError(
            f"The logins in {path} cannot be read: {error}. Expected what 'docker login' writes"
        ) from None


def _section(path: Path, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if isinstance(section, dict):
        return section
    raise RegistryError(f"The logins in {path} cannot be read: {name!r} is not a JSON object")


def _helper(path: Path, config: Mapping[str, Any], server: str) -> str | None:
    """Return the name of the program that holds the server's login, if one does."""
    helper = _section(path, config, "credHelpers").get(server) or config.get("credsStore")
    if not helper:
        return None
    if isinstance(helper, str) and _HELPER_NAME.fullmatch(helper):
        return f"docker-credential-{helper}"
    raise RegistryError(
        f"{path} names {helper!r} as the credential helper for {server}; "
        "expected the last part of docker-credential-<name>, of a-z, 0-9 and '-'"
    )


def _ask_helper(path: Path, helper: str, server: str, seconds: float) -> Login | None:
    seconds = min(seconds, _HELPER_SECONDS)
    try:
        done = subprocess.run(
            [helper, "get"],
            input=server.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _helper_error(path, helper, f"did not answer within {seconds:.3g} seconds") from None
    except FileNotFoundError:
        _log.warning("%s, the credential helper that %s names, is not installed", helper, path)
        return None
    except OSError as error:
        raise _helper_error(path, helper, f"cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        # What a helper prints when it fails is no secret, and Docker shows it too.
        said = done.stdout.decode(errors="replace").strip()
        if said.startswith(_NOT_THERE):
            return None
        raise _helper_error(path, helper, f"failed and said {said[:200]!r}")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _helper_error(path, helper, "gave no JSON with Username and Secret") from None
    if username == _TOKEN_USER:
        return Login(path, "", "", identity_token=secret)
    return Login(path, username, secret)


def _helper_error(path: Path, helper: str, what: str) -> RegistryError:
    return RegistryError(f"{helper}, the credential helper that {path} names, {what}")


def _stored(path: Path, config: Mapping[str, Any], server: str, repository: str) -> Login | None:
    """Return the login that the file itself holds for the repository, or else for its server."""
    entries = _section(path, config, "auths")
    for key in _keys(entries, server, repository):
        entry = entries[key]
        if not isinstance(entry, dict):
            raise RegistryError(f"{path} is broken: the login for {key!r} is not a JSON object")
        token, pair = entry.get("identitytoken"), entry.get("auth")
        if isinstance(token, str) and token:
            return Login(path, "", "", identity_token=token)
        if isinstance(pair, str) and pair:
            return Login(path, *_decoded(path, key, pair))
    return None


def _keys(entries: Mapping[str, Any], server: str, repository: str) -> Iterator[str]:
    """Yield the keys that mean the repository, its namespaces or its server, closest one first."""
    namespaces = repository.split("/")
    servers = _DOCKER_HUB_NAMES if server in _DOCKER_HUB_NAMES else (server,)
    wanted = [
        "/".join([name, *namespaces[:length]])
        for length in range(len(namespaces), -1, -1)
        for name in servers
    ]
    yield from (key for key in wanted if key in entries)
    # Old versions of Docker wrote a URL.
    yield from (key for key in entries if re.sub(r"^https?://([^/]*).*$", r"\1", key) in servers)


def _decoded(path: Path, key: str, pair: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(pair, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise RegistryError(
            f"{path} is broken: 'auth' of {key!r} is not the base64 of <user>:<password>. "
            f"Log in again: docker login {key}"
        )
    # Docker pads with NULs.
    return username, password.rstrip("\0")


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each scheme in a WWW-Authenticate header; names in lower case."""
    challenges: dict[str, dict[str, str]] = {}
    parameters: dict[str, str] = {}
    for match in _CHALLENGE.finditer(header):
        if match["scheme"]:
            parameters = challenges.setdefault(match["scheme"].lower(), {})
        else:
            quoted, plain = match["quoted"], match["plain"]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[match["key"].lower()] = value
    return challenges


def parse_token(data: bytes) -> str:
    """Return the token in a token service's answer.

    Raises:
        ValueError: there is none.
    """
    answer = parse_object(data)
    token = answer.get("token") or answer.get("access_token")
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return token
    raise ValueError("expected a 'token' or an 'access_token' of printable ASCII")
