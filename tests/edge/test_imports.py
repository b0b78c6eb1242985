"""Which of the device package's modules know each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "edge" / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imported(module: str) -> set[str]:
    """What a module imports of the package, also within functions, but not for types alone."""
    names: set[str] = set()
    for node in _nodes(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{each.name}" for each in node.names} & MODULES.keys()
            names |= inside or {node.module}
    return names & MODULES.keys()


def _nodes(node: ast.AST) -> list[ast.AST]:
    """All nodes below one, but those that only a type checker sees."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return []
    return [node, *(each for child in ast.iter_child_nodes(node) for each in _nodes(child))]


def test_no_modules_know_each_other_in_a_circle() -> None:
    graph = {module: imported(module) for module in MODULES}
    assert "edgeline.device.state" in graph["edgeline.device.update"]
    TopologicalSorter(graph).prepare()  # raises a CycleError that names it


@pytest.mark.parametrize(
    ("part", "strangers"),
    [
        ("registry", ("cli", "device", "fleet", "publish", "runtime")),
        ("publish", ("cli", "device", "fleet", "runtime")),
        ("device", ("cli",)),
    ],
)
def test_a_part_does_not_know_those_that_rest_on_it(part: str, strangers: tuple[str, ...]) -> None:
    own = [module for module in MODULES if module.startswith(f"edgeline.{part}.")]
    assert own
    for module in own:
        parts = {name.split(".")[1] for name in imported(module) if "." in name}
        assert not parts & set(strangers), module
