"""Drift: whether a device sees images like those that its model was judged on.

    sketch = Sketch.of(label_ids, confidences, statistics, classes=2)   # the publisher
    seen = sketch.empty()                                               # the device
    seen.add(label_id, confidence, image_statistics(pixels))
    shifts = sketch.compare(seen)

A sketch is how often each label was predicted on the test split, and histograms of the confidence
and of three statistics of the images, whose bins hold about as many test images each. No image can
be made from it. A device counts what it sees in the same bins, and compares a window of so many
images with two figures:

- Pearson's chi-square test of homogeneity says whether the difference may be chance (Pearson, 1900;
  bins that are expected to hold fewer than 5 images of either are joined with their neighbours).
- The population stability index says whether it is large enough to matter, as with many images
  every difference is no chance: sum of (q - p) ln(q / p) over the bins' shares (Siddiqi, "Credit
  Risk Scorecards", 2006). By the usual rule, 0.25 and more is a major shift.

A quantity has shifted by both. Of windows of images like the test split's, drawn independently, at
most one in a thousand shows a shift in any of the five.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from edgeline._json import dump_canonical, parse_object
from edgeline._records import read, share
from edgeline.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATISTICS = ("brightness", "contrast", "sharpness")  # of an image
QUANTITIES = ("label", "confidence", *STATISTICS)

MAJOR_SHIFT = 0.25  # population stability index
FALSE_ALARMS = 0.001  # of windows without drift, at most

_VERSION = 1
_BINS = 10
_IMAGES_PER_BIN = 20  # of the test split, at least
_MAX_BINS = 100_000  # as many labels as a model may have, and more
_EXPECTED = 5.0  # images in a bin, for the chi-square distribution to fit


@dataclass(frozen=True)
class Histogram:
    """How many values fell between some bounds.

    Attributes:
        bounds: Ascending; a value that equals one of them is above it.
        counts: One more than there are bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Histogram:
        """Return one of values `[n]`, with bins that hold about as many each."""
        import numpy as np

        bins = min(_BINS, max(2, len(values) // _IMAGES_PER_BIN))
        quantiles = np.quantile(values, np.arange(1, bins) / bins, method="lower")
        bounds = np.unique(quantiles).astype(np.float64)
        counts = np.bincount(np.searchsorted(bounds, values, side="right"), minlength=bins)
        return cls(tuple(bounds.tolist()), tuple(counts[: len(bounds) + 1].tolist()))


@dataclass(frozen=True)
class Shift:
    """How far a quantity is from the test split's."""

    index: float  # population stability index
    p_value: Annotated[float, share]  # of Pearson's chi-square test

    @property
    def is_major(self) -> bool:
        """Whether it is too large to be chance, and large enough to matter."""
        return self.index >= MAJOR_SHIFT and self.p_value < FALSE_ALARMS / len(QUANTITIES)


@dataclass
class Seen:
    """What a device counted in a sketch's bins, by quantity."""

    bounds: Mapping[str, Sequence[float]]  # of all but the labels
    counts: dict[str, list[int]]
    images: int = 0

    def add(self, label_id: int, confidence: float, statistics: Sequence[float]) -> None:
        """Count an image."""
        self.images += 1
        self.counts["label"][label_id] += 1
        values = (confidence, *statistics)
        for name, value in zip(QUANTITIES[1:], values, strict=True):
            self.counts[name][bisect_right(self.bounds[name], value)] += 1


@dataclass(frozen=True)
class Sketch:
    """What the test split looks like to a variant, as far as a device has to know.

    Raises:
        IntegrityError: it is malformed.
    """

    labels: tuple[int, ...]  # images that were said to show each label
    histograms: Mapping[str, Histogram]  # of the other quantities

    def __post_init__(self) -> None:
        if self.histograms.keys() != set(QUANTITIES[1:]):
            raise _malformed(f"expected histograms of {', '.join(QUANTITIES[1:])}")
        for counts in (self.labels, *(each.counts for each in self.histograms.values())):
            if not 1 <= len(counts) <= _MAX_BINS:
                raise _malformed("expected counts")
            if sum(counts) != self.images or not self.images:
                raise _malformed("expected the same number of images in every histogram")
        for each in self.histograms.values():
            ascend = all(a < b for a, b in pairwise(each.bounds))
            if len(each.counts) != len(each.bounds) + 1 or not ascend:
                raise _malformed("expected ascending bounds, and one more count than bounds")

    @property
    def images(self) -> int:
        """How many images the test split had."""
        return sum(self.labels)

    @classmethod
    def of(
        cls,
        label_ids: NDArray[np.int64],
        confidences: NDArray[np.float32],
        statistics: NDArray[np.float32],
        *,
        classes: int,
    ) -> Sketch:
        """Return the sketch of a split.

        Args:
            label_ids: The predicted ones, `[images]`.
            confidences: Their probabilities, `[images]`.
            statistics: `image_statistics` of the images, `[images, 3]`.
            classes: How many labels there are.
        """
        import numpy as np

        labels = np.bincount(label_ids, minlength=classes)
        columns = (confidences, *statistics.T)
        histograms = (Histogram.of(values) for values in columns)
        return cls(tuple(labels.tolist()), dict(zip(QUANTITIES[1:], histograms, strict=True)))

    def empty(self) -> Seen:
        """Return counts of nothing in this sketch's bins."""
        counts = {name: [0] * len(each.counts) for name, each in self.histograms.items()}
        bounds = {name: each.bounds for name, each in self.histograms.items()}
        return Seen(bounds, {"label": [0] * len(self.labels), **counts})

    def compare(self, seen: Seen) -> dict[str, Shift]:
        """Return how far what was seen is from the split, by quantity."""
        expected = {name: each.counts for name, each in self.histograms.items()}
        return {
            name: shift_between({"label": self.labels, **expected}[name], seen.counts[name])
            for name in QUANTITIES
        }

    def to_json(self) -> bytes:
        """Return the sketch as JSON; equal ones give equal bytes."""
        histograms = {name: asdict(each) for name, each in self.histograms.items()}
        return dump_canonical({"version": _VERSION, "label": self.labels, "histograms": histograms})

    @classmethod
    def from_json(cls, data: bytes, *, classes: int) -> Sketch:
        """Read the sketch of a model with so many labels from untrusted bytes.

        Raises:
            IntegrityError: they are none that this edgeline knows.
        """
        try:
            document = parse_object(data)
            if document.get("version") != _VERSION:
                raise _malformed(f"expected version {_VERSION}")
            labels = read(tuple[int, ...], document.get("label"))
            sketch = cls(labels, read(dict[str, Histogram], document.get("histograms")))
        except ValueError as error:
            raise _malformed(str(error)) from None
        if len(sketch.labels) != classes:
            raise _malformed(f"expected {classes} labels, got {len(sketch.labels)}")
        return sketch


def image_statistics(pixels: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return an image's brightness, contrast and sharpness.

    They are the mean and the standard deviation of its luma (ITU-R BT.601), and the variance of the
    luma's Laplacian, a measure of focus (Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy", ICPR 2000).

    Args:
        pixels: The model's input, float32 `[height, width, 3]`, from 0 to 1.
    """
    import numpy as np

    red, green, blue = np.moveaxis(pixels, -1, 0)
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    inner = luma[1:-1, 1:-1]
    sharpness = 0.0
    if inner.size:
        around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        sharpness = float((around - 4 * inner).var())
    return float(luma.mean()), float(luma.std()), sharpness


def shift_between(expected: Sequence[int], seen: Sequence[int]) -> Shift:
    """Compare two counts in the same bins; no shift where there are too few to tell."""
    bins = _joined(expected, seen)
    if len(bins) < 2:
        return Shift(0.0, 1.0)
    totals = [sum(column) for column in zip(*bins, strict=True)]
    statistic = index = 0.0
    for counts in bins:
        means = [total * sum(counts) / sum(totals) for total in totals]
        statistic += sum((n - mean) ** 2 / mean for n, mean in zip(counts, means, strict=True))
        # Half an image more in each bin, for those in which one of the two has none.
        p, q = ((n + 0.5) / (t + 0.5 * len(bins)) for n, t in zip(counts, totals, strict=True))
        index += (q - p) * math.log(q / p)
    return Shift(index, chi_square_tail(statistic, len(bins) - 1))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Return the probability that a chi-square variable is at least as large.

    By the finite sums for even and odd degrees of freedom (Abramowitz and Stegun, "Handbook of
    Mathematical Functions", 26.4.4 and 26.4.5).
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    start = math.erfc(math.sqrt(half)) if freedom % 2 else 0.0
    exponents = (i + (0.5 if freedom % 2 else 0.0) for i in range(freedom // 2))
    terms = (math.exp(e * math.log(half) - half - math.lgamma(e + 1)) for e in exponents)
    return min(1.0, start + math.fsum(terms))


def _joined(expected: Sequence[int], seen: Sequence[int]) -> list[tuple[int, int]]:
    """Return both counts in bins that are expected to hold enough images of either."""
    whole, part = sum(expected) + sum(seen), min(sum(expected), sum(seen))
    bins: list[tuple[int, int]] = []
    first = second = 0
    for a, b in zip(expected, seen, strict=True):
        first, second = first + a, second + b
        if part * (first + second) >= _EXPECTED * whole and whole:
            bins.append((first, second))
            first = second = 0
    if bins and (first or second):
        last = bins.pop()
        bins.append((last[0] + first, last[1] + second))
    return bins


def _malformed(problem: str) -> IntegrityError:
    return IntegrityError(f"The sketch of the test split is malformed: {problem}")
