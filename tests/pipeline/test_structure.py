"""What imports what: no circles, nothing that lies above, and no library's private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import components
import edgeline
import pipeline

FOLDERS = {
    package.__name__: Path(next(iter(package.__path__)))
    for package in (pipeline, components, edgeline)
}
# Named like private ones, but for all to use: of named tuples, `os`, and IPython's display; and a
# type of argparse that has no other name.
PUBLIC = {"_replace", "_make", "_exit", "_repr_html_", "_SubParsersAction"}


def named(package: str, file: Path) -> str:
    parts = file.relative_to(FOLDERS[package]).with_suffix("").parts
    return ".".join((package, *(part for part in parts if part != "__init__")))


MODULES = {
    named(package, file): file
    for package, folder in FOLDERS.items()
    for file in folder.rglob("*.py")
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(module: str) -> Iterator[str]:
    """Modules, ours and others, wherever in the file they are imported."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


OURS = {module: {name for name in imported(module) if name in MODULES} for module in MODULES}


def test_imports_make_no_circle() -> None:
    """Not even those inside functions, which would only hide one."""
    order = list(TopologicalSorter(OURS).static_order())  # or it raises CycleError
    assert order.index("pipeline.errors") < order.index("pipeline.__main__")


@pytest.mark.parametrize(
    ("package", "above"), [("edgeline", ("components", "pipeline")), ("components", ("pipeline",))]
)
def test_what_is_used_by_others_does_not_use_them(package: str, above: tuple[str, ...]) -> None:
    users = {
        module: sorted(name for name in found if name.split(".")[0] in above)
        for module, found in OURS.items()
        if module.split(".")[0] == package
    }
    assert users
    assert {module: found for module, found in users.items() if found} == {}


def test_the_configuration_needs_plain_data_alone() -> None:
    def needed(module: str) -> set[str]:
        return OURS[module].union(*map(needed, OURS[module]))

    assert {name for name in needed("pipeline.config") if not name.startswith("edgeline")} == {
        "components.tflite_rewriter.variants",
        "pipeline.config_mistakes",
        "pipeline.errors",
        "pipeline.training.bases",
    }


# Of every component one, as TFX has them; and the type of an artifact beside its content.
SHARED_NAMES = {"Executor", "Settings", "Predictions"}


def test_a_class_has_a_name_of_its_own() -> None:
    """So that who searches for it finds it."""
    places: dict[str, list[str]] = {}
    for module in MODULES:
        if module.split(".")[0] in ("pipeline", "components"):
            for node in tree(module).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module)
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: found for name, found in shared.items() if name not in SHARED_NAMES} == {}


def private_names(module: str) -> Iterator[str]:
    """What is private to others, as far as that can be read off: imports, and attributes."""
    for name in imported(module):
        others = name.split(".")[0] not in FOLDERS
        hidden = any(part.startswith("_") and part[1:2] != "_" for part in name.split("."))
        if (others and hidden) or name.startswith(("keras.src", "tensorflow.python")):
            yield name
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = node.value
            own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
            if not own and not node.attr.endswith("__") and node.attr not in PUBLIC:
                yield node.attr


def test_private_names_of_libraries_are_used_in_one_module() -> None:
    users = {
        module: set(private_names(module))
        for module in MODULES
        if module.split(".")[0] in ("pipeline", "components")
    }
    assert {module: names for module, names in users.items() if names} == {
        "pipeline.training.keras_internals": {
            "_keras_history",
            "_clip_gradients",
            "_all_reduce_sum_gradients",
        }
    }
