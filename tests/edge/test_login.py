"""Logins are found where Docker and Podman leave them, and never shown in an error."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeline.errors import RegistryError
from edgeline.registry.login import Login, find_login, parse_challenges

SERVER = "registry.example:5000"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def write(file: Path, config: Mapping[str, Any] | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return file


def docker(home: Path, config: Mapping[str, Any] | str) -> Path:
    return write(home / "home" / ".docker" / "config.json", config)


def entry(user: str, password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def helper(home: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put docker-credential-test on the path."""
    file = write(home / "bin" / "docker-credential-test", f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")


def find(repository: str = "models/cells") -> Login | None:
    return find_login(SERVER, repository, seconds=20.0)


def test_nobody_has_logged_in() -> None:
    assert find() is None


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (SERVER, True),
        (f"https://{SERVER}", True),
        (f"https://{SERVER}/v1/", True),
        (f"{SERVER}/models", True),
        (f"{SERVER}/models/cells", True),
        (f"{SERVER}/models/cells/more", False),
        (f"{SERVER}/model", False),
        ("registry.example", False),
        ("registry.example:5001", False),
        (f"https://{SERVER}.evil.example/", False),
        (f"https://{SERVER}@evil.example/", False),
        (f"evil.example/{SERVER}", False),
    ],
)
def test_a_login_is_for_one_server(home: Path, key: str, found: bool) -> None:
    docker(home, {"auths": {key: entry("ada")}})
    assert (find() is not None) is found


def test_the_login_of_a_repository_goes_before_that_of_its_server(home: Path) -> None:
    auths = {SERVER: entry("server"), f"{SERVER}/models": entry("models")}
    docker(home, {"auths": auths})
    login = find()
    assert login is not None
    assert (login.username, login.password) == ("models", "secret")


def test_a_password_may_have_colons_and_is_never_printed(home: Path) -> None:
    docker(home, {"auths": {SERVER: entry("ada", "a:b:ü\0\0")}})
    login = find()
    assert login is not None
    assert login.password == "a:b:ü"
    assert base64.b64decode(login.basic.removeprefix("Basic ")) == b"ada:a:b:\xc3\xbc"
    assert "a:b" not in repr(login)


def test_an_entry_without_content_is_no_login(home: Path) -> None:
    docker(home, {"auths": {SERVER: {}}})
    assert find() is None


