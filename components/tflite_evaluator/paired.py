"""Comparisons of two models on the same examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BOOTSTRAP_ROUNDS = 2000


def agreement(probabilities: Floats, reference: Floats) -> float:
    """The share of examples for which two models name the same class."""
    return float(np.mean(probabilities.argmax(axis=1) == reference.argmax(axis=1)))


def accuracy_drop(
    probabilities: Floats, reference: Floats, label_ids: Ints
) -> tuple[float, tuple[float, float]]:
    """How much less accurate a model is than a reference on the same examples.

    Returns:
        The drop, and its 95% interval: the percentile bootstrap over examples, paired (Efron and
        Tibshirani 1993, chapter 13), with a fixed seed.
    """
    right = probabilities.argmax(axis=1) == label_ids
    reference_right = reference.argmax(axis=1) == label_ids
    lost = reference_right.astype(np.float64) - right.astype(np.float64)
    generator = np.random.default_rng(0)
    rounds = [generator.choice(lost, lost.size).mean() for _ in range(BOOTSTRAP_ROUNDS)]
    low, high = np.percentile(rounds, [2.5, 97.5])
    return float(lost.mean()), (float(low), float(high))
