"""The numbers a report adds to the verdict: intervals, curves, calibration, what a variant lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from components.intervals import share_interval

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Points = NDArray[np.float64]  # [points, 2]: x and y

CALIBRATION_BINS = 15  # of equal width, as the gate's calibration error has


@dataclass(frozen=True)
class Group:
    """Images that have something in common, and how many of them each model gets right."""

    name: str
    images: int
    right: Mapping[str, int]  # by model

    def share(self, model: str) -> float:
        """The share of the images that a model gets right."""
        return self.right[model] / self.images

    def interval(self, model: str) -> tuple[float, float]:
        """The 95% interval of the share."""
        return share_interval(self.share(model), self.images)

    @property
    def at_best(self) -> float:
        """The least upper end of the models' intervals: low where one is bad, not by chance."""
        return min((self.interval(model)[1] for model in self.right), default=1.0)


def groups(
    names: Sequence[str], group_ids: Ints, said: Mapping[str, Ints], label_ids: Ints
) -> list[Group]:
    """The groups that have images.

    Args:
        names: of the groups.
        group_ids: `[examples]`, into the names.
        said: by model, the class that it named, `[examples]`.
        label_ids: `[examples]`.
    """
    images = np.bincount(group_ids, minlength=len(names)).tolist()
    right = {
        model: np.bincount(group_ids[of_model == label_ids], minlength=len(names)).tolist()
        for model, of_model in said.items()
    }
    return [
        Group(name, images[i], {model: counts[i] for model, counts in right.items()})
        for i, name in enumerate(names)
        if images[i]
    ]


def together(name: str, parts: Sequence[Group]) -> Group:
    """One group of all images of some, at least one."""
    return Group(
        name,
        sum(part.images for part in parts),
        {model: sum(part.right[model] for part in parts) for model in parts[0].right},
    )


@dataclass(frozen=True)
class Confused:
    """A class that models said of another's images."""

    label_id: int
    said_id: int
    counts: Mapping[str, int]  # images, by model


def confused(said: Mapping[str, Ints], label_ids: Ints, classes: int) -> list[Confused]:
    """The pairs of classes that a model confuses, those that one confuses most often first."""
    by_model = {}
    for model, of_model in said.items():
        wrong = of_model != label_ids
        pairs, counts = np.unique(label_ids[wrong] * classes + of_model[wrong], return_counts=True)
        by_model[model] = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    rows = [
        Confused(
            label_id=pair // classes,
            said_id=pair % classes,
            counts={model: counts.get(pair, 0) for model, counts in by_model.items()},
        )
        for pair in sorted({pair for counts in by_model.values() for pair in counts})
    ]
    return sorted(rows, key=lambda r: (-max(r.counts.values()), -sum(r.counts.values())))


@dataclass(frozen=True)
class SuspectedLabel:
    """An example that seems to be of another class than its label says."""

    index: int
    suggested_id: int  # of the class
    margin: float  # by which it is more probable than the label


def suspected_labels(label_ids: Ints, probabilities: Floats) -> list[SuspectedLabel]:
    """Finds labels that are probably wrong, by confident learning.

    C. Northcutt, L. Jiang and I. Chuang, Confident Learning: Estimating Uncertainty in Dataset
    Labels, Journal of Artificial Intelligence Research 70 (2021): an example counts as of the class
    that is most probable among those in which it is at least as probable as the examples with that
    label are on average. Of one that counts as another class than its label, the label is suspect.

    Args:
        label_ids: `[examples]`; the model must not have been trained with them.
        probabilities: `[examples, classes]`.

    Returns:
        The largest margins first.
    """
    classes = probabilities.shape[1]
    sums = np.bincount(
        label_ids, weights=probabilities[np.arange(len(label_ids)), label_ids], minlength=classes
    )
    counts = np.bincount(label_ids, minlength=classes)
    # A class without an example has no threshold that could be reached.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    found = []
    for index, (label, row) in enumerate(zip(label_ids.tolist(), probabilities, strict=True)):
        confident = np.flatnonzero(row >= thresholds)
        if len(confident):
            suggested = int(confident[row[confident].argmax()])
            if suggested != label:
                found.append(SuspectedLabel(index, suggested, float(row[suggested] - row[label])))
    return sorted(found, key=lambda suspect: (-suspect.margin, suspect.index))


def said_of(probabilities: Floats) -> Ints:
    """The most probable class of each example, `[examples]`."""
    return probabilities.argmax(axis=1)


def confusion(said: Ints, label_ids: Ints, classes: int) -> Ints:
    """How often each class `[label, said]` was said of each label."""
    pairs = label_ids * classes + said
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassCurves:
    """How well one class is told from the rest at every threshold."""

    roc: Points  # (false positive rate, true positive rate)
    area: float  # under the ROC curve
    precision_recall: Points  # (recall, precision)
    average_precision: float


def curves_by_class(
    measured: Mapping[str, Floats],
    label_ids: Ints,
    labels: Sequence[str],
    classes: Iterable[int] | None = None,
) -> dict[str, dict[str, ClassCurves]]:
    """By class and model, the curves of the class against the rest.

    A class that no example has, or every example, has no curves.

    Args:
        measured: by model, the probabilities, `[examples, classes]`.
        label_ids: `[examples]`.
        labels: class names in order.
        classes: to draw, in this order; None draws all.
    """
    counts = np.bincount(label_ids, minlength=len(labels))
    return {
        labels[i]: {name: _class_curves(p[:, i], label_ids == i) for name, p in measured.items()}
        for i in (range(len(labels)) if classes is None else classes)
        if 0 < counts[i] < len(label_ids)
    }


def _class_curves(scores: Floats, members: NDArray[np.bool_]) -> ClassCurves:
    false_positives, true_positives, _ = roc_curve(members, scores)
    precision, recall, _ = precision_recall_curve(members, scores)
    return ClassCurves(
        roc=np.column_stack((false_positives, true_positives)),
        area=float(roc_auc_score(members, scores)),
        # Between two thresholds precision is not a straight line (Davis and Goadrich 2006): steps.
        precision_recall=np.column_stack((np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1])),
        average_precision=float(average_precision_score(members, scores)),
    )


@dataclass(frozen=True)
class Calibration:
    """Whether a model is right as often as its probabilities claim."""

    points: Points  # (mean probability, accuracy) of each bin that has examples
    expected_error: float  # mean gap between confidence and accuracy, "ECE"


def calibration(probabilities: Floats, label_ids: Ints) -> Calibration:
    """Compares the probability of what was said with how often it was right (Guo et al. 2017)."""
    # In float32 the mean of ten thousand probabilities near 1 can come out above 1.
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == label_ids
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    members = [bins == b for b in np.unique(bins)]
    points = np.array([(confidence[m].mean(), right[m].mean()) for m in members])
    gaps = np.abs(points[:, 0] - points[:, 1])
    return Calibration(points, float(np.average(gaps, weights=[m.sum() for m in members])))
