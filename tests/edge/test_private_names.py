"""What others keep to themselves is theirs to change: no module of the device package relies on it.

Private is what has one leading underscore: a module, an attribute, a method, an argument.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "edge" / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
ITSELF = ("self", "cls", "super()")
OVERRIDDEN = {
    "_BundleFetcher._fetch",  # the method that python-tuf documents for fetchers to implement
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def is_private(name: str) -> bool:
    return re.match("_[^_]", name) is not None and not name.endswith("_")


def names_of(node: ast.AST) -> set[str]:
    """The private names that a piece of code defines, and those that an object has of itself."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            found.add(each.name)
        elif isinstance(each, ast.arg):
            found.add(each.arg)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            found.add(each.id)
        elif isinstance(each, ast.Attribute) and ast.unparse(each.value) in ITSELF:
            found.add(each.attr)
    return set(filter(is_private, found))


def names_in(node: ast.AST) -> Iterator[str]:
    """The names that a piece of code, without its parts, takes from elsewhere."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Import):
        yield from (part for each in node.names for part in each.name.split("."))
    elif isinstance(node, ast.ImportFrom) and node.module not in MODULES:
        yield from [*str(node.module).split("."), *(each.name for each in node.names)]
    elif isinstance(node, ast.Call):
        yield from (each.arg for each in node.keywords if each.arg)
        if ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            yield ast.unparse(node.args[1]).strip("'")


@cache
def private_to(stranger: type) -> set[str]:
    """The private names of a class, and where it is written in Python those of its objects."""
    try:
        source = textwrap.dedent(inspect.getsource(stranger))
    except (OSError, TypeError):
        source = ""
    return set(filter(is_private, vars(stranger))) | names_of(ast.parse(source))


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_of_others_is_used(module: str) -> None:
    nodes = list(ast.walk(tree(module)))
    used = {name for node in nodes for name in names_in(node) if is_private(name)}
    assert used - names_of(tree(module)) == set()


def test_no_private_name_of_others_is_overridden() -> None:
    """Nor used by a class that is derived from another's, as if it were its own."""
    overridden = set()
    for module in MODULES.keys() - {"edgeline.__main__"}:  # which would run
        for node in tree(module).body:
            if isinstance(node, ast.ClassDef):
                for base in inspect.getmro(getattr(import_module(module), node.name)):
                    private = set() if base.__module__ in MODULES else private_to(base)
                    overridden |= {f"{node.name}.{name}" for name in names_of(node) & private}
    assert overridden == OVERRIDDEN
