"""Models are timed in turns; by a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from components import timing
from components.timing import TIMINGS, Image, Model, quietest, time_in_turns
from edgeline.errors import ModelError

IMAGES = [np.full((1, 1, 3), number, np.float32) for number in range(20)]


class Stage:
    """Where models run, one after another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def model(self, name: str, seconds: Callable[[int], float]) -> Model:
        def run(image: Image) -> None:
            self.calls.append((name, int(image[0, 0, 0])))
            self.now += seconds(len(self.calls))

        return run


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


def test_models_take_turns_and_the_first_image_of_each_is_not_timed(stage: Stage) -> None:
    models = {"a": stage.model("a", lambda _: 1.0), "b": stage.model("b", lambda _: 2.0)}
    errors: dict[str, str] = {}
    seconds = time_in_turns(models, IMAGES, errors)
    assert {name: set(times.tolist()) for name, times in seconds.items()} == {"a": {1}, "b": {2}}
    assert {len(times) for times in seconds.values()} == {20}
    first, rest = [0, *range(16)], [16, *range(16, 20)]
    turns = [(name, turn) for turn in (first, rest) for name in models]
    assert stage.calls == [(name, image) for name, turn in turns for image in turn]
    assert errors == {}


STEADY, BUSY = np.full(16, 0.002), np.linspace(0.001, 0.003, 16)

ATTEMPTS: dict[str, tuple[list[dict[str, NDArray[np.float64]]], int, int]] = {
    "quiet at once": ([{"a": STEADY, "b": STEADY}], 1, 0),
    "quiet at last": ([{"a": BUSY, "b": STEADY}, {"a": STEADY, "b": STEADY}], 2, 1),
    "never quiet, and less so at last": ([{"a": BUSY, "b": STEADY}, {"a": BUSY, "b": BUSY}], 2, 0),
}


@pytest.mark.parametrize(("attempts", "made", "kept"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_noisy_times_are_taken_again(
    attempts: list[dict[str, NDArray[np.float64]]], made: int, kept: int
) -> None:
    left = iter(attempts)
    assert quietest(lambda: next(left)) is attempts[kept]
    assert len(list(left)) == len(attempts) - made
    assert made <= TIMINGS


def test_a_model_that_fails_is_left_out_and_the_others_go_on(stage: Stage) -> None:
    def failing(image: Image) -> None:
        raise ModelError("it gave NaN")

    errors: dict[str, str] = {}
    models = {"bad": failing, "good": stage.model("good", lambda _: 1.0)}
    assert set(time_in_turns(models, IMAGES, errors)) == {"good"}
    assert errors == {"bad": "it gave NaN"}
