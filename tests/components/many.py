"""A run with many classes and slices, made up: what a report and a verdict have to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from components.predictions import (
    MISTAKES,
    NEIGHBOURS,
    THUMBNAILS,
    Neighbour,
    lost_examples,
    mistakes,
)
from components.report.measures import groups, said_of
from components.report.report import ReportData
from components.tflite_models import ModelFile
from components.verdict import OVERALL, Check, VariantVerdict, Verdict

VARIANTS = ("float32", "float16", "dynamic", "int8", "mixed", "int8_io", "int16x8")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(4000)  # about as large as a thumbnail of a photo


def many(
    classes: int = 1000,
    keys: int = 20,
    values: int = 500,
    variants: int = 7,
    examples: int = 10_000,
    *,
    min_slice_accuracy: float | None = None,
) -> ReportData:
    """A float model that is right four times out of five, and variants that are ever worse.

    Class 0 is one that no model ever recognizes, and the first value of each slice key is as bad.
    """
    generator = np.random.default_rng(0)
    labels = tuple(f"class number {i}" for i in range(classes))
    label_ids = np.arange(examples) % classes
    members = {f"key_{k}": generator.integers(0, values, examples) for k in range(keys)}
    hopeless = label_ids == 0
    for value_ids in members.values():
        hopeless |= value_ids == 0
    scores = generator.random((examples, classes), np.float32) / 5
    scores[np.arange(examples), label_ids] += np.where(hopeless, -1.0, generator.random(examples))
    probabilities = {"float": np.maximum(scores, 0)}
    for number, name in enumerate(VARIANTS[:variants]):
        worse = probabilities["float"].copy()
        changed = generator.random(examples) < 0.01 * (number + 1)
        worse[changed] = np.roll(worse[changed], 1, axis=1)
        probabilities[name] = worse
    for of_model in probabilities.values():
        of_model /= of_model.sum(axis=1, keepdims=True)
    slices = {key: np.char.mod("site %05d", value_ids) for key, value_ids in members.items()}
    verdicts = {
        name: VariantVerdict(
            name,
            tuple(_checks(said_of(p), label_ids, labels, slices, min_slice_accuracy)),
            None,
            14_100_000,
            "aa" * 32,
            {"p50": 2.5, "p95": 3.25},
            2,
            confusion=tuple((0,) * classes for _ in range(classes)),
        )
        for name, p in probabilities.items()
    }
    lost = {
        index
        for p in probabilities.values()
        for index in lost_examples(label_ids, probabilities["float"], p, THUMBNAILS)
    }
    wrong = mistakes(label_ids, probabilities["float"], MISTAKES)
    like = Neighbour("photos/like.jpg", "aa" * 32, labels[1], PICTURE)
    return ReportData(
        name="species",
        labels=labels,
        verdict=Verdict(
            "test", examples, verdicts["float"], tuple(verdicts[v] for v in VARIANTS[:variants])
        ),
        models=tuple(
            ModelFile(name, "int8", "tensorflow 2.16.2", 20.0, "f", "aa" * 32, 14_100_000)
            for name in VARIANTS[:variants]
        ),
        label_ids=label_ids,
        image_ids=tuple(f"{i:064x}" for i in range(examples)),
        sources=tuple(f"photos/{i}.jpg" for i in range(examples)),
        slices=slices,
        probabilities=probabilities,
        thumbnails=dict.fromkeys(lost.union(wrong), PICTURE),
        curves={"head/loss": [1.0, 0.5], "head/val_loss": [1.1, 0.6]},
        data_summary={
            split: {label: 40 + i for i, label in enumerate(labels)} for split in ("train", "test")
        },
        lineage={"baseline": "none yet"},
        settings={"trainer.epochs": "20"},
        nearest={index: [like] * NEIGHBOURS for index in wrong},
    )


def _checks(
    said: NDArray[np.int64],
    label_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    slices: Mapping[str, NDArray[np.str_]],
    min_slice_accuracy: float | None,
) -> Iterator[Check]:
    accuracy = float(np.mean(said == label_ids))
    yield Check("accuracy", OVERALL, accuracy, 0.5)
    yield Check("auc", OVERALL, accuracy)
    for of_class in groups(labels, label_ids, {"": said}, label_ids):
        yield Check(f"precision of {of_class.name}", OVERALL, of_class.share(""))
        yield Check(f"recall of {of_class.name}", OVERALL, of_class.share(""))
    for key, values in slices.items():
        names, value_ids = np.unique(values, return_inverse=True)
        for value in groups(names.tolist(), value_ids, {"": said}, label_ids):
            name = f"{key}={value.name}"
            yield Check("accuracy", name, value.share(""), min_slice_accuracy)
