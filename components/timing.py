"""How long models take for an image.

They take turns of a few images each, so that what else the machine does, or its clock, meets all of
them alike. Times of a busy machine are taken once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from edgeline.errors import ModelError

TURN = 16  # images that a model is timed on before the next one is
TIMINGS = 2  # at most, where a busy machine makes them noisy
NOISY = 0.25  # of the median, from quartile to quartile

Image = NDArray[np.float32]  # [height, width, 3]
Model = Callable[[Image], object]
_LOG = logging.getLogger(__name__)


def time_in_turns(
    models: Mapping[str, Model], images: Sequence[Image], errors: dict[str, str]
) -> dict[str, NDArray[np.float64]]:
    """Times models, each on all images.

    Args:
        models: by name.
        images: at least one.
        errors: takes, by name, why a model failed.

    Returns:
        By name of each that did not fail, the seconds of each image, `[images]`.
    """
    turns = [images[start : start + TURN] for start in range(0, len(images), TURN)]
    return quietest(lambda: _timed_once(models, turns, errors))


def quietest(
    measure: Callable[[], dict[str, NDArray[np.float64]]],
) -> dict[str, NDArray[np.float64]]:
    """Measures again, a few times, while the times of some models are noisy.

    Args:
        measure: gives seconds, `[times]`, by model.

    Returns:
        All times of the measurement in which the fewest were.
    """
    measured: list[tuple[int, dict[str, NDArray[np.float64]]]] = []
    for attempt in range(1, TIMINGS + 1):
        seconds = measure()
        noisy = [name for name, times in seconds.items() if is_noisy(times)]
        measured.append((len(noisy), seconds))
        if not noisy:
            break
        _LOG.info(
            "the machine is busy: the times of %s are noisy (measured %d of at most %d times)",
            ", ".join(noisy),
            attempt,
            TIMINGS,
        )
    return min(measured, key=itemgetter(0))[1]


def take_turn(model: Model, images: Sequence[Image]) -> list[float]:
    """The seconds that a model takes for each of some images, at least one, one after another.

    The first is predicted once before, and not timed: threads have yet to wake up.
    """
    model(images[0])
    moments = [time.perf_counter()]
    for image in images:
        model(image)
        moments.append(time.perf_counter())
    seconds: list[float] = np.diff(moments).tolist()
    return seconds


def is_noisy(seconds: NDArray[np.float64]) -> bool:
    """Whether times of one thing scatter so much that they rather tell what else the machine did.

    Args:
        seconds: `[times]`, at least one.
    """
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return bool(high - low > NOISY * median)


def _timed_once(
    models: Mapping[str, Model], turns: Sequence[Sequence[Image]], errors: dict[str, str]
) -> dict[str, NDArray[np.float64]]:
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in turns:
        for name, model in models.items():
            if name not in errors:
                try:
                    seconds[name] += take_turn(model, turn)
                except ModelError as error:
                    errors[name] = str(error)
    return {name: np.array(times) for name, times in seconds.items() if name not in errors}
