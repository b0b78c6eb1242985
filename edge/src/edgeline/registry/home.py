"""What this machine has of a registry: its root and its state. Light, as every start needs it."""

import hashlib
import os
from pathlib import Path

from edgeline._files import read_bounded
from edgeline.errors import RegistryError
from edgeline.registry.connection import OCI_SCHEME
from edgeline.registry.format import MAX_TUF_METADATA


def read_root(path: Path) -> bytes:
    """Return the trusted root in a file.

    Raises:
        RegistryError: it cannot be read, or is too large for one.
    """
    try:
        return read_bounded(path, MAX_TUF_METADATA)
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"The trusted root {path} cannot be read: {getattr(error, 'strerror', error)}. "
            "Expected the root.json that `edgeline registry init` made"
        ) from None


def default_state(location: str, root: bytes) -> Path:
    """Return the folder where the state of a registry is kept unless its user says otherwise.

    Raises:
        RegistryError: this user has no home directory.
    """
    where = location if location.startswith(OCI_SCHEME) else str(Path(location).resolve())
    name = hashlib.sha256(b"\0".join([os.fsencode(where), root])).hexdigest()[:32]
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        # What is not absolute is to be ignored, the XDG specification says.
        home = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        raise RegistryError(
            "There is no home directory to keep the registry's state in. "
            "Set XDG_STATE_HOME, or name a folder for it"
        ) from None
    return home / "edgeline" / name
