"""Decides which images train, which early stopping looks at, and which the gate is measured on.

An image that has a split keeps it. What is new is drawn so that each class comes as close to the
shares as whole images can, and so that every class of three or more is in each split; which of its
images go where follows from their ids, which is as good as chance. Images of a group (a patient, a
burst of shots) go together, the large groups first, and a group is moved where a class would be
missing from a split without that.

The draw is of what is given, and not by hashing each image alone: that left 38 of 40 data sets of
the shape of Flowers-102 without some class in some split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.data.dataset import SPLITS

FREE = -1  # of an image that has no split yet
ALONE = -1  # of an image that is in no group

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def draw(
    labels: Ints, groups: Ints, keys: Ints, settled: Ints, shares: Mapping[str, float]
) -> Ints:
    """Gives every image a split, by its number in `SPLITS`.

    Args:
        labels: the class of each image, from 0 on, `[images]`.
        groups: a number for those that must stay together, else `ALONE`, `[images]`.
        keys: a number that follows from the image's content: the order of the draw, `[images]`.
        settled: the split of each image that has one, else `FREE`, `[images]`.
        shares: of the images, by split; a share of 0 leaves a split out. They sum to 1.

    Returns:
        `settled` with no image `FREE`, `[images]`.
    """
    splits = settled.copy()
    classes = int(labels.max(initial=-1)) + 1
    quotas = _quotas(np.bincount(labels, minlength=classes), [shares[split] for split in SPLITS])
    drawn = _draw_groups(labels, groups, keys, splits, quotas)
    _draw_single_images(labels, keys, splits, quotas)
    _move_groups(labels, groups, splits, quotas, drawn)
    return splits


def joined(first: Ints, second: Ints) -> Ints:
    """Joins two ways to group images: who shares either group is in one, `[images]`.

    Args:
        first: number of a group from 0 on, else `ALONE`, `[images]`.
        second: likewise, with numbers of its own.
    """
    groups_of_first = int(first.max(initial=-1)) + 1
    groups = groups_of_first + int(second.max(initial=-1)) + 1
    both = (first != ALONE) & (second != ALONE)
    links = coo_array(
        (np.ones(both.sum(), bool), (first[both], groups_of_first + second[both])),
        shape=(groups, groups),
    )
    _, components = connected_components(links, directed=False)
    node = np.where(first != ALONE, first, groups_of_first + second)
    alone = (first == ALONE) & (second == ALONE)
    return np.where(alone, ALONE, components[np.where(alone, 0, node)]) if groups else first


def _quotas(sizes: Ints, shares: Sequence[float]) -> Ints:
    """How many images of each class belong in each split, `[classes, splits]`.

    At least one in each split that has a share, as far as there are images: training first.
    """
    share = np.asarray(shares)
    held_out = np.rint(sizes[:, None] * share).astype(np.int64)
    held_out = np.maximum(held_out, share > 0)
    held_out[:, 0] = 0
    # Of one image training gets it; of two, the split that the gate is measured on gets the other.
    for split in (1, 2):
        too_many = np.maximum(0, held_out.sum(1) - np.maximum(0, sizes - 1))
        held_out[:, split] -= np.minimum(held_out[:, split], too_many)
    held_out[:, 0] = sizes - held_out.sum(1)
    return held_out


def _counts(labels: Ints, splits: Ints, classes: int) -> Ints:
    """Images by class and split, `[classes, splits]`; those that are free don't count."""
    counts = np.zeros((classes, len(SPLITS)), np.int64)
    taken = splits != FREE
    np.add.at(counts, (labels[taken], splits[taken]), 1)
    return counts


def _draw_groups(labels: Ints, groups: Ints, keys: Ints, splits: Ints, quotas: Ints) -> list[Ints]:
    """Gives the groups their splits; returns the members of those that were free to be drawn."""
    members = _members(groups)
    for group in members:
        taken = splits[group][splits[group] != FREE]
        if len(taken):
            # Images are grouped that already have splits: new ones go where most of them are.
            splits[group[splits[group] == FREE]] = np.bincount(taken).argmax()
    drawn = [group for group in members if splits[group[0]] == FREE]
    drawn.sort(key=lambda group: (-len(group), keys[group].min()))
    missing = quotas - _counts(labels, splits, len(quotas))
    for group in drawn:
        split = _best_split(labels[group], missing, quotas)
        splits[group] = split
        np.subtract.at(missing[:, split], labels[group], 1)
    return drawn


def _members(groups: Ints) -> list[Ints]:
    """The images of each group of two or more."""
    grouped = np.flatnonzero(groups != ALONE)
    grouped = grouped[np.argsort(groups[grouped], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[grouped])) + 1
    return [group for group in np.split(grouped, starts) if len(group) > 1]


def _best_split(labels: Ints, missing: Ints, quotas: Ints) -> int:
    """The split that lacks most of what a group has, relative to what belongs in it."""
    lacking = missing[labels] / np.maximum(1, quotas[labels])
    allowed = quotas.sum(0) > 0
    return int(np.where(allowed, lacking.sum(0), -np.inf).argmax())


def _draw_single_images(labels: Ints, keys: Ints, splits: Ints, quotas: Ints) -> None:
    free = np.flatnonzero(splits == FREE)
    free = free[np.lexsort((keys[free], labels[free]))]
    missing = quotas - _counts(labels, splits, len(quotas))
    for images in np.split(free, np.flatnonzero(np.diff(labels[free])) + 1):
        if not len(images):
            continue
        counts = _fitted(missing[labels[images[0]]], len(images))
        # Held-out images first: which they are does not depend on how many train.
        order = np.repeat([2, 1, 0], counts[[2, 1, 0]])
        splits[images] = order


def _fitted(lacking: Ints, images: int) -> Ints:
    """How many images each split gets, where earlier draws left some with too many."""
    counts = np.maximum(0, lacking)
    while (excess := int(counts.sum()) - images) > 0:
        largest = int(counts.argmax())
        others = np.delete(counts, largest).max()
        counts[largest] -= min(excess, max(1, int(counts[largest] - others)))
    return counts


def _move_groups(
    labels: Ints, groups: Ints, splits: Ints, quotas: Ints, drawn: Sequence[Ints]
) -> None:
    """Moves groups into splits that lack a class, where none loses its last image by that."""
    counts = _counts(labels, splits, len(quotas))
    smallest_first = drawn[::-1]
    for label, to in np.argwhere((counts == 0) & (quotas > 0)):
        if counts[label, to]:
            continue  # an earlier move brought it
        for group in smallest_first:
            of_group = np.bincount(labels[group], minlength=len(quotas))
            source = splits[group[0]]
            if (
                source != to
                and of_group[label]
                and (counts[:, source] - of_group)[of_group > 0].all()
            ):
                splits[group] = to
                counts[:, source] -= of_group
                counts[:, to] += of_group
                break
