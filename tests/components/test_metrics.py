"""Metrics on arrays, against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from components.metrics import macro_auc


def predictions(
    examples: int, classes: int, decimals: int = 7
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels of every class, and probabilities that know something of them."""
    generator = np.random.default_rng(examples)
    label_ids = np.arange(examples) % classes
    logits = generator.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[label_ids]
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).round(decimals)
    return label_ids, probabilities.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("decimals", [7, 1])
def test_macro_auc_is_scikit_learns_with_and_without_ties(classes: int, decimals: int) -> None:
    label_ids, probabilities = predictions(500, classes, decimals)
    expected = roc_auc_score(np.eye(classes)[label_ids], probabilities, average="macro")
    assert macro_auc(label_ids, probabilities) == pytest.approx(expected, abs=1e-12)


def test_classes_that_no_example_has_are_left_out_of_the_mean() -> None:
    label_ids, probabilities = predictions(500, 3)
    some = label_ids != 1
    expected = np.mean(
        [roc_auc_score(label_ids[some] == index, probabilities[some, index]) for index in (0, 2)]
    )
    assert macro_auc(label_ids[some], probabilities[some]) == pytest.approx(expected, abs=1e-12)


def test_examples_of_no_class_are_of_the_rest() -> None:
    label_ids, probabilities = predictions(500, 3)
    label_ids[::7] = -1
    expected = np.mean(
        [roc_auc_score(label_ids == index, probabilities[:, index]) for index in range(3)]
    )
    assert macro_auc(label_ids, probabilities) == pytest.approx(expected, abs=1e-12)


def test_probabilities_that_differ_in_their_last_bit_are_no_ties() -> None:
    lower = np.float32(0.9)
    higher = np.nextafter(lower, np.float32(1))
    probabilities = np.array([[higher, lower], [lower, higher]], np.float32)
    assert macro_auc(np.array([0, 1]), probabilities) == 1.0
    assert macro_auc(np.array([1, 0]), probabilities) == 0.0


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0])
def test_equal_probabilities_are_worth_nothing(value: float) -> None:
    label_ids = np.arange(12) % 3
    assert macro_auc(label_ids, np.full((12, 3), value, np.float32)) == 0.5


def test_what_can_not_be_told_is_not_a_number() -> None:
    label_ids, probabilities = predictions(30, 3)
    assert math.isnan(macro_auc(np.zeros(30, np.int64), probabilities))
    probabilities[4, 1] = math.nan
    assert math.isnan(macro_auc(label_ids, probabilities))
