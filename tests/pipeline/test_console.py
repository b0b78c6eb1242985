"""What reaches the terminal while the libraries' output goes to a file."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import pipeline.console
from pipeline.console import console
from pipeline.orchestration.local_step import Step

SCRIPT = """
import logging, os, subprocess, sys
from pathlib import Path
from pipeline.console import console
from pipeline.orchestration.local_step import Step

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


NOTEBOOK = """
from pathlib import Path
from IPython.display import Javascript, display
from pipeline.console import console

with console(Path("run.log")) as screen:
    print("python's stdout")
    display(Javascript("alert()"))
    screen.say("the progress")
"""


def test_a_notebook_shows_the_progress_alone(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(NOTEBOOK)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", resources=where).execute()
    (shown,) = cell.outputs
    assert (shown.name, shown.text) == ("stdout", "the progress\n")
    assert (tmp_path / "run.log").read_text() == "python's stdout\n"


def test_a_step_that_says_nothing_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, then after twice as long; and never between two steps."""
    monkeypatch.setattr(pipeline.console, "QUIET_SECONDS", 0.04)
    page = io.StringIO()
    with redirect_stdout(page), console(tmp_path / "log") as screen:
        screen.step(Step("Evaluator", "running"))
        wait_for(page, "at work", 2)
        screen.step(Step("Evaluator", "done", 1.0))
        ended = page.getvalue()
        time.sleep(0.2)
    assert page.getvalue() == ended
    assert "      Evaluator: at work for 0 s\n" in ended


def wait_for(page: io.StringIO, text: str, times: int) -> None:
    while page.getvalue().count(text) < times:
        time.sleep(0.01)
