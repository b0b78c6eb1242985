"""Intervals against published ones, and how often they hold, in simulations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from components.intervals import (
    area_under_curves,
    difference_interval,
    drop_interval,
    scale_needed,
    share_interval,
)
from components.metrics import macro_auc
from components.verdict import Check

WILSON: Mapping[str, tuple[int, int, float, float]] = {
    "most": (81, 263, 0.2553, 0.3662),
    "some": (15, 148, 0.0624, 0.1605),
    "none": (0, 20, 0.0, 0.1611),
    "one": (1, 29, 0.0061, 0.1718),
}


@pytest.mark.parametrize(("right", "trials", "low", "high"), WILSON.values(), ids=WILSON)
def test_wilsons_interval_is_the_published_one(
    right: int, trials: int, low: float, high: float
) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert share_interval(right / trials, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "trials"), [(0, 7), (3, 10), (499, 500), (60_000, 60_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilsons_interval_is_scipys(right: int, trials: int, confidence: float) -> None:
    expected = binomtest(right, trials).proportion_ci(confidence, method="wilson")
    found = share_interval(right / trials, trials, confidence)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_of_a_difference_is_newcombes_published_one() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, table II: 56/70 - 48/80.
    first, second = 48 / 80, 56 / 70
    found = difference_interval(
        first, share_interval(first, 80), second, share_interval(second, 70)
    )
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_tangos_interval_is_the_published_one() -> None:
    """Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals for paired
    binomial proportions": 21 children, 1 lost and 7 gained."""
    assert drop_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_interval_of_a_drop_is_symmetric_and_knows_doubt_where_nothing_differs() -> None:
    low, high = drop_interval(2, 10, 100)
    assert drop_interval(10, 2, 100) == pytest.approx((-high, -low))
    low, high = drop_interval(0, 0, 2539)
    assert -low == pytest.approx(high)
    assert high == pytest.approx(3.8415 / (2539 + 3.8415), rel=1e-3)
    assert drop_interval(50, 0, 50) == pytest.approx((0.8573, 1.0), abs=1e-4)


DROPS = {
    "none": (0.0, 0.1),
    "half a point": (0.005, 0.1),
    "a point, often different": (0.01, 0.2),
    "two points": (0.02, 0.12),
    "five points": (0.05, 0.1),
}


@pytest.mark.parametrize("images", [50, 300, 3000])
@pytest.mark.parametrize(("drop", "differs"), DROPS.values(), ids=DROPS)
def test_the_interval_of_a_drop_holds_as_often_as_it_says(
    drop: float, differs: float, images: int
) -> None:
    """Images on which the models differ are `differs` of all, `drop` more of them lost."""
    interval = cache(drop_interval)
    shares = [(differs + drop) / 2, (differs - drop) / 2, 1 - differs]
    counts = np.random.default_rng(1).multinomial(images, shares, 4000)
    intervals = np.array([interval(lost, gained, images) for lost, gained, _ in counts.tolist()])
    assert 0.93 <= np.mean((intervals[:, 0] <= drop) & (drop <= intervals[:, 1])) <= 0.97


@pytest.mark.parametrize("images", [50, 300, 3000])
def test_wilsons_interval_holds_as_often_as_it_says(images: int) -> None:
    """Over shares, since at a single one it is a matter of which counts there are."""
    generator = np.random.default_rng(2)
    shares = generator.uniform(0.6, 0.98, 4000)
    right = generator.binomial(images, shares)
    intervals = np.array([share_interval(k / images, images) for k in right.tolist()])
    assert 0.93 <= np.mean((intervals[:, 0] <= shares) & (shares <= intervals[:, 1])) <= 0.97


def predicted(
    examples: int, classes: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    label_ids = generator.integers(0, classes, examples)
    logits = generator.normal(size=(examples, classes)) + 1.2 * np.eye(classes)[label_ids]
    exponentials = np.exp(logits)
    return label_ids, (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("images", [50, 300, 3000])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_interval_of_an_area_holds_as_often_as_it_says(images: int, classes: int) -> None:
    generator = np.random.default_rng(3)
    truth = macro_auc(*predicted(400_000, classes, generator))
    rounds = 1000 if images < 3000 else 600
    samples = (predicted(images, classes, generator) for _ in range(rounds))
    found = np.array([area_under_curves(*sample).interval() for sample in samples])
    assert 0.93 <= np.mean((found[:, 0] <= truth) & (truth <= found[:, 1])) <= 0.97


def test_an_area_is_the_other_judges_to_the_last_bit() -> None:
    for seed in range(20):
        made = predicted(301, 5, np.random.default_rng(seed))
        assert area_under_curves(*made).value == macro_auc(*made)


def test_an_area_of_one_has_an_interval() -> None:
    label_ids = np.array([0] * 30 + [1] * 10)
    probabilities = np.eye(2, dtype=np.float32)[label_ids]
    area = area_under_curves(label_ids, probabilities)
    assert area.value == 1.0
    assert area.interval() == pytest.approx(share_interval(1.0, 10))
    assert np.isnan(area_under_curves(np.zeros(5, int), probabilities[:5]).interval()).all()


def test_how_many_images_it_takes() -> None:
    def interval_at(scale: float) -> tuple[float, float]:
        return share_interval(0.95, 100 * scale)

    scale = scale_needed(lambda scale: interval_at(scale)[0] >= 0.9)
    assert scale is not None
    assert interval_at(scale)[0] >= 0.9 > interval_at(scale * 0.99)[0]
    assert scale_needed(lambda scale: interval_at(scale)[0] >= 0.95) is None


@cache
def gated_drop(lost: int, gained: int, images: int) -> Check:
    interval = drop_interval(lost, gained, images)
    value = (lost - gained) / images
    return Check("accuracy drop", "overall", value, 0.01, "max", interval, "refuse")


def decided(drop: float, differs: float, images: int = 600) -> list[Check]:
    shares = [(differs + drop) / 2, (differs - drop) / 2, 1 - differs]
    counts = np.random.default_rng(4).multinomial(images, shares, 1000)
    return [gated_drop(lost, gained, images) for lost, gained, _ in counts.tolist()]


@pytest.mark.parametrize("differs", [0.03, 0.06, 0.12])
def test_a_variant_that_lost_three_points_is_not_published_for_one(differs: float) -> None:
    """Of 1,000 test splits of 600 images, in at most 2.5%."""
    assert np.mean([check.passed for check in decided(0.03, differs)]) <= 0.025


def test_a_variant_that_lost_nothing_is_refused_for_lack_of_proof_as_often_as_it_should() -> None:
    """600 images prove a drop of at most one point only where few differ in the wrong direction."""
    for differs in (0.01, 0.03, 0.06):
        checks = decided(0.0, differs)
        assert {check.decision for check in checks} <= {"passed", "not proved", "failed"}
        generator = np.random.default_rng(5)
        shares = [differs / 2, differs / 2, 1 - differs]
        again = generator.multinomial(600, shares, 4000)
        power = np.mean([drop_interval(a, b, 600)[1] <= 0.01 for a, b, _ in again.tolist()])
        assert np.mean([check.decision == "passed" for check in checks]) == pytest.approx(
            power, abs=0.05
        )
        assert np.mean([check.decision == "failed" for check in checks]) <= 0.025
