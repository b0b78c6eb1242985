"""Renders the report of a run: everything that a person needs to say yes or no to a release.

`render` makes one HTML file of a run's verdict, predictions and training curves. The file needs
nothing beside itself: no network, no script, charts as inline SVG. What comes from the data
(labels, slice values, errors) is escaped. The same data gives the same bytes. However many classes
and slices there are, the page has a few megabytes at most: what is worst is shown, the rest is
counted, and the page says where it is.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.predictions import (
    FLOAT,
    MISTAKES,
    THUMBNAILS,
    Neighbour,
    lost_examples,
    mistakes,
)
from components.report import charts, figures, tables
from components.report.measures import (
    CALIBRATION_BINS,
    Floats,
    Group,
    Ints,
    calibration,
    confused,
    curves_by_class,
    groups,
    said_of,
    suspected_labels,
)
from components.report.templates import environment
from components.tflite_models import FRONTIER_FILE, ModelFile
from components.verdict import CHECKS_FILE, CONFUSION_FILE, PREDICTIONS_CSV, Verdict

UNFOLDED_CLASSES = 4  # with more, what grows with the classes is folded away
MOST_CLASSES = 40  # with more, only the worst are shown
DRAWN_CLASSES = 10  # of the worst, those whose curves are drawn
MOST_REASONS = 10  # of one model, above everything else
# Of a model: classes never said, metrics not proved, whether it passed, and why not.
_Outcome = tuple[tuple[str, ...], tuple[str, ...], bool, tuple[str, ...]]
_MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class ReportData:
    """What a report is made from.

    Attributes:
        name: the model's.
        labels: class names in order.
        verdict: on the float model and every variant.
        models: every variant asked for, converted or not.
        label_ids: int64 `[examples]`, of the split that the verdict is on, as all below.
        image_ids: `[examples]`.
        slices: by slice key, the value of each example.
        probabilities: by model ("float", and each variant that ran), float32 `[examples, classes]`.
        sources: `[examples]`, where the original files are; empty if that is not known.
        thumbnails: by index of the example, a small PNG or JPEG; of those that `mistakes` returns
            for the float model and `lost_examples` for each variant.
        curves: training curves by phase and metric, such as "head/loss" and "head/val_loss".
        data_summary: by split and label, the number of images.
        nearest: by index of an example that the float model gets wrong, training images like it.
        lineage: what the run was made from, by what it is.
        settings: that it was made with, by name.
    """

    name: str
    labels: tuple[str, ...]
    verdict: Verdict
    models: tuple[ModelFile, ...]
    label_ids: NDArray[np.int64]
    image_ids: tuple[str, ...]
    slices: Mapping[str, NDArray[np.str_]]
    probabilities: Mapping[str, NDArray[np.float32]]
    thumbnails: Mapping[int, bytes]
    sources: tuple[str, ...]
    curves: Mapping[str, Sequence[float]]
    data_summary: Mapping[str, Mapping[str, int]]
    lineage: Mapping[str, str]
    settings: Mapping[str, str]
    nearest: Mapping[int, Sequence[Neighbour]]


@dataclass(frozen=True)
class Near:
    """A training image like one that is shown."""

    path: str
    picture: str  # a data: URI
    label: str


@dataclass(frozen=True)
class Mistake:
    """An image that a model gets wrong."""

    image_id: str
    path: str  # of the original file; empty if it is not known
    picture: str | None  # a data: URI
    label: str
    said: str
    probability: float
    nearest: tuple[Near, ...]

    @property
    def like(self) -> str:
        """How many of the nearest training images have which label."""
        counts = Counter(near.label for near in self.nearest).most_common()
        return ", ".join(f"{count} {label}" for label, count in counts)


@dataclass(frozen=True)
class Mistakes:
    """What a variant gets wrong and the float model right, or what that gets wrong of a class."""

    name: str  # the variant's, or the class's
    total: int
    images: tuple[Mistake, ...]  # the first of them


@dataclass(frozen=True)
class Classes:
    """What a report says of single classes.

    Attributes:
        many: whether there are too many to show each; else the tables of recall and of the most
            frequent confusions are empty.
        recall: of the worst classes, and of those that follow.
        confusions: a matrix a model; none if there are many classes.
        confused: the most frequent confusions.
        areas: under the curves.
        curves: by label, the charts; of many classes, of the worst.
    """

    many: bool
    recall: tuple[tables.Table, tables.Table]
    confusions: tuple[tables.Table, ...]
    confused: tables.Table
    areas: tables.Table
    curves: Mapping[str, Sequence[charts.Chart]]


def render(data: ReportData) -> str:
    """The report, as HTML.

    Raises:
        ValueError: a thumbnail is neither PNG nor JPEG.
    """
    verdict, label_ids = data.verdict, data.label_ids
    styles = {model.variant: i % charts.STYLES for i, model in enumerate(verdict.models)}
    measured = {
        model.variant: data.probabilities[model.variant]
        for model in verdict.models
        if model.variant in data.probabilities
        and np.isfinite(data.probabilities[model.variant]).all()
    }
    said = {name: said_of(probabilities) for name, probabilities in measured.items()}
    calibrations = {name: calibration(p, label_ids) for name, p in measured.items()}
    return _TEMPLATES.get_template("report.html.jinja").render(
        data=data,
        checks_file=CHECKS_FILE,
        confusion_file=CONFUSION_FILE,
        outcomes=_outcomes(verdict),
        legend=[(name, styles[name]) for name in measured],
        fold=len(data.labels) > UNFOLDED_CLASSES,
        variants=tables.variant_table(verdict),
        tradeoffs=figures.tradeoff_charts(verdict, styles),
        checks=tables.check_tables(verdict),
        classes=_classes(data, measured, said, styles),
        calibrations=tables.calibration_table(calibrations),
        calibration_bins=CALIBRATION_BINS,
        calibration_chart=figures.calibration_chart(calibrations, styles),
        slices=tables.slice_tables(
            {key: _by_value(values, said, label_ids) for key, values in data.slices.items()},
            tuple(measured),
        ),
        lost=_lost(measured, data),
        mistakes=_float_mistakes(measured, data),
        mistaken=int(np.count_nonzero(said[FLOAT] != label_ids)) if FLOAT in said else 0,
        suspects=tables.suspects_table(_suspects(measured, data), data.labels),
        predictions_file=PREDICTIONS_CSV,
        training=figures.training_charts(data.curves),
        training_legend=[(name, style) for style, name in enumerate(figures.TRAINING_CURVES)],
        summary=tables.summary_table(data.data_summary),
        settings=tables.settings_table(data.settings),
        layers=tables.layer_table(data.models),
        conversions=tables.conversion_table(data.models),
        searches=[
            (model, figures.frontier_charts(model.frontier), tables.frontier_table(model))
            for model in data.models
            if model.frontier
        ],
        frontier_file=FRONTIER_FILE,
    )


def _outcomes(verdict: Verdict) -> list[tuple[list[str], _Outcome]]:
    """What became of the models, and which of them it is said of."""
    found: dict[_Outcome, list[str]] = {}
    for model in verdict.models:
        unproved = tuple(dict.fromkeys(check.metric for check in model.unproven))
        outcome = (model.never_said, unproved, *tables.outcome(model, verdict, MOST_REASONS))
        found.setdefault(outcome, []).append(model.variant)
    return [(names, outcome) for outcome, names in found.items()]


def _classes(
    data: ReportData,
    measured: Mapping[str, Floats],
    said: Mapping[str, Ints],
    styles: Mapping[str, int],
) -> Classes:
    """Every class, or the worst of many."""
    labels, label_ids, models = data.labels, data.label_ids, tuple(measured)
    many = len(labels) > MOST_CLASSES
    ranked = tables.worst_first(groups(labels, label_ids, said, label_ids)) if many else []
    drawn = [labels.index(group.name) for group in ranked[:DRAWN_CLASSES]] if many else None
    curves = curves_by_class(measured, label_ids, labels, drawn)
    pairs = confused(said, label_ids, len(labels)) if many else []
    return Classes(
        many=many,
        recall=tables.class_tables(ranked, models),
        confusions=()
        if many
        else tuple(
            tables.confusion_table(name, of_model, label_ids, labels)
            for name, of_model in said.items()
        ),
        confused=tables.confused_table(pairs, labels, label_ids),
        areas=tables.area_table(curves, models),
        curves={label: figures.class_charts(label, c, styles) for label, c in curves.items()},
    )


def _by_value(
    values: NDArray[np.str_], said: Mapping[str, Ints], label_ids: NDArray[np.int64]
) -> list[Group]:
    names, group_ids = np.unique(values, return_inverse=True)
    return groups(names.tolist(), group_ids, said, label_ids)


def _lost(measured: Mapping[str, Floats], data: ReportData) -> list[Mistakes]:
    """What each variant lost, if the float model was measured."""
    if FLOAT not in measured:
        return []
    lost = []
    for name, probabilities in measured.items():
        if name == FLOAT:
            continue
        indices = lost_examples(
            data.label_ids, measured[FLOAT], probabilities, limit=len(data.label_ids)
        )
        images = tuple(_mistake(i, probabilities[i], data) for i in indices[:THUMBNAILS])
        lost.append(Mistakes(name, len(indices), images))
    return lost


def _float_mistakes(measured: Mapping[str, Floats], data: ReportData) -> list[Mistakes]:
    """The float model's own mistakes, by class: what training is to do better."""
    if FLOAT not in measured:
        return []
    indices = mistakes(data.label_ids, measured[FLOAT], limit=len(data.label_ids))
    totals = Counter(data.label_ids[indices].tolist())
    shown: dict[int, list[Mistake]] = {}
    for index in indices[:MISTAKES]:
        of_class = shown.setdefault(int(data.label_ids[index]), [])
        of_class.append(_mistake(index, measured[FLOAT][index], data))
    return [
        Mistakes(data.labels[label], totals[label], tuple(images))
        for label, images in sorted(shown.items())
    ]


