"""What reaches the terminal while the libraries' output goes to a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, os, subprocess, sys
from pathlib import Path
from pipeline.console import console
from pipeline.local_step import Step

log = Path(sys.argv[1]) if len(sys.argv) > 1 else None
with console(log) as screen:
    print("python's stdout")
    print("python's stderr", file=sys.stderr)
    os.write(2, b"C++'s stderr\\n")
    subprocess.run(["echo", "a child's stdout"], check=True)
    logging.getLogger("components.tflite_rewriter.rewrite").info("int8 converted")
    logging.getLogger("some.library").warning("chatter")
    screen.step(Step("Trainer", "running"))
    screen.step(Step("Trainer", "done", 12.34))
print("afterwards")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_only_steps_and_our_own_progress_are_shown(tmp_path: Path) -> None:
    shown = run(str(tmp_path / "logs" / "run.log"))
    assert shown.stdout.splitlines() == [
        "      int8 converted",
        "  Trainer            running",
        "  Trainer            done         12.3 s",
        "afterwards",
    ]
    assert shown.stderr == ""


def test_everything_else_is_in_the_log(tmp_path: Path) -> None:
    run(str(tmp_path / "run.log"))
    log = (tmp_path / "run.log").read_text()
    for line in ("python's stdout", "python's stderr", "C++'s stderr", "a child's stdout"):
        assert line in log


def test_without_a_log_everything_is_shown() -> None:
    shown = run()
    assert "python's stdout" in shown.stdout
    assert "      int8 converted" in shown.stdout
    assert "C++'s stderr" in shown.stderr
