"""Metrics on arrays, of whoever has the predictions: every judge of a model calls the same code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def macro_auc(label_ids: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """The area under the ROC curve of each class against the rest, averaged over the classes.

    Exact, not binned: the share of pairs, one example of the class and one of the rest, in which
    the former has the higher probability, and equal ones count half (Mann and Whitney's U, by
    midranks). The same as scikit-learn's `roc_auc_score(..., multi_class="ovr", average="macro")`,
    which can't do without examples of every class.

    Args:
        label_ids: `[examples]`; one that is not the number of a class, such as -1, is of the rest
            to all of them.
        probabilities: `[examples, classes]`.

    Returns:
        The mean over the classes that some of the examples have, and not all of them; NaN, which
        is below and above nothing, if there is none, or if a probability is NaN.
    """
    areas = []
    for index, scores in enumerate(probabilities.T):
        members = label_ids == index
        positives = int(np.count_nonzero(members))
        negatives = len(members) - positives
        if positives and negatives:
            pairs_won = rankdata(scores)[members].sum() - positives * (positives + 1) / 2
            areas.append(float(pairs_won) / (positives * negatives))
    return math.fsum(areas) / len(areas) if areas else math.nan
