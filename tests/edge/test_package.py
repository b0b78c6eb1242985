"""The two distributions: what a device's holds and needs, and that it does without the rest."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from PIL import Image

import edgeline
from benchmarks.wheels import (
    EDGE,
    LEFT_OUT,
    PROJECT,
    REGISTRY_PROJECT,
    SOURCES,
    device_files,
    package_files,
)
from edgeline._distribution import pip_install
from edgeline.cli import main

if TYPE_CHECKING:
    from tests.edge.stores import Store

EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
REGISTRY_EXTRAS: dict[str, list[str]] = REGISTRY_PROJECT["optional-dependencies"]
# The one place that looks for what may be left out, and says so where it is.
ENTRY = "edgeline.cli"

MAX_SIZE = 619_052  # bytes of the package's files, before rollouts


def name_of(file: Path) -> str:
    """Returns a module's name."""
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    """Yields what a module imports, also inside of functions and for types alone."""
    for node in ast.walk(ast.parse((SOURCES / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_what_is_tested_is_this_checkout() -> None:
    assert Path(edgeline.__file__).parent == SOURCES / "edgeline"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a device's wheel, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("device")
    for file in device_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCES / file, folder / file)
    # What an uninstall of an earlier edgeline may leave behind.
    (folder / "edgeline" / "publish" / "__pycache__").mkdir(parents=True)
    return folder


def run(device: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with a device's files before any others."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=device,
        env={**os.environ, "PYTHONPATH": str(device), "XDG_STATE_HOME": str(device / "state")},
        check=False,
    )


def test_a_device_has_whole_folders_less() -> None:
    assert sorted(LEFT_OUT) == ["edgeline/cli/registry", "edgeline/fleet", "edgeline/publish"]
    assert all((SOURCES / folder / "__init__.py").is_file() for folder in LEFT_OUT)


def test_nothing_on_a_device_imports_what_it_has_not() -> None:
    absent = tuple(folder.replace("/", ".") for folder in LEFT_OUT)
    found = {
        f"{name_of(file)}: {imported}"
        for file in device_files()
        if file.suffix == ".py"
        for imported in imports(file)
        if f"{imported}.".startswith(tuple(f"{name}." for name in absent))
    }
    assert found == {f"{ENTRY}: edgeline.cli.registry.add_registry"}


def test_every_module_of_a_device_can_be_imported(device: Path) -> None:
    names = [name_of(file) for file in device_files() if file.suffix == ".py"]
    names.remove("edgeline.__main__")  # which runs
    code = (
        "import importlib, sys; print(*[importlib.import_module(n).__file__ for n in sys.argv[1:]])"
    )
    done = run(device, "-c", code, *names)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(device) for file in done.stdout.split())
    assert len(done.stdout.split()) == len(names) > 50


def test_a_device_pulls_and_predicts(device: Path, pets: Store, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(pets.root)
    Image.new("RGB", (20, 30), "red").save(tmp_path / "red.png")
    where = ("--registry", pets.path, "--model", "pets", "--root", root)
    pulled = run(device, "-m", "edgeline", "pull", *where)
    assert "is served from now on" in pulled.stdout, pulled.stderr
    predict = ("predict", tmp_path / "red.png", *where, "--update", "never")
    done = run(device, "-m", "edgeline", *predict)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "red.png"))


@pytest.mark.parametrize("arguments", ["", "--help", "init registry --model pets", "fleet --help"])
def test_a_device_says_where_the_registry_commands_are(device: Path, arguments: str) -> None:
    done = run(device, "-m", "edgeline", "registry", *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("edgeline: `edgeline registry` is not in the distribution")
    assert "install edgeline-registry in its place" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_help_says_what_is_not_there(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(run(device, "-m", "edgeline", "--help").stdout.split())
    assert "registry manage an edge model registry: in edgeline-registry, not here" in said
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "not here" not in capsys.readouterr().out


def test_a_device_names_its_own_extras(device: Path) -> None:
    code = "from edgeline._distribution import pip_install; print(pip_install('heif'))"
    assert run(device, "-c", code).stdout == "pip install 'edgeline[heif]'\n"
    assert pip_install("heif") == "pip install 'edgeline-registry[heif]'"


def test_whoever_looks_after_a_registry_and_predicts_has_what_a_device_has() -> None:
    assert {*REGISTRY_EXTRAS["device"], *REGISTRY_PROJECT["dependencies"]} == {
        *PROJECT["project"]["dependencies"],
        *EXTRAS["reports"],
    }
    assert all(REGISTRY_EXTRAS[name] == EXTRAS[name] for name in ("examples", "heif"))


@pytest.mark.parametrize(
    ("pattern", "known", "some"),
    [
        (r"(?:edgeline|/edge)\[([a-z,]+)\]", EXTRAS, {"ecdsa", "examples", "heif", "reports"}),
        (r"registry\[([a-z,]+)\]", REGISTRY_EXTRAS, {"device", "examples", "hsm"}),
        (r"""pip_install\(["']([a-z]+)["']\)""", REGISTRY_EXTRAS, {"device", "examples", "heif"}),
    ],
    ids=["edgeline", "edgeline-registry", "whichever it is"],
)
def test_extras_that_are_named_are_there(
    pattern: str, known: dict[str, list[str]], some: set[str]
) -> None:
    documents = [EDGE.parent / "README.md", *(EDGE.parent / "docs").glob("*.md")]
    sources = [SOURCES / file for file in package_files() if file.suffix == ".py"]
    text = "".join(file.read_text() for file in (*documents, *sources))
    found = {name for names in re.findall(pattern, text) for name in names.split(",")}
    assert some <= found <= known.keys()


def test_a_device_takes_less_than_before_rollouts() -> None:
    assert 0 < sum((SOURCES / file).stat().st_size for file in device_files()) < MAX_SIZE


def test_it_needs_no_other_packages_than_before_rollouts() -> None:
    needed = {Requirement(each).name for each in PROJECT["project"]["dependencies"]}
    assert needed == {"ai-edge-litert", "numpy", "pillow", "tuf", "urllib3"}


def test_a_device_that_does_not_report_loads_nothing_of_it() -> None:
    script = "import sys, edgeline.cli.watch, edgeline.device.watch; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name for name in done.stdout.split() if name.startswith("edgeline.")}
    assert "edgeline.device.watch" in loaded
    unused = ("edgeline.fleet", "edgeline.publish", "edgeline.telemetry")
    assert not {name for name in loaded if name.startswith(unused)}
