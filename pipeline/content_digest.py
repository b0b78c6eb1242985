"""Digests of code and files, for the cache and for the record.

TFX's cache key knows a step's inputs and settings, but neither the code it runs (for code imported
by name), nor the libraries under it, nor the content of a file that a setting points at. All of
them become settings by their digest, so that a step is stale when what it depends on has changed.
"""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

from components.libraries import library_versions
from components.tflite_models import sha256_of


def code_digest(*modules: str) -> str:
    """The SHA-256, in hex, of the source of modules and of the libraries' versions.

    Args:
        modules: as in `source_digest`.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    content = [source_digest(*modules), library_versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def source_digest(*modules: str) -> str:
    """The SHA-256, in hex, of the source of modules and of every module in packages.

    Args:
        modules: importable names; they are not imported.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    digest = hashlib.sha256()
    for name in sorted(modules):
        for file in _source_files(name):
            digest.update(f"{name}/{file.name}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def file_digest(path: str) -> str:
    """The SHA-256, in hex, of a file, or the empty string where there is none."""
    file = Path(path)
    return sha256_of(file) if file.is_file() else ""


def tree_digest(path: str) -> str:
    """The SHA-256, in hex, of a file, or of all that is in a folder; empty where there is none."""
    root = Path(path)
    if not path or not root.is_dir():
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in root.glob("**/*") if file.is_file()):
        digest.update(f"{file.relative_to(root)}\0{file_digest(str(file))}\0".encode())
    return digest.hexdigest()


def _source_files(name: str) -> list[Path]:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {name!r}")
    origin = Path(spec.origin)
    if spec.submodule_search_locations:
        return sorted(origin.parent.glob("**/*.py"))
    return [origin]
