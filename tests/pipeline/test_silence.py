"""No command is silent for long: what it is about to do is said before, and that it goes on."""

from __future__ import annotations

import io
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pipeline.console
from pipeline import api
from pipeline.config import Config
from pipeline.data import ingest as ingesting
from pipeline.errors import UserError
from pipeline.orchestration import preflight, run
from pipeline.search import run as searching

ENOUGH = 60.0  # seconds until a line that never comes is missed


class Page(io.StringIO):
    """What a person reads; tells when it is said that work goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work = threading.Event()

    def write(self, text: str) -> int:
        """See the base class."""
        if "at work" in text:
            self.at_work.set()
        return super().write(text)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr(pipeline.console, "QUIET_SECONDS", 0.04)
    return Page()


@pytest.fixture
def config(photos: Path) -> Config:
    data = photos.with_name("data")
    api.ingest(photos, data)
    return api.configure(
        name="cells",
        data={"path": data},
        trainer={"base_weights": "random", "batch_size": 4},
        gate={"min_accuracy": 0.5},
        run={"root": photos.with_name("runs")},
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for label in ("bright", "dark"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(5):
            colour = (number * 20, 200 if label == "bright" else 0, 0)
            Image.new("RGB", (40, 40), colour).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def until_told(page: Page, *_: Any) -> None:
    """Takes as long as it takes until somebody says that work goes on."""
    page.at_work.clear()
    assert page.at_work.wait(ENOUGH), f"nothing was said after {page.getvalue()!r}"
    raise UserError("that was it")


def test_a_run_that_is_checked_for_long_says_so(
    page: Page, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_: until_told(page))
    with redirect_stdout(page), pytest.raises(UserError, match="that was it"):
        api.run(config)
    first, *others = page.getvalue().splitlines()
    assert first.startswith("cells: 6 train, 2 eval, 2 test images of 2 classes in ")
    assert "      checking settings, data, registry and weights: at work for 0 s" in others
    assert not config.run.root.exists(), "a mistake is no run"


def test_a_search_that_is_checked_for_long_says_so(
    page: Page, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_check", lambda *_: until_told(page))
    with redirect_stdout(page), pytest.raises(UserError, match="that was it"):
        api.search(config, bases=["mobilenetv2"], sides=[32])
    first, *others = page.getvalue().splitlines()
    assert first == "1 candidate: mobilenetv2 at 32 pixels, as float16, dynamic, int8"
    assert "      checking settings, data and weights: at work for 0 s" in others
    assert not config.run.root.exists()


def test_an_ingest_that_compares_for_long_says_so(
    page: Page, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "take_place", lambda *_: until_told(page))
    with redirect_stdout(page), pytest.raises(UserError, match="that was it"):
        api.ingest(photos, photos.with_name("data"))
    assert "      the ingest: at work for " in page.getvalue()


def test_a_run_that_is_sent_for_long_says_so(
    page: Page, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recorded(*arguments: Any) -> tuple[int, str]:
        journal = arguments[-1]
        journal.file = config.run.root
        return 0, ""

    monkeypatch.setattr(run, "_run_steps", recorded)
    monkeypatch.setattr(run, "track", lambda *_: until_told(page))
    with redirect_stdout(page), pytest.raises(UserError, match="that was it"):
        api.run(config)
    assert "      sending the run to MLflow: at work for " in page.getvalue()
