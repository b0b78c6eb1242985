"""What is searched among, within which budgets, and what was found: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

SHARES = (0.25, 0.5, 1.0)  # of the train split that the candidates of each round are trained on
FEWEST = 2  # candidates that go on to the next round
MEGABYTE = 1e6


@dataclass(frozen=True)
class Candidate:
    """A base and the side of its square input, in pixels."""

    base: str
    side: int

    @property
    def name(self) -> str:
        """For people, and for folders."""
        return f"{self.base}-{self.side}"


@dataclass(frozen=True)
class Plan:
    """What is searched among.

    Attributes:
        bases: names of records in `pipeline.training.bases`.
        sides: of inputs, in pixels.
        variants: names in `components.tflite_rewriter.variants`.
        max_size_mb: MB (10^6 bytes) that a file may have; None for any.
        max_ms: milliseconds that an image may take, at the median; None for any.
        minutes: after which no other work begins; the first third, about, is for files of untrained
            candidates.
        slower: how many times as long a variant takes on the device as here; 1 where it is not
            known, or where this machine is meant.
    """

    bases: Sequence[str]
    sides: Sequence[int]
    variants: Sequence[str]
    max_size_mb: float | None = None
    max_ms: float | None = None
    minutes: float = 15.0
    slower: Mapping[str, float] = field(default_factory=dict)

    @property
    def candidates(self) -> list[Candidate]:
        """Every base at every size."""
        return [Candidate(base, side) for base, side in product(self.bases, self.sides)]

    @property
    def has_budget(self) -> bool:
        """Whether anything is too large or too slow."""
        return self.max_size_mb is not None or self.max_ms is not None

    def fits(self, cost: Cost) -> bool:
        """Whether a file is within the budgets."""
        small = self.max_size_mb is None or cost.bytes <= self.max_size_mb * MEGABYTE
        return small and (self.max_ms is None or cost.ms <= self.max_ms)


@dataclass(frozen=True)
class Cost:
    """What a file costs: its bytes, and the median milliseconds of an image on the device."""

    bytes: int
    ms: float


@dataclass(frozen=True)
class Point:
    """A file that was made and measured.

    Attributes:
        candidate: what it was made of.
        variant: how it is quantized.
        cost: of the file.
        accuracy: on the eval split.
        fits: whether it is within the budgets.
    """

    candidate: Candidate
    variant: str
    cost: Cost
    accuracy: float
    fits: bool


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in size, latency and accuracy at once, the smallest first."""

    def beaten(point: Point) -> bool:
        return any(
            other.accuracy >= point.accuracy
            and other.cost.bytes <= point.cost.bytes
            and other.cost.ms <= point.cost.ms
            and (other.accuracy, other.cost) != (point.accuracy, point.cost)
            for other in points
        )

    return sorted(
        (point for point in points if not beaten(point)), key=lambda point: point.cost.bytes
    )


def winner(points: Sequence[Point]) -> Point | None:
    """The first of `ranked` that is within the budgets; None if none is."""
    return next((point for point in ranked(points) if point.fits), None)


def ranked(points: Sequence[Point]) -> list[Point]:
    """The most accurate first, and of equals the one with the least size times latency."""
    return sorted(points, key=lambda point: (-point.accuracy, point.cost.bytes * point.cost.ms))
