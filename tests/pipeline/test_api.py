"""The command line's words in Python: settings by keyword, tables, pages, and what is raised."""

from __future__ import annotations

import io
import logging
import os
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import api
from pipeline.config import Config
from pipeline.console import console
from pipeline.errors import RunFailed, UserError
from pipeline.history import record
from pipeline.orchestration import run as running
from tests.pipeline.test_history import RUN

CELLS = {"name": "cells", "data": {"path": "dataset"}, "gate": {"min_accuracy": 0.9}}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return api.configure(**CELLS, run={"root": tmp_path})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for index in range(5):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


def test_keywords_are_sections_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cells.toml"
    file.write_text('name = "cells"\n[data]\npath = "d"\n[gate]\nmin_accuracy = 0.9\n[registry]\n')
    changed = api.configure(file, trainer={"epochs": 3}, gate={"max_drop": 0.02}, registry=None)
    assert (changed.trainer.epochs, changed.registry) == (3, None)
    assert (changed.gate.min_accuracy, changed.gate.max_drop) == (0.9, 0.02)


def test_a_wrong_keyword_is_told_like_a_wrong_key() -> None:
    with pytest.raises(UserError, match=r"^configure\(\): trainer.epoch: unknown key; did you"):
        api.configure(**CELLS, trainer={"epoch": 3})


def test_ingest_takes_its_settings_by_keyword(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ingested = api.ingest(photos, tmp_path / "data", train=0.6, eval=0.2, test=0.2, max_side=16)
    assert ingested.report.options["max_side"] == 16
    assert ingested.counts.loc["cat"].to_dict() == {"train": 3, "eval": 1, "test": 1}
    assert "10 images, written" in capsys.readouterr().out
    assert "data:image" in ingested.page.content
    with pytest.raises(UserError, match=r"^ingest\(\): ingest.max_sides: unknown key"):
        api.ingest(photos, tmp_path / "data", max_sides=16)


def test_a_page_can_not_leave_its_frame() -> None:
    shown = api.Page('<p class="a">"</iframe>')._repr_html_()
    assert shown.count("</iframe>") == 1
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;&quot;&lt;/iframe&gt;"' in shown


def test_runs_are_found_by_place_and_by_id(config: Config, tmp_path: Path) -> None:
    for name in ("20260102-030405", "20260103-030405"):
        record.write(RUN.model_copy(update={"id": name}), tmp_path / "cells")
    history = api.runs(config)
    assert [run.record.id for run in history] == ["20260102-030405", "20260103-030405"]
    assert history[-1] == history["20260103"]
    assert list(history.table.index) == ["20260103-030405", "20260102-030405"]
    assert "20260102-030405" in api.compare(history[0], history[1]).content


def test_a_run_that_came_to_no_verdict_says_why(config: Config, tmp_path: Path) -> None:
    record.write(RUN, tmp_path / "cells")
    run = api.runs(config)[-1]
    assert repr(run) == "<run 20260102-030405: failed: no space>"
    for look in ("metrics", "report", "model", "curves", "verdict"):
        with pytest.raises(UserError, match="did not come so far: no space"):
            getattr(run, look)


@pytest.mark.parametrize(
    ("outcome", "code", "raised"),
    [("failed", 1, RunFailed), ("refused", 3, None), ("passed", 0, None)],
)
def test_a_run_is_returned_once_it_was_judged(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
    code: int,
    raised: type[Exception] | None,
) -> None:
    ended = running.Ending(code, "no space", RUN.model_copy(update={"outcome": outcome}))
    monkeypatch.setattr(running, "run", lambda config, verbose: ended)
    if raised is None:
        assert api.run(config).exit_code == code
        return
    with pytest.raises(RunFailed, match=r"^no space$") as caught:
        api.run(config)
    assert caught.value.exit_code == code
    assert caught.value._render_traceback_() == ["no space"]


def test_in_a_notebook_progress_goes_to_the_page_and_chatter_to_the_log(tmp_path: Path) -> None:
    """There, Python's stdout is no file descriptor."""
    page = io.StringIO()
    with redirect_stdout(page), console(tmp_path / "log") as screen:
        print("python's stdout")
        os.write(1, b"C++'s stdout\n")
        logging.getLogger("pipeline.training.tuner").info("trial 1 of 3")
        screen.say("loading")
    assert page.getvalue() == "      trial 1 of 3\nloading\n"
    assert (tmp_path / "log").read_text() == "python's stdout\nC++'s stdout\n"
