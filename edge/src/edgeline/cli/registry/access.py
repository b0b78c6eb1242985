"""From an operator's options to what a command works with: stores, the trusted root, and keys."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeline.cli.access import ROOT_VARIABLE, connection, required_root, root_path
from edgeline.cli.output import UsageError, note
from edgeline.errors import RegistryError
from edgeline.registry.home import read_root

if TYPE_CHECKING:
    from securesystemslib.signer import Key

    from edgeline.publish.keys import Signers
    from edgeline.publish.repository import Repository
    from edgeline.publish.store import WriteStore
    from edgeline.registry.store import ReadStore

KEYS_VARIABLE = "EDGELINE_KEYS"


def store_to_read(options: argparse.Namespace, location: str) -> "ReadStore":
    """Open a store for reading."""
    from edgeline.registry.store import open_store

    return open_store(location, connection(options))


def store_to_write(options: argparse.Namespace, location: str) -> "WriteStore":
    """Open a store for writing, which may be still to be made."""
    from edgeline.publish.store import open_for_writing

    return open_for_writing(location, connection(options))


def existing_store(options: argparse.Namespace) -> "WriteStore":
    """Open the store of the command line for reading and writing.

    Raises:
        NotFoundError: there is no such store.
    """
    store_to_read(options, options.store)
    return store_to_write(options, options.store)


def any_root(options: argparse.Namespace, store: "ReadStore") -> bytes:
    """Return the trusted root; without one, the store's own, saying how little that proves."""
    path = root_path(options)
    if path is not None:
        return read_root(path)
    root = first_root(store)
    note(
        "signatures are checked against the store's own root, which whoever wrote the store may "
        f"have made; pin the registry's root.json with --root FILE or {ROOT_VARIABLE}"
    )
    return root


def first_root(store: "ReadStore") -> bytes:
    """Return the first root in the store: what to trust if one trusts the store.

    Raises:
        NotFoundError: the store is not initialized.
        IntegrityError: its metadata is damaged.
    """
    from edgeline.registry.bundle import file_name, read_bundle
    from edgeline.registry.format import MAX_TUF_METADATA

    bundle = read_bundle(store)
    name = file_name("root", 1)
    if name not in bundle.files:
        raise RegistryError(
            f"{store.location} does not hold its first root, {name}: pin the registry's root.json "
            f"with --root FILE or {ROOT_VARIABLE}"
        )
    return store.read_blob(bundle.files[name], limit=MAX_TUF_METADATA)


def signers(options: argparse.Namespace) -> "Signers":
    """Return the keys that the person or machine at hand can sign with.

    Raises:
        UsageError: none are given.
        RegistryError: one of them cannot be used.
    """
    from edgeline.publish.keys import Signers

    uris = options.keys or os.environ.get(KEYS_VARIABLE, "").split()
    if not uris:
        raise UsageError(
            f"No key to sign with: expected --key URI, or {KEYS_VARIABLE} in the environment, with "
            "the path of a PEM file, of a folder of them, or another URI (see --help)"
        )
    return Signers.load(uris)


def repository_to_read(options: argparse.Namespace) -> "Repository":
    """Return the signed metadata of the command line's store, verified and without any key.

    Raises:
        NotFoundError: there is no such store.
    """
    from edgeline.publish.keys import Signers
    from edgeline.publish.repository import Repository

    store = existing_store(options)
    return Repository(store, root=any_root(options, store), signers=Signers())


def repository(options: argparse.Namespace) -> "Repository":
    """Return the signed metadata of the command line's store, with the keys to change it.

    Raises:
        NotFoundError: there is no such store.
        UsageError: there is no root, or no key.
        RegistryError: one of them cannot be used.
    """
    store = existing_store(options)
    from edgeline.publish.repository import Repository
    from edgeline.registry.format import TUF_TAG

    root, keys, base = required_root(options), signers(options), getattr(options, "base", None)
    return Repository(store, root=root, signers=keys, base=base or TUF_TAG)


def public_key(file: Path) -> "Key":
    """Return the public half of a key, from its file or from beside the private one."""
    from edgeline.key_files import read_public_key

    return read_public_key(file)


def key_to_add(file: Path) -> "Key":
    """Return the public half of a key that shall count, saying what devices need for it."""
    from edgeline.publish.keys import takes_cryptography

    key = public_key(file)
    if takes_cryptography(key):
        note(
            f"{file} is an ECDSA key, which devices verify with `pip install 'edgeline[ecdsa]'`; "
            "those without it keep their model and take no updates"
        )
    return key
