"""Makes `.venv` for the line of TFX that this machine can run: `python3 locks/environment.py UV`.

There are two lines, a lock each: TFX 1.21 on Python 3.11 to 3.13, whose libraries need glibc 2.39,
and TFX 1.16 on Python 3.10. The first that works here is taken, newest Python first; the variable
PYTHON, such as `PYTHON=3.12 make test`, asks for one. Nothing is done where `.venv` is up to date.

`make` runs it with whatever Python 3 there is, so it needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
VENV = PROJECT / ".venv"
STAMP = VENV / ".locked"

Glibc = tuple[int, int]
# Where the interpreter of a version such as "3.12" is, or None.
Find = Callable[[str], "Path | None"]


@dataclass(frozen=True)
class Line:
    """A version of TFX, the Pythons that it supports, and the oldest glibc that it runs on."""

    tfx: str
    pythons: tuple[str, ...]
    glibc: Glibc

    @property
    def lock(self) -> Path:
        return PROJECT / "locks" / f"tfx-{self.tfx}.txt"


LINES = (
    Line("1.21", ("3.13", "3.12", "3.11"), (2, 39)),
    Line("1.16", ("3.10",), (2, 28)),
)


@dataclass(frozen=True)
class Choice:
    """A line, an interpreter for it, and why it is this one."""

    line: Line
    python: Path
    reason: str


class NoLineError(Exception):
    """No line works here; says what is missing."""


def choose(wanted: str, machine: str, glibc: Glibc | None, find: Find) -> Choice:
    """Chooses a line and an interpreter.

    Args:
        wanted: a Python version such as "3.12", or "" for the newest that works.
        machine: the processor's architecture, as `uname -m` says it.
        glibc: of this system; None where it has none.
        find: looks an interpreter up.

    Raises:
        NoLineError: neither line works, or not with the Python that was asked for.
    """
    if machine != "x86_64" or glibc is None:
        libc = f"glibc {_text(glibc)}" if glibc else "no glibc"
        raise NoLineError(f"TFX runs on Linux with glibc on x86_64; this is {machine} with {libc}")
    if wanted and not any(wanted in line.pythons for line in LINES):
        known = ", ".join(sorted(version for line in LINES for version in line.pythons))
        raise NoLineError(f"PYTHON={wanted}: expected one of {known}")
    refused = []
    for line in LINES:
        for version in line.pythons:
            if wanted not in ("", version):
                continue
            if glibc < line.glibc:
                refused.append((version, line))
            elif python := find(version):
                reason = f"PYTHON={wanted}" if wanted else f"glibc is {_text(glibc)}"
                return Choice(line, python, reason)
    raise NoLineError(f"{_why_not(wanted, glibc, refused, find)}. {_remedy(glibc)}")


def _why_not(wanted: str, glibc: Glibc, refused: list[tuple[str, Line]], find: Find) -> str:
    for version, line in refused:
        if wanted or find(version):
            return (
                f"Python {version} goes with TFX {line.tfx}, which needs glibc {_text(line.glibc)}"
                f" or newer; this system has {_text(glibc)}"
            )
    if wanted:
        return f"PYTHON={wanted}: there is no python{wanted} on the PATH or in pyenv"
    return "There is no Python that TFX can run with here, neither on the PATH nor in pyenv"


def _remedy(glibc: Glibc) -> str:
    possible = [line for line in LINES if glibc >= line.glibc]
    remedies = [f"install Python {' or '.join(line.pythons)} (TFX {line.tfx})" for line in possible]
    if LINES[0] not in possible:
        remedies.append("use a newer system, such as Debian 13 or Ubuntu 24.04")
    text = ", or ".join(remedies)
    return text[0].upper() + text[1:]


def _text(glibc: Glibc) -> str:
    return ".".join(map(str, glibc))


def system_glibc() -> Glibc | None:
    """The version of this system's glibc, or None where it has none."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):
        return None
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) if name == "glibc" else None


def find_python(version: str) -> Path | None:
    """Finds an interpreter on the PATH or among pyenv's: its shims need not be set to it."""
    for candidate in _candidates(version):
        # What a virtual environment was made of, not what is in it: it may be our own.
        code = "import sys; print(sys._base_executable, *sys.version_info[:2])"
        try:
            done = subprocess.run(
                [candidate, "-I", "-c", code], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        path, *numbers = done.stdout.rsplit(maxsplit=2) or [""]
        if done.returncode == 0 and ".".join(numbers) == version:
            return Path(path)
    return None


def _candidates(version: str) -> Iterator[str]:
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield found
    for root in _pyenv_roots():
        installed = (root / "versions").glob(f"{version}.*/bin/python")
        yield from map(
            str, sorted(installed, key=lambda python: python.stat().st_mtime, reverse=True)
        )


def _pyenv_roots() -> Iterator[Path]:
    if named := os.environ.get("PYENV_ROOT"):
        yield Path(named)
    folders = map(Path, os.get_exec_path())
    yield from (folder.parent for folder in folders if folder.name == "shims")
    yield Path.home() / ".pyenv"


def install(choice: Choice, uv: str) -> None:
    """Makes the environment anew where it is of another Python, lock or project file.

    Raises:
        subprocess.CalledProcessError: uv failed, and has said why.
    """
    stamp = f"{choice.python}\n{_digest(choice.line)}\n"
    made = STAMP.read_text() if STAMP.is_file() else ""
    if made == stamp:
        return
    version = f"TFX {choice.line.tfx} with {choice.python}"
    print(f".venv: {version}, as {choice.reason}", flush=True)
    STAMP.unlink(missing_ok=True)
    same_python = made.startswith(f"{choice.python}\n")
    kept = "--allow-existing" if same_python else "--clear"
    python = str(VENV / "bin" / "python")
    # Not `edge/registry`, which has the same files: an editable one would be a copy of them.
    ours = ("--editable", str(PROJECT), "--editable", str(PROJECT / "edge"))
    for command in (
        ("venv", "--quiet", kept, "--python", str(choice.python), str(VENV)),
        ("pip", "sync", "--python", python, "--require-hashes", str(choice.line.lock)),
        ("pip", "install", "--quiet", "--python", python, "--no-deps", *ours),
    ):
        subprocess.run([uv, *command], check=True)
    STAMP.write_text(stamp)


def _digest(line: Line) -> str:
    parts = (PROJECT, PROJECT / "edge", PROJECT / "edge" / "registry")
    files = (line.lock, *(part / "pyproject.toml" for part in parts))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def main(uv: str) -> int:
    """Makes the environment; returns the exit code."""
    wanted = os.environ.get("PYTHON", "")
    try:
        install(choose(wanted, platform.machine(), system_glibc(), find_python), uv)
    except NoLineError as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