def _suspects(measured: Mapping[str, Floats], data: ReportData) -> list[tables.Suspect]:
    """Images whose label the float model has reason to doubt."""
    if FLOAT not in measured:
        return []
    found = suspected_labels(data.label_ids, measured[FLOAT])
    return [
        tables.Suspect(
            name=data.sources[suspect.index] if data.sources else data.image_ids[suspect.index],
            label_id=int(data.label_ids[suspect.index]),
            suggested_id=suspect.suggested_id,
            probability=float(measured[FLOAT][suspect.index, suspect.suggested_id]),
        )
        for suspect in found
    ]


def _mistake(index: int, probabilities: Floats, data: ReportData) -> Mistake:
    thumbnail = data.thumbnails.get(index)
    said = int(probabilities.argmax())
    return Mistake(
        image_id=data.image_ids[index],
        path=data.sources[index] if data.sources else "",
        picture=None if thumbnail is None else _data_uri(thumbnail),
        label=data.labels[data.label_ids[index]],
        said=data.labels[said],
        probability=float(probabilities[said]),
        nearest=tuple(
            Near(each.source or each.image_id, _data_uri(each.picture), each.label)
            for each in data.nearest.get(index, ())
        ),
    )


def _data_uri(image: bytes) -> str:
    for signature, media_type in _MEDIA_TYPES.items():
        if image.startswith(signature):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"expected a PNG or JPEG thumbnail, got bytes that start with {image[:8]!r}")


_TEMPLATES = environment()
_TEMPLATES.globals["geometry"] = charts
