"""Which line of TFX is chosen, and what a person is told where none works."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from locks.environment import (
    LINES,
    PROJECT,
    Glibc,
    NoLineError,
    choose,
    find_python,
    system_glibc,
)

BOOKWORM: Glibc = (2, 36)
NOBLE: Glibc = (2, 39)
TRIXIE: Glibc = (2, 41)
ALL = ("3.10", "3.11", "3.12", "3.13")
TOO_OLD = "goes with TFX 1.21, which needs glibc 2.39 or newer; this system has 2.36"
REMEDY_THERE = "Install Python 3.10 (TFX 1.16), or use a newer system, such as Debian 13 or Ubuntu"


def here(*versions: str) -> dict[str, Path]:
    return {version: Path(f"/usr/bin/python{version}") for version in versions}


@dataclass(frozen=True)
class Chosen:
    name: str
    glibc: Glibc
    pythons: tuple[str, ...]
    wanted: str
    tfx: str
    python: str


CHOSEN = [
    Chosen("Debian 13 as it comes", TRIXIE, ("3.13",), "", "1.21", "3.13"),
    Chosen("Ubuntu 24.04 as it comes", NOBLE, ("3.12",), "", "1.21", "3.12"),
    Chosen("the oldest Python of the newer line", NOBLE, ("3.11",), "", "1.21", "3.11"),
    Chosen("the newest of several Pythons", TRIXIE, ALL, "", "1.21", "3.13"),
    Chosen("Debian 12 with a Python 3.10", BOOKWORM, ("3.10", "3.11"), "", "1.16", "3.10"),
    Chosen("newer Pythons don't help an old glibc", BOOKWORM, ALL, "", "1.16", "3.10"),
    Chosen("Debian 13 with nothing but Python 3.10", TRIXIE, ("3.10",), "", "1.16", "3.10"),
    Chosen("one is asked for", TRIXIE, ALL, "3.12", "1.21", "3.12"),
    Chosen("the older line is asked for", TRIXIE, ALL, "3.10", "1.16", "3.10"),
]


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_the_newest_that_works_is_chosen(case: Chosen) -> None:
    choice = choose(case.wanted, "x86_64", case.glibc, here(*case.pythons).get)
    assert (choice.line.tfx, choice.python.name) == (case.tfx, f"python{case.python}")
    assert choice.line.lock.is_file()


@dataclass(frozen=True)
class Refused:
    name: str
    glibc: Glibc | None
    pythons: tuple[str, ...]
    wanted: str
    said: tuple[str, ...]
    machine: str = "x86_64"


REFUSED = [
    Refused(
        "Debian 12 as it comes", BOOKWORM, ("3.11",), "", (f"Python 3.11 {TOO_OLD}", REMEDY_THERE)
    ),
    Refused(
        "a newer Python is asked for on Debian 12",
        BOOKWORM,
        ALL,
        "3.13",
        (f"Python 3.13 {TOO_OLD}", REMEDY_THERE),
    ),
    Refused(
        "Debian 12 without a Python",
        BOOKWORM,
        (),
        "",
        ("There is no Python that TFX can run with here", REMEDY_THERE),
    ),
    Refused(
        "Debian 13 with a Python of its future",
        TRIXIE,
        ("3.14",),
        "",
        (
            "There is no Python that TFX can run with here",
            "Install Python 3.13 or 3.12 or 3.11 (TFX 1.21), or install Python 3.10 (TFX 1.16)",
        ),
    ),
    Refused(
        "what is asked for is not here",
        TRIXIE,
        ("3.13",),
        "3.11",
        ("PYTHON=3.11: there is no python3.11 on the PATH or in pyenv",),
    ),
    Refused(
        "what is asked for is not supported",
        TRIXIE,
        ALL,
        "3.9",
        ("PYTHON=3.9: expected one of 3.10, 3.11, 3.12, 3.13",),
    ),
    Refused(
        "another processor",
        TRIXIE,
        ALL,
        "",
        ("runs on Linux with glibc on x86_64; this is aarch64 with glibc 2.41",),
        machine="aarch64",
    ),
    Refused("another C library", None, ALL, "", ("this is x86_64 with no glibc",)),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_where_none_works_one_line_says_what_is_missing(case: Refused) -> None:
    with pytest.raises(NoLineError) as caught:
        choose(case.wanted, case.machine, case.glibc, here(*case.pythons).get)
    message = str(caught.value)
    assert "\n" not in message
    for part in case.said:
        assert part in message


def test_the_python_of_these_tests_belongs_to_a_line_that_works_here() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    glibc = system_glibc()
    python = find_python(version)
    assert python is not None
    assert "bin" in python.parts
    assert not python.is_relative_to(PROJECT)
    assert choose(version, "x86_64", glibc, find_python).python == python


def test_an_interpreter_that_is_something_else_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("broken", "exit 127"), ("other", "echo /usr/bin/python9.9 9 9")):
        fake = tmp_path / name / "python3.12"
        fake.parent.mkdir()
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
    real = tmp_path / "real" / "python3.12"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\necho /opt/python 3.12/bin/python3.12 3 12\n")
    real.chmod(0o755)
    folders = [str(tmp_path / name) for name in ("broken", "other", "real")]
    monkeypatch.setenv("PATH", os.pathsep.join([*folders, "/usr/bin", "/bin"]))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert find_python("3.12") == Path("/opt/python 3.12/bin/python3.12")


def test_pyenv_is_found_by_its_shims_which_need_not_be_set_to_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "shims" / "python3.12"
    real = tmp_path / "versions" / "3.12.1" / "bin" / "python"
    for path, script in ((shim, "exit 127"), (real, f"echo {real} 3 12")):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_python("3.12") == real


def test_make_stops_with_that_line_alone() -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "locks" / "environment.py"), "uv"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": "2.7"},
    )
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == (
        "",
        "PYTHON=2.7: expected one of 3.10, 3.11, 3.12, 3.13\n",
    )


def test_every_python_is_of_one_line() -> None:
    versions = [version for line in LINES for version in line.pythons]
    assert sorted(versions) == sorted(set(versions)) == list(ALL)
