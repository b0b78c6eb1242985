"""From a command's options to what it works with: the registry's server, the root, the state."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline.cli.output import UsageError
from edgeline.registry.home import read_root

if TYPE_CHECKING:
    from edgeline.registry.store import Connection

ROOT_VARIABLE = "EDGELINE_ROOT"
STATE_VARIABLE = "EDGELINE_STATE"


def connection(options: argparse.Namespace) -> "Connection":
    """Return how to reach the registry server."""
    from edgeline.registry.store import Connection

    return Connection(
        ca_file=options.ca_file,
        client_cert=options.client_cert,
        client_key=options.client_key,
        insecure=options.insecure,
        timeout=options.timeout,
    )


def required_root(options: argparse.Namespace) -> bytes:
    """Return the trusted root.

    Raises:
        UsageError: it is not given.
        RegistryError: it cannot be read.
    """
    path = root_path(options)
    if path is None:
        raise UsageError(
            f"No trusted root: expected --root FILE, or {ROOT_VARIABLE} in the environment. It is "
            "the root.json that `edgeline registry init` made; get it from whoever keeps the "
            "registry, and not from the registry itself"
        )
    return read_root(path)


def state_folder(options: argparse.Namespace) -> Path | None:
    """Return where trusted metadata is to be kept; None if that is not said."""
    given: Path | None = options.state
    return given or _path_from_environment(STATE_VARIABLE)


def root_path(options: argparse.Namespace) -> Path | None:
    """Return where the trusted root is; None if that is not said."""
    given: Path | None = options.root
    return given or _path_from_environment(ROOT_VARIABLE)


def _path_from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
