"""Line and scatter charts: where everything goes. `chart.svg.jinja` draws it.

A chart is laid out in units of its viewBox and scales with the page. Its text stays text, its
colours come from the page's style sheet, and the same numbers give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 400, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 388, 12, 272  # the plot, inside the margins for text
FONT = 13  # the size of the text
CHARACTER = 0.58 * FONT  # the width of an average one
MARK = 5  # the radius of a mark
LABEL_GAP = 9  # between a point and its label
LABEL_ROWS = 8  # that a label may move up or down to find room
DETAIL = 4  # of a line's points that follow one another in a square of this side, one is drawn
STYLES = 8  # that the style sheet tells apart: colour and dashes

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of values and its round ticks."""

    label: str
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def around(
        cls,
        label: str,
        values: Iterable[float],
        *,
        least_span: float = 0.0,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Axis:
        """An axis that holds the values and ends on ticks.

        Args:
            label: what is measured, in which unit.
            values: at least one, all finite.
            least_span: what the axis spans at least, so that noise doesn't look like news.
            limits: that no value can exceed.
        """
        values = tuple(values)
        middle, half = (min(values) + max(values)) / 2, (max(values) - min(values)) / 2
        # A flat line needs an axis too.
        half = max(half, least_span / 2, abs(middle) * 0.05) or 0.5
        step = _round_step(2 * half)
        low = math.floor((middle - half) / step + 1e-9) * step
        high = math.ceil((middle + half) / step - 1e-9) * step
        return cls(label, max(low, limits[0]), min(high, limits[1]))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The round values within the axis, and how they are written."""
        step = _round_step(self.high - self.low)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple((i * step, f"{i * step:.{decimals}f}") for i in range(first, last + 1))


@dataclass(frozen=True)
class Line:
    """A line through points. Styles count up from 0; `None` is a thin line of reference."""

    name: str
    points: ArrayLike  # [points, 2], at least one
    style: int | None
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A labelled point: a disc if it passed, a cross if not."""

    name: str
    point: Point
    style: int
    passed: bool


@dataclass(frozen=True)
class Box:
    """What a label or a mark covers."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Label:
    """Where a mark's label goes."""

    x: float
    y: float
    anchor: str

    def box(self, text: str) -> Box:
        """What the text covers."""
        width = CHARACTER * len(text)
        left = self.x - (width if self.anchor == "end" else 0)
        return Box(left, left + width, self.y - FONT / 2, self.y + FONT / 2)


@dataclass(frozen=True)
class Chart:
    """A chart: its description says in words what it shows."""

    title: str
    description: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()

    def place(self, points: ArrayLike) -> NDArray[np.float64]:
        """A point, or `[points, 2]`, in units of the viewBox."""
        low = np.array((self.x.low, self.y.low))
        high = np.array((self.x.high, self.y.high))
        shares = (np.asarray(points, np.float64) - low) / (high - low)
        return np.array((LEFT, BOTTOM)) + shares * (RIGHT - LEFT, TOP - BOTTOM)

    def polyline(self, line: Line) -> str:
        """A line's points, as SVG has them, without those too near to tell apart."""
        placed = self.place(line.points)
        kept = np.asarray(np.diff(placed // DETAIL, axis=0, prepend=np.nan).any(axis=1))
        kept[-1] = True
        return " ".join(f"{x:.4g},{y:.4g}" for x, y in placed[kept].tolist())

    def labelled_marks(self) -> list[tuple[Mark, Point, Label]]:
        """The marks, and their labels where these don't cover one another."""
        placed = [(float(x), float(y)) for x, y in map(self.place, (m.point for m in self.marks))]
        taken = [Box(x - MARK, x + MARK, y - MARK, y + MARK) for x, y in placed]
        labelled = []
        for mark, point in zip(self.marks, placed, strict=True):
            places = _label_places(point)
            free = (place for place in places if _is_free(place.box(mark.name), taken))
            label = next(free, places[0])
            taken.append(label.box(mark.name))
            labelled.append((mark, point, label))
        return labelled


def _label_places(point: Point) -> list[Label]:
    """Beside the point, and then ever further above and below it."""
    x, y = point
    return [
        Label(x + dx, y + row * sign * FONT, anchor)
        for row in range(LABEL_ROWS)
        for sign in (-1, 1)
        for dx, anchor in ((LABEL_GAP, "start"), (-LABEL_GAP, "end"))
    ]


def _is_free(box: Box, taken: Iterable[Box]) -> bool:
    inside = box.left >= LEFT and box.right <= WIDTH and box.top >= 0 and box.bottom <= BOTTOM
    return inside and not any(
        box.left < other.right
        and box.right > other.left
        and box.top < other.bottom
        and box.bottom > other.top
        for other in taken
    )


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, which divides the span into six or fewer."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
