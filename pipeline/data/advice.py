"""What the user should know of a dataset before training on it, in a few lines.

`advise(table)` returns the lines. Each is a finding with its numbers; nothing is said where nothing
was found. What is too small to matter is left out, by the limits below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import SPLITS
from pipeline.data.image_table import ImageTable, Ints, dominant

# With nine or fewer, one image is more than ten points of a recall, and even if all are right, the
# 95% interval (Wilson's) goes down to 0.70: no threshold can be held against that.
FEW_TEST_IMAGES = 10
# The gate allows a drop of one point of accuracy (max_drop): below 100 images, one image is more.
SMALL_TEST_SPLIT = 100
# A picture of fewer pixels on its shorter side shows no object that a person could name: it is a
# spacer, a tracking pixel or a broken thumbnail. The smallest sets of the field have 28 (MNIST).
TINY_SIDE = 8
# Networks are trained to bear aspect ratios from 3:4 to 4:3 (random resized crops); the resizing to
# a square squeezes an image beyond 2:1 by more than that twice over. Of one image in twenty, no
# accuracy that is stated in whole points can be said to be unharmed.
WIDE_RATIO = 2.0
WIDE_SHARE = 0.05
# Long-tailed benchmarks call factors of 10 to 100 imbalanced (Cui et al., 2019, CIFAR-10-LT): the
# upper half of them is called extreme here. An answer that is always the same and right nine times
# in ten makes accuracy say little, whatever the factor.
EXTREME_IMBALANCE = 50
MAJORITY_SHARE = 0.9
# Intervals are computed as if every image told something new. When one in ten doesn't, they are 5%
# too narrow (by the square root of the number).
REPEATED_SHARE = 0.1
# A property gives classes away if it is nearly the same within each, and not the same for all. In a
# class of 20, one that is a coin's toss is the same for 95% only once in 25,000 classes.
GIVEAWAY_SHARE = 0.95
GIVEAWAY_IMAGES = 20

_NAMED = 3  # of the classes or keys that a line is about; the page and the report have them all
_NAME_CHARACTERS = 60
_TEST = SPLITS.index("test")


def advise(table: ImageTable) -> tuple[str, ...]:
    """The warnings that a dataset deserves, the most important first."""
    return tuple(
        line
        for find in (
            _leaking_near_duplicates,
            _mixed_near_duplicates,
            _formats_by_class,
            _sizes_by_class,
            _test_split,
            _test_images_by_class,
            _test_images_by_slice,
            _imbalance,
            _near_duplicates,
            _tiny_images,
            _wide_images,
        )
        for line in find(table)
    )


def wide(table: ImageTable) -> NDArray[np.int64]:
    """The rows of kept images that are more than twice as wide as high, or as high as wide."""
    shorter, longer = _sides(table)
    return table.kept[longer > WIDE_RATIO * shorter]


def _sides(table: ImageTable) -> tuple[Ints, Ints]:
    width, height = table.width[table.kept], table.height[table.kept]
    return np.minimum(width, height), np.maximum(width, height)


def _leaking_near_duplicates(table: ImageTable) -> Iterator[str]:
    if leaking := int(table.clusters.leaking.sum()):
        yield (
            f"{_number(leaking, 'group')} of near-duplicates {_either(leaking, 'lies', 'lie')} "
            "both in train and in another split: there, a model is measured on almost what it was "
            "trained on"
        )


def _mixed_near_duplicates(table: ImageTable) -> Iterator[str]:
    if mixed := int(table.clusters.mixed.sum()):
        yield (
            f"{_number(mixed, 'group')} of near-duplicates {_either(mixed, 'has', 'have')} more "
            "than one label: look whether these are right"
        )


def _near_duplicates(table: ImageTable) -> Iterator[str]:
    images, clusters = len(table.kept), table.clusters
    repeated = len(clusters.rows) - len(clusters)
    if images and repeated / images >= REPEATED_SHARE:
        yield (
            f"{repeated:,} of {images:,} images ({percent(repeated / images)}) are near-duplicates"
            " of another one: figures are less certain than the number of images suggests"
        )


def _formats_by_class(table: ImageTable) -> Iterator[str]:
    # What a phone calls MPO is a JPEG with another one behind it.
    names = ["JPEG" if name == "MPO" else name for name in table.formats]
    distinct = sorted(set(names))
    number_of = np.array([*(distinct.index(name) for name in names), -1], np.int64)
    yield from _giveaway(table, number_of[table.format], "format", lambda i: distinct[i])


def _sizes_by_class(table: ImageTable) -> Iterator[str]:
    joined = table.width.astype(np.int64) << 32 | table.height
    sizes, numbers = np.unique(joined, return_inverse=True)

    def named(number: int) -> str:
        return f"{int(sizes[number]) >> 32}x{int(sizes[number]) & 0xFFFFFFFF}"

    yield from _giveaway(table, numbers, "size", named)


def _giveaway(
    table: ImageTable, values: Ints, what: str, named: Callable[[int], str]
) -> Iterator[str]:
    """Says so if a property that is no content tells classes apart."""
    rows = table.kept[(table.label[table.kept] >= 0) & (values[table.kept] >= 0)]
    totals = np.bincount(table.label[rows], minlength=len(table.labels))
    value, share = dominant(table.label[rows], values[rows], len(table.labels))
    uniform = np.flatnonzero((share >= GIVEAWAY_SHARE) & (totals >= GIVEAWAY_IMAGES))
    # The largest class of each value speaks for it.
    uniform = uniform[np.argsort(-totals[uniform], kind="stable")]
    _, first = np.unique(value[uniform], return_index=True)
    if len(first) < 2:
        return
    examples = [
        f"{quoted(table.labels[i])} is {named(int(value[i]))} ({percent(share[i])})"
        for i in uniform[np.sort(first)[:_NAMED]].tolist()
    ]
    yield (
        f"the {what} gives classes away: {', '.join(examples)}: "
        f"a model may learn what comes with the {what} instead of what is shown"
    )


def _test_split(table: ImageTable) -> Iterator[str]:
    images = int(table.counts[_TEST].sum())
    if not images:
        yield "there are no test images: no model can be measured"
    elif images < SMALL_TEST_SPLIT:
        yield (
            f"the test split has {_number(images, 'image')}: one is {_points(images)} of accuracy"
        )


def _test_images_by_class(table: ImageTable) -> Iterator[str]:
    test = table.counts[_TEST]
    if not test.sum():
        return
    none = np.flatnonzero(test == 0)
    few = np.flatnonzero((test > 0) & (test < FEW_TEST_IMAGES))
    few = few[np.argsort(test[few], kind="stable")]
    if len(none):
        names = [quoted(table.labels[i]) for i in none[:_NAMED].tolist()]
        yield (
            f"no test image of {_listed([*names, *_rest(len(none), 'class', 'classes')])}: "
            f"{_either(len(none), 'its', 'their')} recall is not measured"
        )
    if len(few):
        examples = [
            f"{_number(int(test[i]), 'test image')} of {quoted(table.labels[i])}: "
            f"one is {_points(int(test[i]))} of its recall"
            for i in few[:_NAMED].tolist()
        ]
        more = _rest(len(few), "class", "classes")
        yield "; ".join(
            [*examples, *(f"{rest} have fewer than {FEW_TEST_IMAGES}" for rest in more)]
        )


def _test_images_by_slice(table: ImageTable) -> Iterator[str]:
    if not table.counts[_TEST].sum():
        return
    found = []
    for counts in table.slices:
        few = int((counts.counts[_TEST] < FEW_TEST_IMAGES).sum())
        if few:
            found.append(
                f"{few:,} of the {_number(len(counts.values), 'value')} of {quoted(counts.key)}"
            )
    if found:
        yield (
            f"slices with fewer than {FEW_TEST_IMAGES} test images, which say little: "
            + _listed([*found[:_NAMED], *_rest(len(found), "key", "keys")])
        )


def _imbalance(table: ImageTable) -> Iterator[str]:
    totals = table.counts.sum(axis=0)
    if len(totals) < 2 or not totals.min():
        return
    most, least = int(totals.max()), int(totals.min())
    share = float(most / totals.sum())
    if most < EXTREME_IMBALANCE * least and share < MAJORITY_SHARE:
        return
    first, last = (quoted(table.labels[i]) for i in (totals.argmax(), totals.argmin()))
    yield (
        f"the classes are far from balanced: {most:,} images of {first}, {least:,} of {last}; "
        f"a model that always says {first} has an accuracy of {percent(share)}"
    )


def _tiny_images(table: ImageTable) -> Iterator[str]:
    shorter, longer = _sides(table)
    tiny = int(((shorter < TINY_SIDE) & (shorter > 0)).sum())
    single = int((longer == 1).sum())
    if tiny:
        yield (
            f"{_number(tiny, 'image')} {_either(tiny, 'has', 'have')} a side of fewer than "
            f"{TINY_SIDE} pixels"
            + (
                f", and {single:,} of them {_either(single, 'is', 'are')} a single pixel"
                * bool(single)
            )
        )


def _wide_images(table: ImageTable) -> Iterator[str]:
    images, beyond = len(table.kept), len(wide(table))
    if images and beyond / images > WIDE_SHARE:
        yield (
            f"{beyond:,} of {images:,} images ({percent(beyond / images)}) have an aspect ratio "
            "beyond 2:1: resizing to a square distorts them"
        )


def _rest(total: int, one: str, many: str) -> Sequence[str]:
    """What is said of those that are not named, if there are any."""
    rest = total - _NAMED
    return [f"{rest:,} more {_either(rest, one, many)}"] if rest > 0 else []


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _points(images: int) -> str:
    points = 100 / images
    return f"{points:.0f} points" if points >= 10 else f"{points:.1f} points"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _either(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def quoted(text: str) -> str:
    shown = text if len(text) <= _NAME_CHARACTERS else text[: _NAME_CHARACTERS - 1] + "…"
    return repr(shown)


def percent(share: float) -> str:
    """A share in percent, never rounded up to all or down to nothing."""
    if 0.9995 <= share < 1:
        return "over 99.9%"
    if 0 < share < 0.0005:
        return "under 0.1%"
    return f"{share:.1%}"
