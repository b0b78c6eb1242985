"""Commands of a person at a terminal, and how they end."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    error: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The lines of JSON that were printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """The one line of JSON that was printed."""
        (document,) = self.documents
        return document


@dataclass(frozen=True)
class Terminal:
    """Runs commands in a folder, and answers when they ask."""

    folder: Path

    def run(self, *arguments: str | Path, answers: list[tuple[str, str]]) -> Done:
        """Give a command; `answers` are what it will ask, and what to say."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeline", *map(str, arguments)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Passwords are asked for on the controlling terminal, if there is one.
            start_new_session=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        os.close(theirs)
        assert process.stderr is not None
        told = b""
        for question, answer in answers:
            while not told.endswith(question.encode()):
                letter = process.stderr.read(1)
                assert letter, told
                told += letter
            os.write(ours, f"{answer}\n".encode())
        out, error = process.communicate(timeout=60)
        os.close(ours)
        return Done(process.returncode, out.decode(), (told + error).decode())
