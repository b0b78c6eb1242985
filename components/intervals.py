"""Confidence intervals of what a gate decides by: shares, paired differences, areas under curves.

Score intervals, which hold where the usual ones don't: at shares near 0 and 1, and where no example
tells two models apart. `confidence` is two-sided everywhere: each end is missed by half of what it
leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95
MOST_SCALE = 1e6  # times the examples there are: more say nothing to anybody

Interval = tuple[float, float]


def share_interval(share: float, trials: float, confidence: float = CONFIDENCE) -> Interval:
    """Of a share of independent trials, by Wilson's score method.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of
    the American Statistical Association 22 (1927) 209-212. SciPy's `proportion_ci` is the same, and
    a thousand times as slow, for it tests, too.

    Args:
        share: of the trials that succeeded.
        trials: how many there were, more than 0.
        confidence: such as 0.95.
    """
    quantile = _quantile(confidence)
    squared = quantile**2
    centre = share + squared / (2 * trials)
    spread = quantile * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    scale = 1 + squared / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def drop_interval(
    lost: float, gained: float, examples: float, confidence: float = CONFIDENCE
) -> Interval:
    """Of the drop in accuracy from one model to another on the same examples, by Tango's score.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17 (1998) 891-908.

    Args:
        lost: examples that the reference gets right and the other model wrong.
        gained: the reverse.
        examples: all of them, more than 0.
        confidence: such as 0.95.

    Returns:
        Fractions in [-1, 1]; positive where the other model is worse.
    """
    quantile = _quantile(confidence)
    drop = (lost - gained) / examples

    def score(true_drop: float) -> float:
        return _tango(lost, gained, examples, true_drop)

    low = _where(lambda d: score(d) - quantile, -1.0, drop)
    high = _where(lambda d: score(d) + quantile, drop, 1.0)
    return low, high


def difference_interval(
    first: float, first_interval: Interval, second: float, second_interval: Interval
) -> Interval:
    """Of the second of two figures less the first, from an interval that each has of its own.

    Of shares with Wilson's intervals, this is Newcombe's method 10. It takes the figures as
    independent: of two models on the same images, whose figures rise and fall together, it is too
    wide rather than too narrow. G. Y. Zou and A. Donner, Construction of confidence limits about
    effect measures: a general approach, Statistics in Medicine 27 (2008) 1693-1702.

    Args:
        first: a figure.
        first_interval: its interval, of the confidence that the result is to have.
        second: the other.
        second_interval: likewise.
    """
    (first_low, first_high), (second_low, second_high) = first_interval, second_interval
    down = math.hypot(second - second_low, first_high - first)
    up = math.hypot(second_high - second, first - first_low)
    return second - first - down, second - first + up


@dataclass(frozen=True)
class Area:
    """An area under ROC curves, averaged over classes, with what its interval takes.

    Attributes:
        value: as `components.metrics.macro_auc`.
        standard_error: of the value.
        smallest: examples of the smallest group: of a class, or of the rest to it.
    """

    value: float
    standard_error: float
    smallest: int

    def interval(self, confidence: float = CONFIDENCE, scale: float = 1.0) -> Interval:
        """On the scale of log odds, where it is more nearly normal, and stays within [0, 1].

        An area of 0 or 1, whose error can't be estimated, has the interval of a share of examples
        of the smallest group.

        Args:
            confidence: such as 0.95.
            scale: for the interval of so many times the examples.
        """
        if math.isnan(self.value):
            return math.nan, math.nan
        if self.standard_error == 0.0 or not 0 < self.value < 1:
            return share_interval(self.value, self.smallest * scale, confidence)
        slope = self.value * (1 - self.value)
        spread = _quantile(confidence) * self.standard_error / math.sqrt(scale) / slope
        centre = logit(self.value)
        return float(expit(centre - spread)), float(expit(centre + spread))


def area_under_curves(label_ids: NDArray[np.int64], probabilities: NDArray[np.float32]) -> Area:
    """Estimates the area by DeLong's method.

    E. DeLong et al., Comparing the areas under two or more correlated receiver operating
    characteristic curves, Biometrics 44 (1988) 837-845: an area's variance is that of what each
    example contributes to it. An average over classes has the average of the contributions.

    Args:
        label_ids: `[examples]`.
        probabilities: `[examples, classes]`.

    Returns:
        NaN where no class has both examples and others.
    """
    examples, areas = len(label_ids), []
    contributions = np.zeros(examples)
    smallest = examples
    for index, scores in enumerate(probabilities.T):
        members = label_ids == index
        positives = int(np.count_nonzero(members))
        if 0 < positives < examples:
            area, contribution = _placements(scores, members)
            areas.append(area)
            contributions += contribution
            smallest = min(smallest, positives, examples - positives)
    if not areas:
        return Area(math.nan, math.nan, 0)
    error = math.sqrt(float(np.square(contributions / len(areas)).sum()))
    return Area(math.fsum(areas) / len(areas), error, smallest)


def scale_needed(decides: Callable[[float], bool]) -> float | None:
    """How many times the examples it takes until something is decided, if all else stays.

    Args:
        decides: whether so many times the examples decide; if some do, so do more.

    Returns:
        At least 1; None where `MOST_SCALE` times are not enough.
    """
    if not decides(MOST_SCALE):
        return None
    low, high = 1.0, MOST_SCALE
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def simultaneous(claims: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several intervals that hold all at once (Bonferroni)."""
    return 1 - (1 - confidence) / max(1, claims)


def _quantile(confidence: float) -> float:
    return float(norm.ppf((1 + confidence) / 2))


def _tango(lost: float, gained: float, examples: float, drop: float) -> float:
    """How many standard errors the observed drop is above a supposed one."""
    linear = -(lost + gained) + (2 * examples - lost + gained) * drop
    constant = -gained * drop * (1 - drop)
    root = math.sqrt(max(0.0, linear**2 - 8 * examples * constant))
    gained_share = (root - linear) / (4 * examples)
    variance = examples * (2 * gained_share + drop * (1 - drop))
    above = lost - gained - examples * drop
    if variance <= 0:
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)


def _where(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is zero; the nearer end where it is not."""
    tiny = 1e-12
    low, high = low + tiny, high - tiny
    if low >= high or function(low) <= 0:
        return max(-1.0, low - tiny)
    if function(high) >= 0:
        return min(1.0, high + tiny)
    return float(brentq(function, low, high, xtol=1e-10))


def _placements(
    scores: NDArray[np.float32], members: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """The area under a class's curve, and how far each example moves it, by midranks."""
    positives = int(np.count_nonzero(members))
    negatives = len(members) - positives
    overall = rankdata(scores)
    of_positives = (overall[members] - rankdata(scores[members])) / negatives
    of_negatives = 1 - (overall[~members] - rankdata(scores[~members])) / positives
    # As `macro_auc` has it, to the last bit: no two judges may disagree.
    pairs_won = overall[members].sum() - positives * (positives + 1) / 2
    area = float(pairs_won) / (positives * negatives)
    moved = np.empty(len(members))
    # Unbiased variances, as DeLong's: each group's mean is estimated from the group.
    moved[members] = (of_positives - area) / math.sqrt(positives * max(1, positives - 1))
    moved[~members] = (of_negatives - area) / math.sqrt(negatives * max(1, negatives - 1))
    return area, moved
