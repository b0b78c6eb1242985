"""The registry that a configuration names, and what is wrong with it before a run has begun.

A run that can't publish in the end must not train for an hour first.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from components.registry import Destination, Registry
from edgeline.errors import NotFoundError, RegistryError
from edgeline.registry.format import MAX_TUF_METADATA
from pipeline.config import Config
from pipeline.errors import UserError


def destination(config: Config) -> Destination:
    """Where the configuration's releases go.

    Raises:
        UserError: the trusted root can't be read.
    """
    settings = config.registry
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
        root=root,
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
        registry.repository.check_can_sign(config.name, config.registry.channel)
        registry.try_keys(config.name)
    return list(_expiring(config, registry))


def init_command(config: Config, keys: str = "") -> str:
    """The command that makes the configuration's registry, with its keys in a folder."""
    settings = config.registry
    options = ["--model", config.name, "--keys", keys or str(settings.root.parent)]
    return _command("init", settings.location, [*options, *_connection_options(config)])


def _check_metadata(config: Config, registry: Registry) -> None:
    """Checks that the registry is there and to be trusted, and that it knows the model."""
    location = config.registry.location
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
        options = ["--root", str(config.registry.root), *_connection_options(config)]
        raise UserError(
            f"name: {location} has no model {config.name!r}; it has {', '.join(models)}. Whoever "
            "holds the targets key can add it:\n"
            f"  {_command('keys add-model', location, [config.name, *options])}"
        )


def _expiring(config: Config, registry: Registry) -> Iterator[str]:
    """A warning when signatures are about to expire, or have."""
    ending = {
        role.name: role.expires
        for role in registry.repository.roles()
        if role.needs_signing and role.expires
    }
    if ending:
        options = ["--root", str(config.registry.root), *_connection_options(config)]
        yield (
            f"{config.registry.location}: devices stop trusting it on "
            f"{min(ending.values()):%Y-%m-%d}, when signatures of {', '.join(ending)} expire; sign "
            f"anew: {_command('refresh', config.registry.location, options)} --key ..."
        )


def _command(name: str, location: str, arguments: Sequence[str]) -> str:
    return shlex.join(["edgeline", "registry", *name.split(), location, *arguments])


def _connection_options(config: Config) -> list[str]:
    settings = config.registry
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
