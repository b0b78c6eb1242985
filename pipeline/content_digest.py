"""Digests of code and files, for the cache and for the record.

TFX's cache key knows a step's inputs and settings, but neither the code it runs (for code imported
by name), nor the libraries under it, nor the content of a file that a setting points at. All of
them become settings by their digest, so that a step is stale when what it depends on has changed.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from components.libraries import library_versions
from edgeline._files import sha256_of

OURS = ("pipeline", "components", "edgeline")
INIT = "__init__.py"


def code_digest(*modules: str) -> str:
    """The SHA-256, in hex, of what modules run: their source, and the libraries' versions.

    Their source is also that of every module of ours that they import, anywhere in their text, and
    of the data files beside those, such as templates.

    Args:
        modules: importable names; they are not imported. What is named in strings only, and is
            imported or started by name, is to be given, too.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    digest = hashlib.sha256(json.dumps(library_versions(), sort_keys=True).encode())
    for name in sorted(import_closure(*modules)):
        for file in _files_of(name):
            digest.update(f"{name}/{file.name}\0{file_digest(str(file))}\0".encode())
    return digest.hexdigest()


def source_digest(*packages: str) -> str:
    """The SHA-256, in hex, of every file in packages, or of modules.

    Args:
        packages: importable names; they are not imported.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    digest = hashlib.sha256()
    for name in sorted(packages):
        origin = _origin(name)
        for file in sorted(_all_files(origin.parent)) if origin.name == INIT else [origin]:
            label = file.relative_to(origin.parent)
            digest.update(f"{name}/{label}\0{file_digest(str(file))}\0".encode())
    return digest.hexdigest()


def import_closure(*modules: str) -> set[str]:
    """The modules of our packages that modules import, directly or not, and themselves.

    The packages that they are in are among them, too, but not what these import in turn, to offer
    it to others.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    found: set[str] = set()
    wanted = set(modules)
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted |= _imports(name) - found
    return found | {package for name in found for package in _packages(name)}


@cache
def _imports(name: str) -> frozenset[str]:
    """Our modules that a module's text imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_origin(name).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            # A package of which modules are imported is not what is imported.
            modules = {member for member in members if _is_ours(member)}
            names |= modules if modules == members else {node.module, *modules}
    return frozenset(filter(_is_ours, names))


def _packages(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _is_ours(name: str) -> bool:
    """Whether it is a module of ours, and not something else or something in one."""
    return name.split(".")[0] in OURS and _find(name) is not None


def _files_of(name: str) -> list[Path]:
    """A module's file, and the data files beside it."""
    origin = _origin(name)
    beside = (file for file in origin.parent.iterdir() if file.is_file() and file.suffix != ".py")
    return [origin, *sorted(beside)]


def _all_files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def _origin(name: str) -> Path:
    """The file of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    if (file := _find(name)) is None:
        raise ModuleNotFoundError(f"no module named {name!r}")
    return file


def _find(name: str) -> Path | None:
    """The file of a module, found without importing the packages it is in."""
    package, *parts = name.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.joinpath(*parts)
    candidates = (place / INIT, place.with_suffix(".py")) if parts else (Path(spec.origin),)
    return next((file for file in candidates if file.is_file()), None)


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
