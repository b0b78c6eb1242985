"""Drift: seen where images differ, not where they are alike, and told wherever it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import stats

from edgeline.cli import main
from edgeline.device import update
from edgeline.device.drift import DriftMonitor, last_drift
from edgeline.device.state import DRIFT_FILE
from edgeline.device.watch import Watcher
from edgeline.drift import (
    FALSE_ALARMS,
    QUANTITIES,
    Shift,
    Sketch,
    chi_square_tail,
    image_statistics,
    shift_between,
)
from edgeline.errors import IntegrityError
from edgeline.runtime.classifier import Classifier
from edgeline.telemetry.report import Drift, Report, read_document
from tests.edge.devices import device, release
from tests.edge.fleet import NEW, NOW, well

if TYPE_CHECKING:
    from tests.edge.conftest import Store

SIDE = 32
TEST_IMAGES = 200
LABELS = 3  # of the pets' models; of a cell, the last is never said
WINDOW = 100
UNCOUNTED = {"bounds": [], "counts": [1]}
DESCENDING = {"bounds": [2.0, 1.0], "counts": [TEST_IMAGES, 0, 0]}

Photo = NDArray[np.uint8]  # [height, width, 3]


def cell(rng: np.random.Generator) -> Photo:
    """Draw a solar cell as electroluminescence shows one: grainy, with busbars and some cracks."""
    size = 64
    down, across = np.mgrid[:size, :size] / size
    light = rng.normal(150, 15) * (1 - 0.3 * ((down - 0.5) ** 2 + (across - 0.5) ** 2))
    light += rng.normal(0, 12, (size, size))
    for bar in (16, 32, 48):
        light[bar - 1 : bar + 1] *= 0.4
    if rng.random() < 0.4:
        light[np.abs(down - across - rng.normal(0, 0.3)) < 0.03] *= 0.5
    return np.repeat(np.clip(light, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def unchanged(photo: Photo) -> Photo:
    return photo


def blurred(photo: Photo) -> Photo:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(1.5)))


def darkened(photo: Photo) -> Photo:
    return (photo * 0.75).astype(np.uint8)


def shifted(photo: Photo) -> Photo:
    """The camera was moved: a quarter of the picture shows what is beside the cell."""
    moved = np.zeros_like(photo)
    moved[:, 16:] = photo[:, :-16]
    return moved


def _statistics(photos: list[Photo]) -> NDArray[np.float32]:
    small = [
        np.asarray(Image.fromarray(each).resize((SIDE, SIDE)), np.float32) / 255 for each in photos
    ]
    return np.array([image_statistics(each) for each in small], np.float32)


def _sketch(statistics: NDArray[np.float32], rng: np.random.Generator) -> Sketch:
    """The sketch of a split of which three images in ten were said to be defective."""
    images = len(statistics)
    label_ids = (rng.random(images) < 0.3).astype(np.int64)
    return Sketch.of(
        label_ids, rng.beta(8, 2, images).astype(np.float32), statistics, classes=LABELS
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (unchanged, set()),
        (blurred, {"sharpness"}),
        (darkened, {"brightness"}),
        (shifted, {"brightness", "contrast"}),
    ],
)
def test_changed_cells_have_drifted_and_unchanged_ones_have_not(
    change: Callable[[Photo], Photo], expected: set[str]
) -> None:
    rng = np.random.default_rng(5)
    sketch = _sketch(_statistics([cell(rng) for _ in range(TEST_IMAGES)]), rng)
    seen = sketch.empty()
    for each in _statistics([change(cell(rng)) for _ in range(WINDOW)]):
        seen.add(int(rng.random() < 0.3), float(rng.beta(8, 2)), each.tolist())
    shifts = sketch.compare(seen)
    major = {name for name, shift in shifts.items() if shift.is_major}
    assert expected <= major
    assert not major & {"label", "confidence"}, "the model says of them what it said before"
    assert change is not unchanged or not major


def test_false_alarms_are_as_rare_as_promised() -> None:
    """2,000 windows of what the test splits of 20 releases look like, too."""
    rng, alarms, windows = np.random.default_rng(6), 0, 2000
    for number in range(windows):
        if number % 100 == 0:
            sketch = _sketch(rng.normal(size=(500, 3)).astype(np.float32), rng)
        seen = sketch.empty()
        defective = int(rng.binomial(300, 0.3))
        seen.counts["label"] = [300 - defective, defective, 0]
        # All at once, as a loop over as many images would take a minute.
        for name, values in zip(
            QUANTITIES[1:], (rng.beta(8, 2, 300), *rng.normal(size=(3, 300))), strict=True
        ):
            bounds = seen.bounds[name]
            places = np.searchsorted(bounds, values, side="right")
            seen.counts[name] = np.bincount(places, minlength=len(bounds) + 1).tolist()
        alarms += any(shift.is_major for shift in sketch.compare(seen).values())
    assert alarms <= 2 * FALSE_ALARMS * windows


def test_the_test_is_the_one_of_the_library() -> None:
    for freedom in (1, 2, 3, 8, 9, 51, 1000):
        for statistic in (0.0, 0.5 * freedom, freedom, 3.0 * freedom):
            expected = stats.chi2.sf(statistic, freedom)
            assert chi_square_tail(statistic, freedom) == pytest.approx(expected, abs=1e-12)
    expected, seen = [30, 50, 20], [60, 70, 90]
    found = shift_between(expected, seen).p_value
    assert found == pytest.approx(stats.chi2_contingency([expected, seen]).pvalue, rel=1e-9)


def test_few_images_tell_nothing_and_a_small_shift_of_many_is_none() -> None:
    assert shift_between([1, 1], [0, 2]) == Shift(0.0, 1.0)
    assert shift_between([0, 0], [0, 0]) == Shift(0.0, 1.0)
    tiny = shift_between([500_000, 500_000], [510_000, 490_000])
    assert tiny.p_value < 1e-9
    assert not tiny.is_major


def test_a_rare_label_that_is_common_now_is_drift() -> None:
    reference = [1000, 1, 1, 0, 0]
    assert shift_between(reference, [500, 0, 0, 500, 0]).is_major
    assert not shift_between(reference, [499, 1, 0, 0, 0]).is_major


@pytest.fixture(scope="module")
def sketch() -> Sketch:
    """Of images of one colour and another, as the pets' models see them."""
    rng = np.random.default_rng(7)
    return _sketch(rng.normal(0.5, 0.1, (TEST_IMAGES, 3)).astype(np.float32), rng)


