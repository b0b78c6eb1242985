"""The draw: every class in every split, shares kept, nothing that has a split moves."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.splits import ALONE, FREE, Ints, draw, joined

SHARES = {"train": 0.8, "eval": 0.1, "test": 0.1}
SHAPES = {
    "Flowers-102": (102, 40),
    "CUB-200": (200, 60),
    "400 classes of 50": (400, 50),
    "two classes of 30": (2, 30),
    "three images a class": (50, 3),
}


def keys(images: int, seed: int) -> Ints:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, images)


def counts(labels: Ints, splits: Ints) -> Ints:
    """Images by class and split."""
    table = np.zeros((labels.max() + 1, 3), np.int64)
    np.add.at(table, (labels, splits), 1)
    return table


def free(labels: Ints) -> Ints:
    return np.full(len(labels), FREE)


def alone(labels: Ints) -> Ints:
    return np.full(len(labels), ALONE)


@pytest.mark.parametrize(("classes", "size"), SHAPES.values(), ids=SHAPES)
def test_every_class_is_in_every_split_in_100_of_100_draws(classes: int, size: int) -> None:
    labels = np.repeat(np.arange(classes), size)
    for seed in range(100):
        splits = draw(labels, alone(labels), keys(len(labels), seed), free(labels), SHARES)
        found = counts(labels, splits)
        assert found.min() >= 1
        held_out = max(1, round(0.1 * size))
        assert (found == [size - 2 * held_out, held_out, held_out]).all()


def test_which_images_are_held_out_follows_from_their_ids_alone() -> None:
    labels = np.repeat(np.arange(5), 40)
    order = np.random.default_rng(0).permutation(len(labels))
    ids = keys(len(labels), 1)
    here = draw(labels, alone(labels), ids, free(labels), SHARES)
    there = draw(labels[order], alone(labels), ids[order], free(labels), SHARES)
    assert (here[order] == there).all()
    other = draw(labels, alone(labels), keys(len(labels), 2), free(labels), SHARES)
    assert (here != other).any()


def test_what_has_a_split_keeps_it_and_new_images_fill_what_lacks() -> None:
    labels = np.repeat(np.arange(4), 25)
    ids = keys(200, 0)
    before = draw(labels, alone(labels), ids[:100], free(labels), SHARES)
    grown = np.concatenate([labels, labels])
    settled = np.concatenate([before, free(labels)])
    after = draw(grown, alone(grown), ids, settled, SHARES)
    assert (after[:100] == before).all()
    assert (counts(grown, after) == [40, 5, 5]).all()


def test_a_class_that_trained_only_gets_its_held_out_images_from_new_ones() -> None:
    labels = np.zeros(12, np.int64)
    settled = np.array([0] * 10 + [FREE, FREE])
    assert sorted(draw(labels, alone(labels), keys(12, 0), settled, SHARES)[10:]) == [1, 2]


def test_groups_stay_together_and_every_class_is_still_everywhere() -> None:
    random = np.random.default_rng(0)
    for seed in range(100):
        patients = random.integers(5, 30)
        groups = np.repeat(np.arange(patients), random.integers(1, 15, patients))
        labels = random.integers(0, 3, len(groups))
        labels[groups < 4] = 0  # so that each class has groups enough
        for label in range(3):
            groups = np.concatenate([groups, patients + 10 * label + np.arange(3)])
            labels = np.concatenate([labels, np.full(3, label)])
        splits = draw(labels, groups, keys(len(labels), seed), free(labels), SHARES)
        for group in np.unique(groups):
            assert len(set(splits[groups == group].tolist())) == 1
        assert counts(labels, splits).min() >= 1


def test_a_group_is_moved_where_a_class_would_be_missing_without_that() -> None:
    members = (
        "00000001000",
        "0000000",
        "111011",
        "1110",
        "01",
    )  # labels; the largest is drawn first
    labels = np.array([int(label) for group in members for label in group])
    groups = np.repeat(np.arange(len(members)), [len(group) for group in members])
    splits = draw(labels, groups, keys(len(labels), 0), free(labels), SHARES)
    assert counts(labels, splits).min() >= 1


def test_a_new_image_of_a_group_goes_where_the_group_is() -> None:
    labels = np.zeros(30, np.int64)
    groups = np.full(30, ALONE)
    groups[[0, 1, 2]] = 7
    settled = free(labels)
    settled[[0, 1]] = 2
    splits = draw(labels, groups, keys(30, 0), settled, SHARES)
    assert splits[2] == 2


def test_a_split_without_a_share_gets_nothing() -> None:
    labels = np.repeat(np.arange(3), 10)
    shares = {"train": 0.7, "eval": 0.0, "test": 0.3}
    splits = draw(labels, alone(labels), keys(30, 0), free(labels), shares)
    assert (counts(labels, splits) == [7, 0, 3]).all()


def test_of_two_images_one_trains_and_one_is_held_out_for_the_gate() -> None:
    labels = np.zeros(2, np.int64)
    assert sorted(draw(labels, alone(labels), keys(2, 0), free(labels), SHARES)) == [0, 2]


def test_nothing_is_drawn_from_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    assert draw(nothing, nothing, nothing, nothing, SHARES).shape == (0,)


def test_who_shares_either_group_is_joined() -> None:
    patients = np.array([0, 0, 1, 1, -1, -1, -1])
    shots = np.array([-1, 5, 5, -1, 6, 6, -1])
    groups = joined(patients, shots)
    assert len(set(groups[:4].tolist())) == 1
    assert groups[4] == groups[5] != groups[0]
    assert groups[6] == ALONE
    assert (joined(shots, patients) == ALONE).tolist() == [False] * 6 + [True]