def test_the_first_file_that_has_one_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(home, {"auths": {SERVER: entry("home")}})
    users = []
    for name, file, value in (
        ("DOCKER_CONFIG", home / "docker" / "config.json", home / "docker"),
        ("XDG_RUNTIME_DIR", home / "run" / "containers" / "auth.json", home / "run"),
        ("REGISTRY_AUTH_FILE", home / "chosen.json", home / "chosen.json"),
    ):
        users.append(getattr(find(), "username", None))
        write(file, {"auths": {SERVER: entry(name)}})
        monkeypatch.setenv(name, str(value))
    users.append(getattr(find(), "username", None))
    assert users == ["home", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE"]
    write(home / "chosen.json", {"auths": {"other.example": entry("other")}})
    assert getattr(find(), "username", None) == "XDG_RUNTIME_DIR"


BROKEN: dict[str, Mapping[str, Any] | str] = {
    "no JSON": "{",
    "a list": "[]",
    "much too long": f'{{"auths": "{"x" * (1 << 20)}"}}',
    "deep": "[" * 10_000,
    "auths of another kind": {"auths": []},
    "credHelpers of another kind": {"credHelpers": "test"},
    "an entry of another kind": {"auths": {SERVER: "secret"}},
    "no base64": {"auths": {SERVER: {"auth": "secret!"}}},
    "no colon": {"auths": {SERVER: {"auth": base64.b64encode(b"secret").decode()}}},
    "no text": {"auths": {SERVER: {"auth": base64.b64encode(b"\xff:secret").decode()}}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_its_content_is_not(home: Path, name: str) -> None:
    file = docker(home, BROKEN[name])
    with pytest.raises(RegistryError) as caught:
        find()
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_folder_in_place_of_the_file_is_an_error(home: Path) -> None:
    (home / "home" / ".docker" / "config.json").mkdir(parents=True)
    with pytest.raises(RegistryError, match=r"config\.json cannot be read: Is a directory"):
        find()


@pytest.mark.parametrize("config", [{"credHelpers": {SERVER: "test"}}, {"credsStore": "test"}])
def test_a_helper_is_asked_for_the_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, config: Mapping[str, Any]
) -> None:
    script = 'test "$*" = get || exit 1; read server; '
    script += 'echo "{\\"Username\\": \\"ada\\", \\"Secret\\": \\"$server\\"}"'
    helper(home, monkeypatch, script)
    docker(home, {"auths": {SERVER: {}}, **config})
    login = find()
    assert login is not None
    assert (login.username, login.password, login.identity_token) == ("ada", SERVER, None)


def test_a_helper_may_hold_an_identity_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, """echo '{"Username": "<token>", "Secret": "long lived"}'""")
    docker(home, {"credsStore": "test"})
    login = find()
    assert login is not None
    assert login.identity_token == "long lived"


def test_a_helper_that_has_none_leaves_it_to_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(home, monkeypatch, "echo credentials not found in native keychain; exit 1")
    docker(home, {"credsStore": "test", "auths": {SERVER: entry("ada")}})
    login = find()
    assert login is not None
    assert login.username == "ada"


HELPERS = {
    "fails": ("echo keyring is locked; exit 1", "failed and said 'keyring is locked'"),
    "says nothing of use": ("echo hello", "gave no JSON"),
    "gives no secret": ("""echo '{"Username": "ada"}'""", "gave no JSON"),
    "gives a list": ("echo '[]'", "gave no JSON"),
    "does not answer": ("exec sleep 600", "did not answer within"),
}


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_with_a_fault_is_one_clear_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, says = HELPERS[name]
    helper(home, monkeypatch, script)
    file = docker(home, {"credsStore": "test"})
    with pytest.raises(RegistryError, match=says) as caught:
        find_login(SERVER, "cells", seconds=0.5 if "answer" in name else 20.0)
    assert str(caught.value).startswith(
        f"docker-credential-test, the credential helper that {file}"
    )


def test_a_helper_that_is_not_installed_has_none(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docker(home, {"credsStore": "nosuchhelper"})
    assert find() is None
    assert "docker-credential-nosuchhelper" in caplog.text
    assert "is not installed" in caplog.text
    docker(home, {"credsStore": "nosuchhelper", "auths": {SERVER: entry("ada")}})
    assert find() is not None


@pytest.mark.parametrize("server", ["docker.io", "index.docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "docker.io/ada"])
def test_docker_hub_has_one_login_by_several_names(home: Path, server: str, key: str) -> None:
    docker(home, {"auths": {key: entry("ada")}})
    login = find_login(server, "ada/cells", seconds=20.0)
    assert login is not None
    assert login.username == "ada"


def test_a_helper_is_asked_for_docker_hub_by_its_old_address(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'read server; echo "{\\"Username\\": \\"ada\\", \\"Secret\\": \\"$server\\"}"'
    helper(home, monkeypatch, script)
    docker(home, {"credsStore": "test"})
    login = find_login("docker.io", "ada/cells", seconds=20.0)
    assert login is not None
    assert login.password == "https://index.docker.io/v1/"


@pytest.mark.parametrize("name", ["../evil", "a b", "a;b", "$(b)", "A", "a/b", 7, ["a"]])
def test_a_helper_is_a_plain_name(home: Path, name: object) -> None:
    docker(home, {"credHelpers": {SERVER: name}})
    with pytest.raises(RegistryError, match=r"as the credential helper for registry\.example"):
        find()


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", {}),
        ("Basic", {"basic": {}}),
        ('basic realm="a, \\"b\\""', {"basic": {"realm": 'a, "b"'}}),
        ("Basic realm=a , charset=UTF-8", {"basic": {"realm": "a", "charset": "UTF-8"}}),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
            {
                "bearer": {
                    "realm": "https://a/t",
                    "service": "s",
                    "scope": "repository:x:pull,push",
                }
            },
        ),
        ('Basic realm="a", Bearer Realm="b"', {"basic": {"realm": "a"}, "bearer": {"realm": "b"}}),
        ("Negotiate, Basic realm=a", {"negotiate": {}, "basic": {"realm": "a"}}),
    ],
)
def test_challenges_are_told_apart(header: str, challenges: object) -> None:
    assert parse_challenges(header) == challenges
