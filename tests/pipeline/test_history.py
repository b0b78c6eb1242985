"""The record that a run leaves, the list of them, and what differs between two."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from components.verdict import OVERALL, Check, VariantVerdict, Verdict
from pipeline.__main__ import main
from pipeline.errors import UserError
from pipeline.history import record
from pipeline.history.comparison import compare
from pipeline.history.record import DoneStep, Figure, Judged, Judgement, RunRecord
from pipeline.history.runs import Runs
from pipeline.history.tables import what_changed
from pipeline.history.tracking import track

RUN = RunRecord(
    id="20260102-030405",
    started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    seconds=1.5,
    outcome="failed",
    reason="no space",
    config={"name": "cells", "trainer": {"epochs": 3}, "gate": {"min_recall": {}}},
    inputs={"dataset": {"sha256": "ab"}},
    libraries={"python": "3.10"},
    images={"train": {"ok": 3}},
    steps=(DoneStep(name="Trainer", state="failed", seconds=1.0),),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = record.write(RUN, tmp_path)
    assert record.read(file) == RUN
    assert RUN.settings == {"name": "cells", "trainer.epochs": 3}
    assert RUN.made == ("Trainer",)


def test_a_second_run_of_a_second_has_an_id_of_its_own(tmp_path: Path) -> None:
    record.write(RUN, tmp_path)
    assert record.new_id(tmp_path, RUN.started) == "20260102-030405-2"


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"version": 2}', b" " * (record.MOST_BYTES + 1)],
    ids=["empty", "deep", "of a later version", "large"],
)
def test_another_file_is_no_record(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "20260102-030405.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match="no record of a run"):
        record.read(file)


def test_a_judgement_names_the_fastest_of_what_may_be_published(tmp_path: Path) -> None:
    ok, bad = (Check("accuracy", OVERALL, value, threshold=0.5) for value in (0.9, 0.1))
    verdict = Verdict(
        "test",
        100,
        VariantVerdict("float", (ok,)),
        (
            VariantVerdict("float32", (ok,), latency_ms={"p50": 5.0, "p95": 6.0}),
            VariantVerdict("int8", (ok,), latency_ms={"p50": 2.0, "p95": 3.0}),
            VariantVerdict("dynamic", (bad,), latency_ms={"p50": 1.0, "p95": 2.0}),
        ),
    )
    found = record.judgement(verdict, tmp_path / "TFLiteEvaluator/verdict/1", tmp_path)
    assert found.published == ("float32", "int8")
    assert found.fastest == "int8"
    assert [model.passed for model in found.models] == [True, True, True, False]


def judged(id: str, accuracy: float, low: float, high: float, megabytes: float) -> RunRecord:
    """A run whose only variant has these figures."""
    figures = {
        "accuracy": Figure(value=accuracy, interval=(low, high)),
        "size in MB": Figure(value=megabytes, bound="max"),
    }
    model = Judged(name="float32", passed=True, figures=figures)
    judgement = Judgement(
        folder="TFLiteEvaluator/verdict/1",
        split="test",
        images=100,
        models=(model,),
        published=("float32",),
        fastest="float32",
    )
    return RUN.model_copy(update={"id": id, "outcome": "released", "judgement": judgement})


FIRST = judged("20260102-030405", 0.70, 0.60, 0.78, 7.0)
BETTER = judged("20260102-030406", 0.95, 0.90, 0.98, 7.5)
ALIKE = judged("20260103-000000", 0.72, 0.62, 0.80, 7.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for run in (FIRST, BETTER, ALIKE):
        record.write(run, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [(FIRST, BETTER, "better"), (BETTER, FIRST, "worse"), (FIRST, ALIKE, "not proved")],
)
def test_a_figure_is_better_where_its_interval_says_so(
    before: RunRecord, after: RunRecord, direction: str
) -> None:
    by_metric = {change.metric: change for change in compare(before, after).figures}
    assert by_metric["accuracy"].direction == direction
    assert by_metric["size in MB"].direction in ("", "same")  # it has no interval


def test_settings_data_and_versions_that_differ_are_told() -> None:
    after = FIRST.model_copy(
        update={
            "config": {"name": "cells", "trainer": {"epochs": 5, "seed": 1}},
            "inputs": {"dataset": {"sha256": "cd"}},
            "images": {"train": {"ok": 4}},
            "libraries": {"python": "3.11"},
        }
    )
    comparison = compare(FIRST, after)
    settings = {change.name: (change.before, change.after) for change in comparison.settings}
    assert settings == {"trainer.epochs": ("3", "5"), "trainer.seed": ("-", "1")}
    data = {change.name: (change.before, change.after) for change in comparison.data}
    assert data == {
        "dataset (sha256)": ("ab", "cd"),
        "train images": ("3", "4"),
        "train images of ok": ("3", "4"),
        "version of python": ("3.10", "3.11"),
    }
    assert what_changed(FIRST, after) == ("trainer.epochs 3 -> 5, trainer.seed - -> 1, the dataset")


def test_what_a_new_section_leaves_open_is_no_change() -> None:
    without = FIRST.model_copy(update={"config": {"registry": None}})
    section = {"location": "registry", "ca_file": None}
    added = FIRST.model_copy(update={"config": {"registry": section}})
    (change,) = compare(without, added).settings
    assert (change.name, change.before, change.after) == ("registry.location", "-", '"registry"')


def test_an_unchanged_rerun_is_known() -> None:
    cached = FIRST.model_copy(update={"steps": ()})
    assert what_changed(FIRST, cached) == "nothing: all cached"


def test_runs_are_found_by_the_beginning_of_their_ids(root: Path) -> None:
    runs = Runs.load(root)
    assert runs.pair([]) == (BETTER, ALIKE)
    assert runs.pair(["20260102-030405"]) == (FIRST, ALIKE)
    assert runs.pair(["20260103", "20260102-030406"]) == (ALIKE, BETTER)
    for names, message in (
        (["20260102"], "which of 20260102-030405, 20260102-030406"),
        (["20260104-000000"], "did you mean 20260103-000000"),
        (["x"], "no such run"),
        (["a", "b", "c"], "expected two runs"),
    ):
        with pytest.raises(UserError, match=message):
            runs.pair(names)


def test_a_damaged_record_hides_no_other(root: Path) -> None:
    (root / "history" / "20260101-000000.json").write_text("{}")
    runs = Runs.load(root)
    assert runs.records == (FIRST, BETTER, ALIKE)
    assert len(runs.unreadable) == 1


def test_where_no_run_is_on_record_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is on record"):
        Runs.load(tmp_path)


def test_the_command_lists_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (FIRST, BETTER):
        record.write(run, tmp_path / "runs/cells")
    config = tmp_path / "cells.toml"
    config.write_text(
        'name = "cells"\n[data]\npath = "dataset"\n[gate]\nmin_accuracy = 0.5\n'
        '[registry]\nlocation = "registry"\nroot = "keys/root.json"\n'
    )
    assert main(["runs", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", BETTER.id, FIRST.id]
    assert main(["runs", "compare", "--json", "--config", str(config)]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [figure["direction"] for figure in figures] == ["better", ""]
    page = tmp_path / "changes.html"
    assert main(["runs", "compare", "--config", str(config), "--html", str(page)]) == 0
    assert "float32: accuracy" in page.read_text()
    assert main(["runs", "compare", "nothing", "--config", str(config)]) == 2
    assert "no such run" in capsys.readouterr().err


def test_tracking_that_was_not_asked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert track(tmp_path, None) is None


def test_tracking_without_mlflow_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert (track(tmp_path, None) or "").startswith("warning: MLFLOW_TRACKING_URI is set, but")