def test_a_sketch_comes_back_and_has_a_bounded_size(sketch: Sketch) -> None:
    assert Sketch.from_json(sketch.to_json(), classes=LABELS) == sketch
    with pytest.raises(IntegrityError, match="expected 5 labels"):
        Sketch.from_json(sketch.to_json(), classes=5)
    assert len(sketch.to_json()) < 5000


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"label": []},
        {"label": [1]},
        {"label": [-1, TEST_IMAGES + 1]},
        {"label": "many"},
        {"histograms": {}},
        {"histograms": []},
        {"histograms": dict.fromkeys(QUANTITIES[1:], UNCOUNTED)},
        {"histograms": dict.fromkeys(QUANTITIES[1:], DESCENDING)},
    ],
    ids=str,
)
def test_a_malformed_sketch_is_refused(change: dict[str, Any], sketch: Sketch) -> None:
    document = {**json.loads(sketch.to_json()), **change}
    with pytest.raises(IntegrityError, match="malformed"):
        Sketch.from_json(json.dumps(document).encode(), classes=LABELS)


def test_what_drifted_travels_in_a_report() -> None:
    shifts = {name: Shift(0.5 if name == "label" else 0.0, 0.0) for name in QUANTITIES}
    report = well("0" * 32)
    drifted = Report(**{**vars(report), "drift": Drift(NEW, NOW - 60, NOW, 500, shifts)})
    sent = json.dumps(drifted.to_json()).encode()
    assert read_document(sent, "A report", Report) == drifted
    assert drifted.drift is not None
    assert drifted.drift.shifted == ("label",)
    mistakes: list[dict[str, Any]] = [
        {"shifts": {}}, {"images": -1}, {"digest": "no"},
        {"shifts": {name: {"index": "1", "p_value": 0.0} for name in QUANTITIES}},
        {"shifts": {name: {"index": 1.0, "p_value": 2.0} for name in QUANTITIES}},
    ]  # fmt: skip
    for wrong in mistakes:
        document = json.loads(sent)
        document["drift"].update(wrong)
        with pytest.raises(IntegrityError, match="malformed"):
            read_document(json.dumps(document).encode(), "A report", Report)
    del document["drift"]
    earlier = read_document(json.dumps(document).encode(), "A report", Report)
    assert earlier.drift is None, "of an earlier edgeline"


# On a device.


def test_a_device_tells_drift_in_metrics_and_status(
    store: Store,
    models: Path,
    sketch: Sketch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(update, "try_model", lambda *_, **__: None)  # another test's business
    release(store, models, 1, sketch=sketch.to_json())
    pets = device(store, tmp_path / "device")
    dark = np.zeros((8, 8, 3), np.uint8)
    with Watcher(pets, drift=WINDOW) as watcher:
        for _ in range(WINDOW - 1):
            watcher.predict(dark)
        assert "edgeline_drift" not in watcher.render_metrics(), "the window is not full yet"
        old, monitor = watcher._classifier, watcher._drift
        assert old is not None
        assert monitor is not None
        assert monitor.is_of(old)
        assert not monitor.is_of(Classifier(old._content, old.contract)), "another model's say"
    with Watcher(pets, drift=WINDOW) as watcher:
        watcher.predict(dark)
        metrics = watcher.render_metrics()
    assert 'edgeline_drift{quantity="brightness"} 1' in metrics
    assert "drifted from what the model was judged on" in caplog.text
    root = tmp_path / "root.json"
    root.write_bytes(store.root)
    options = ["--registry", store.location, "--model", "pets", "--root", str(root)]
    assert main(["status", *options, "--state", str(tmp_path / "device")]) == 0
    assert "brightness" in capsys.readouterr().out
    assert main(["status", *options, "--state", str(tmp_path / "device"), "--json"]) == 0
    assert "brightness" in json.loads(capsys.readouterr().out)["drift"]["shifted"]
    installed = pets.folder.load_active().installed
    (pets.folder.path / DRIFT_FILE).write_text("{")
    assert last_drift(pets.folder.path, installed.id) is None
    assert DriftMonitor(sketch, installed, WINDOW, pets.folder.path / DRIFT_FILE).last is None


def test_a_release_without_a_sketch_is_served_all_the_same(
    store: Store,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(update, "try_model", lambda *_, **__: None)  # another test's business
    release(store, models, 1)
    release(store, models, 2, sketch=b'{"version": 7}')
    pets = device(store, tmp_path / "device")
    with Watcher(pets, drift=WINDOW) as watcher:
        watcher.predict(np.zeros((8, 8, 3), np.uint8))
    assert "malformed" in caplog.text
