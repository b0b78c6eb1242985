"""Every program that the docs name is in the locked environment, and starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from locks.environment import PROJECT

PAGES = [PROJECT / "README.md", *PROJECT.glob("docs/*.md"), *PROJECT.glob("kubeflow/*.md")]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BIN = Path(sys.executable).parent

# Written as `program ...` or on a line of a console.
WORDS = set(re.findall(r"(?:`|^ *\$ )([a-z][\w.-]*) ", TEXT, re.MULTILINE))
PROGRAMS = sorted(word for word in WORDS if (BIN / word).exists() and word != "python")
SCRIPTS = sorted(set(re.findall(r"python3? ([\w/]+\.py)\b", TEXT)))
MODULES = sorted(set(re.findall(r"python3? -m ([\w.]+)", TEXT)))


def test_there_are_some_to_try() -> None:
    assert {"edgeline", "tensorboard"} <= set(PROGRAMS)
    assert "kubeflow/compile.py" in SCRIPTS
    assert {"pipeline", "benchmarks.scale"} <= set(MODULES)


@pytest.mark.parametrize(
    "command",
    [
        *([str(BIN / program)] for program in PROGRAMS),
        *([sys.executable, script] for script in SCRIPTS),
        [sys.executable, "-m", "pipeline"],
    ],
    ids=lambda command: Path(command[-1]).name,
)
def test_it_starts(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()


@pytest.mark.parametrize("module", MODULES)
def test_its_module_is_there(module: str) -> None:
    """Not started: benchmarks and Beam's servers take seconds to say a word."""
    path = module.replace(".", "/")
    places = [f"{path}.py", f"{path}/__main__.py"]
    assert any((Path(root) / place).is_file() for root in sys.path for place in places)
