"""A search by the code that a run trains with; its page, its configuration, and its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli
from PIL import Image

from pipeline import api
from pipeline.__main__ import main
from pipeline.config import Config, parse_config
from pipeline.errors import UserError
from pipeline.history import record
from pipeline.history.record import Released
from pipeline.search import device
from pipeline.search.device import DeviceFigures
from pipeline.search.page import page
from pipeline.search.plan import Candidate, Cost, Plan, Point
from pipeline.search.run import to_toml
from pipeline.training.features import FeatureStore, go_on_with, store_name
from tests.pipeline.test_history import RUN

SMALL = Candidate("mobilenetv3small", 32)
PLAN = Plan((SMALL.base,), (SMALL.side,), ("float16",))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of 40 pictures, bright and dark ones."""
    folder = tmp_path_factory.mktemp("search")
    generator = np.random.default_rng(0)
    for label, darkest in (("bright", 100), ("dark", 0)):
        (folder / label).mkdir()
        for index in range(20):
            pixels = generator.integers(darkest, darkest + 100, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    api.ingest(folder, folder.with_name(f"{folder.name}-data"), train=0.6, eval=0.2, test=0.2)
    return api.configure(
        name="cells",
        data={"path": folder.with_name(f"{folder.name}-data")},
        trainer={"base_weights": "random", "epochs": 2, "batch_size": 8, "augment_views": 0},
        rewriter={"calibration_images": 4},
        gate={"min_accuracy": 0.3},
        run={"root": folder.with_name("runs")},
    )


def test_a_search_ends_with_a_page_and_settings_to_run(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = api.search(config, bases=PLAN.bases, sides=PLAN.sides, variants=PLAN.variants)
    said = capsys.readouterr().out
    for share in ("25%", "50%", "100%"):
        assert said.count(f"1 of 1 on {share} of the images, mobilenetv3small-32: ") == 1
    assert "won: mobilenetv3small at 32 pixels, float16: accuracy " in said
    (row,) = searched.table.to_dict("records")
    assert (row["base"], row["side"], row["variant"]) == (SMALL.base, 32, "float16")
    assert 1.5 < row["size_mb"] < 2.5
    assert searched.page.content.count("<svg") == 2
    folder = config.run.root / "cells" / "search"
    assert sorted(path.name for path in folder.iterdir()) == [
        "notes.json",
        "search.html",
        "search.log",
        "winner.toml",
    ]
    won = api.configure(folder / "winner.toml")
    assert won == searched.config
    assert (won.trainer.base, won.image.height, won.rewriter.variants) == (
        SMALL.base,
        32,
        ("float16",),
    )
    assert won.data.path == config.data.path


def test_a_store_goes_on_with_what_a_smaller_one_has(tmp_path: Path) -> None:
    smaller = FeatureStore(2, (1, 1, 3), tmp_path / store_name("features-pool-train", 2))
    rows = np.arange(6, dtype=np.float32).reshape(2, 1, 1, 3)
    smaller.append(rows)
    smaller.close()
    go_on_with(tmp_path, "features-pool-train", 5)
    larger = FeatureStore(5, (1, 1, 3), tmp_path / store_name("features-pool-train", 5))
    assert larger.written == 2
    np.testing.assert_array_equal(larger.read(np.arange(2)), rows)
    larger.close()


def test_the_page_numbers_what_the_picture_shows_and_escapes() -> None:
    points = [
        Point(Candidate("small", 96), "int8", Cost(10**6, 2.0), 0.8, True),
        Point(Candidate("large", 96), "int8", Cost(9 * 10**6, 20.0), 0.9, False),
    ]
    shown = page("cells", replace(PLAN, max_size_mb=4.0), points, 'name = "<b>"')
    assert "at most 4 MB" in shown
    assert "1: large-96, int8, 9 MB, 0.9000; 2: small-96, int8, 1 MB, 0.8000" in shown
    assert 'class="cross"' in shown
    assert "&lt;b&gt;" in shown


def test_settings_are_written_as_toml(config: Config) -> None:
    settings = {
        **config.model_dump(mode="json", exclude_unset=True),
        "gate": {"min_accuracy": 0.3, "min_recall": {'a "class"': 0.5, "b": 1.0}},
        "ingest": {"group": "bäd\n", "features": {}},
        "registry": None,
    }
    written = tomli.loads(to_toml(settings))
    assert "registry" not in written
    assert parse_config(written, "here") == parse_config(settings, "there")


REFUSED = {
    "a base that there is not": (
        {"bases": ["mobilenet"]},
        "mean mobilenetv2 or mobilenetv3small",
    ),
    "a variant that is searched for": ({"variants": ["mixed"]}, "mixed: no such variant to search"),
    "a budget of nothing": ({"max_ms": 0.0}, "max-ms: expected more than 0; received 0"),
    "no time": ({"minutes": -3.0}, "minutes: expected more than 0; received -3"),
    "a device that was not measured": (
        {"device": "none.json"},
        "none.json: can't be read: No such file",
    ),
    "a side of nothing": ({"sides": [8]}, "expected sides from 32 to 1024 pixels; received 8"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_searched_is_refused_at_once(
    settings: dict[str, list[str]], message: str, config: Config
) -> None:
    with pytest.raises(UserError, match=message):
        api.search(config, **settings)  # type: ignore[arg-type]


def test_a_search_among_bases_takes_no_weights_of_one(config: Config) -> None:
    trainer = config.trainer.model_copy(update={"base_weights": "mine.h5"})
    with pytest.raises(UserError, match=r"expected trainer\.base_weights to be"):
        api.search(config.model_copy(update={"trainer": trainer}), bases=[SMALL.base])


def test_the_command_says_what_a_mistake_is(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells.toml").write_text(
        to_toml(config.model_dump(mode="json", exclude_unset=True))
    )
    command = ["search", "--config", str(tmp_path / "cells.toml"), "--bases", "densenet"]
    assert main(command) == 2
    assert "did you mean densenet121 or densenet169 or densenet201?" in capsys.readouterr().err
    for option, text, expected in (
        ("--minutes", "ten", "a number"),
        ("--sides", "96px", "a whole"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*command, option, text])
        assert f"{option}: expected {expected}" in capsys.readouterr().err


def test_a_device_s_figures_are_set_against_those_of_here(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = Released(
        tag="v1", digest="sha256:ab", registry="r", channel="candidate", created=True
    )
    run = RUN.model_copy(update={"release": released, "models": "TFLiteRewriter/tflite_models/1"})
    here = config.model_copy(update={"run": config.run.model_copy(update={"root": tmp_path})})
    record.write(run, tmp_path / "cells")
    monkeypatch.setattr(device, "_here", lambda folder: {"int8": 2.0, "float16": 4.0})
    figures = [
        {"variant": "int8", "threads": 1, "p50": 0.012},
        {"variant": "int8", "threads": 4, "p50": 0.006},
        {"variant": "float16", "threads": 4, "p50": 0.0, "error": "no memory"},
    ]
    file = tmp_path / "pi.json"
    file.write_text(json.dumps({"digest": "sha256:ab", "device": "pi", "figures": figures}))
    assert DeviceFigures.load(file, here).slower_than_here() == {"int8": pytest.approx(3.0)}
    file.write_text(json.dumps({"digest": "sha256:cd", "figures": figures}))
    with pytest.raises(UserError, match=r"is of the release sha256:cd\.\.\., which no run"):
        DeviceFigures.load(file, here)
    file.write_text("[]")
    with pytest.raises(UserError, match="expected what `edgeline benchmark --json` prints"):
        DeviceFigures.load(file, here)
