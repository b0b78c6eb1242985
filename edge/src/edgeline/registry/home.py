"""Where a registry's state is kept on this machine: light, as every start of a device needs it."""

import hashlib
import os
from pathlib import Path

from edgeline.errors import RegistryError
from edgeline.registry.connection import OCI_SCHEME


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
