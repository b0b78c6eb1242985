"""The registry that a configuration names, and what is wrong with it before a run has begun.

A run that can't publish in the end must not train for an hour first.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from components.destination import Destination, Registry
from edgeline.errors import NotFoundError, RegistryError
from edgeline.registry.format import MAX_TUF_METADATA
from pipeline.config import Config
from pipeline.errors import UserError

_COMMAND = ("edgeline", "registry")
_KEYS = (*_COMMAND, "keys")


def destination(config: Config) -> Destination:
    """Where the configuration's releases go.

    Raises:
        UserError: the trusted root can't be read.
    """
    settings = config.publishing
    try:
        with settings.root.open("rb") as file:
            root = file.read(MAX_TUF_METADATA)
    except OSError as error:
        raise UserError(
            f"registry.root: {settings.root} can't be read: {error.strerror}; expected the "
            f"root.json of {settings.location}, which is made together with the registry by\n"
            f"  {init_command(config)}"
        ) from error
    return Destination(
        location=settings.location,
        model=config.name,
        channel=settings.channel,
        trusted_root=root,
        keys=config.key_uris,
        connection=settings.connection,
    )


def check_registry(config: Config) -> list[str]:
    """Checks that a release could be published now: registry, root, model and keys.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: it could not, and what to do.
    """
    where = destination(config)
    with _as_setting("registry.keys"):
        registry = where.open()
    _check_metadata(config, registry)
    with _as_setting("registry.keys"):
        registry.repository.check_can_sign(config.name, config.publishing.channel)
        registry.try_keys(config.name)
    return list(_expiring(config, registry))


def init_command(config: Config, keys: str = "") -> str:
    """The command that makes the configuration's registry, with its keys in a folder."""
    settings = config.publishing
    options = ["--model", config.name, "--keys", keys or str(settings.root.parent)]
    command = ["init", settings.location, *options, *_connection_options(config)]
    return shlex.join([*_COMMAND, *command])


def _check_metadata(config: Config, registry: Registry) -> None:
    """Checks that the registry is there and to be trusted, and that it knows the model."""
    location = config.publishing.location
    try:
        roles = {role.name for role in registry.repository.roles()}
    except NotFoundError as error:
        # With its root at hand, the registry was made, somewhere. `init` reuses no keys.
        command = init_command(config, keys="NEW-FOLDER")
        raise UserError(
            f"registry.location: {error}. A new one needs keys of its own, and registry.root to be "
            f"their root.json:\n  {command}"
        ) from error
    except RegistryError as error:
        raise UserError(f"registry.location: {error}") from error
    if f"{config.name}-ci" not in roles:
        models = sorted(role.removesuffix("-ci") for role in roles if role.endswith("-ci"))
        raise UserError(
            f"name: {location} has no model {config.name!r}; it has {', '.join(models)}. Whoever "
            f"holds its targets key can add it:\n{_add_model_commands(config)}"
        )


def _add_model_commands(config: Config) -> str:
    settings = config.publishing
    folder = settings.root.parent
    ci, release = (folder / f"{config.name}-{role}.pem" for role in ("ci", "release"))
    options = ["--ci-key", str(ci.with_suffix(".pub"))]
    options += ["--release-key", str(release.with_suffix(".pub"))]
    options += ["--root", str(settings.root), "--key", str(folder), *_connection_options(config)]
    commands = [
        shlex.join([*_KEYS, "create", str(ci)]),
        shlex.join([*_KEYS, "create", str(release)]),
        shlex.join([*_KEYS, "add-model", settings.location, config.name, *options]),
    ]
    return "\n".join(f"  {command}" for command in commands)


def _expiring(config: Config, registry: Registry) -> Iterator[str]:
    """A warning when signatures are about to expire, or have."""
    settings = config.publishing
    ending = {
        role.name: role.expires
        for role in registry.repository.roles()
        if role.needs_signing and role.expires
    }
    if ending:
        options = ["--root", str(settings.root), "--key", str(settings.root.parent)]
        command = ["refresh", settings.location, *options, *_connection_options(config)]
        yield (
            f"{settings.location}: devices refuse it from {min(ending.values()):%Y-%m-%d} on, when "
            f"signatures of {', '.join(ending)} expire: {shlex.join([*_COMMAND, *command])}"
        )


def _connection_options(config: Config) -> list[str]:
    settings = config.publishing
    options = [
        ("--ca-file", settings.ca_file),
        ("--client-cert", settings.client_cert),
        ("--client-key", settings.client_key),
    ]
    given = [part for name, file in options if file for part in (name, str(file))]
    return [*given, *(["--insecure"] if settings.insecure else [])]


@contextmanager
def _as_setting(name: str) -> Iterator[None]:
    """Tells a registry's error as a mistake in a setting."""
    try:
        yield
    except RegistryError as error:
        raise UserError(f"{name}: {error}") from error
