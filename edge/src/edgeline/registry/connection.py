"""How a registry server is named, and how it is reached."""

from dataclasses import dataclass
from pathlib import Path

OCI_SCHEME = "oci://"


@dataclass(frozen=True)
class Connection:
    """How to reach a registry server; a directory needs none of it."""

    ca_file: Path | None = None  # PEM certificates to trust instead of the system's
    client_cert: Path | None = None  # PEM, for mutual TLS
    client_key: Path | None = None  # PEM, unless it is in client_cert
    insecure: bool = False  # plain HTTP to other hosts than this one
    timeout: float = 60.0  # seconds that one call of a store's method may take in all, at most
    # but for a blob's content, which may take as long as it makes progress


NO_SETTINGS = Connection()
