"""Histograms over a logarithmic axis: where everything goes. `data.html.jinja` draws them.

Laid out in units of the viewBox, as the report's charts are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 10, 390, 26, 164  # the plot, inside the margins for text
_BINS = 32
_TICKS = 7  # that fit side by side
_ROUND = ((1, 2, 5), (1, 3), (1,))  # times a power of ten: round numbers, ever fewer of them
_RATIOS = ((1, 4), (1, 3), (1, 2), (2, 3), (1, 1), (3, 2), (2, 1), (3, 1), (4, 1))
_RATIO_LIMIT = 6.0  # what is longer still is drawn there


@dataclass(frozen=True)
class Bar:
    """A bar, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """A histogram; `description` says in words what it shows.

    Attributes:
        title: What is shown.
        axis: What the values are, in which unit.
        description: The smallest, the largest and the middle value.
        bars: From left to right; none for an empty bin.
        ticks: Position and text of the axis' round values.
        marks: Positions of lines of reference.
        highest: The number of images in the highest bar.
    """

    title: str
    axis: str
    description: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]
    highest: int


def of_whole_numbers(
    title: str, axis: str, values: NDArray[np.integer[Any]], text: Callable[[float], str]
) -> Histogram:
    """A histogram of whole numbers of at least 1.

    Args:
        title: What is shown.
        axis: What the values are, in which unit.
        values: `[n]`, at least one.
        text: How a value is written.
    """
    low, high = int(values.min()), int(values.max())
    # Bins of whole numbers: others would hold one number more or less than their neighbours.
    edges = np.unique(np.ceil(np.geomspace(low, high + 1, _BINS + 1) - 1e-6))

    def span(left: float, right: float) -> str:
        return text(left) if right - left == 1 else f"{text(left)} to {text(right - 1)}"

    ticks = [(value, text(value)) for value in _round_values(low, high + 1)]
    middle = float(np.median(values))
    description = f"{text(low)} to {text(high)}, half of them up to {text(middle)}"
    return _laid_out(title, axis, description, np.asarray(values), edges, ticks, (), span)


def of_aspect_ratios(title: str, axis: str, ratios: NDArray[np.float64]) -> Histogram:
    """A histogram of width through height, the same to both sides, with lines at 1:2 and 2:1.

    Args:
        title: What is shown.
        axis: What the values are.
        ratios: `[n]`, at least one, above 0.
    """
    # An odd number of bins: squares are in the middle of one.
    edges = np.geomspace(1 / _RATIO_LIMIT, _RATIO_LIMIT, _BINS + 2)
    inside = np.clip(ratios, edges[0], edges[-1])

    def span(left: float, right: float) -> str:
        if left == edges[0]:
            return f"up to {_ratio(right)}"
        return (
            f"from {_ratio(left)}" if right == edges[-1] else f"{_ratio(left)} to {_ratio(right)}"
        )

    ticks = [(width / height, f"{width}:{height}") for width, height in _RATIOS]
    low, middle, high = (float(np.quantile(ratios, share)) for share in (0, 0.5, 1))
    description = f"{_ratio(low)} to {_ratio(high)}, half of them up to {_ratio(middle)}"
    return _laid_out(title, axis, description, inside, edges, ticks, (0.5, 2.0), span)


def _laid_out(
    title: str,
    axis: str,
    description: str,
    values: NDArray[Any],
    edges: NDArray[np.float64],
    ticks: Sequence[tuple[float, str]],
    marks: Sequence[float],
    span: Callable[[float, float], str],
) -> Histogram:
    counts, _ = np.histogram(values, edges)
    highest = int(counts.max())
    scale = (RIGHT - LEFT) / math.log(edges[-1] / edges[0])

    def place(value: float) -> float:
        return round(LEFT + math.log(value / edges[0]) * scale, 1)

    bars = []
    for left, right, count in zip(
        edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True
    ):
        if count:
            height = max(round((BOTTOM - TOP) * count / highest, 1), 1.0)
            text = f"{span(left, right)}: {count:,} {'image' if count == 1 else 'images'}"
            width = max(round(place(right) - place(left) - 1, 1), 1.0)
            bars.append(Bar(place(left), round(BOTTOM - height, 1), width, height, text))
    return Histogram(
        title=title,
        axis=axis,
        description=description,
        bars=tuple(bars),
        ticks=tuple((place(value), text) for value, text in ticks),
        marks=tuple(place(value) for value in marks),
        highest=highest,
    )


def _ratio(value: float) -> str:
    return f"{round(value, 2):g}:1" if value >= 1 else f"1:{round(1 / value, 2):g}"


def _round_values(low: float, high: float) -> list[float]:
    """Round values within a range, few enough to be written side by side."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = (
        [m * 10.0**power for power in powers for m in multiples if low <= m * 10.0**power <= high]
        for multiples in _ROUND
    )
    found = next((values for values in candidates if len(values) <= _TICKS), [])
    return found if len(found) > 1 else [low, high]
