"""The metrics of made-up predictions of four classes, against scikit-learn's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_score, recall_score, roc_auc_score

from components.predictions import Predictions
from components.report.measures import calibration
from components.tflite_evaluator.measure import Measured, measure

LABELS = ("ant", "bee", "cricket", "dragonfly")
GENERATOR = np.random.default_rng(0)
LABEL_IDS = GENERATOR.integers(0, 4, 200)


def probabilities(skill: float) -> NDArray[np.float32]:
    logits = GENERATOR.normal(size=(200, 4)) + skill * np.eye(4)[LABEL_IDS]
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


MODELS = {"float": probabilities(2.0), "float16": probabilities(1.0)}
CAMERAS = np.array(["left", "right"])[GENERATOR.integers(0, 2, 200)]


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    predictions = Predictions(
        image_ids=tuple(map(str, range(200))),
        label_ids=LABEL_IDS,
        slices={"camera": CAMERAS},
        float_model=MODELS["float"],
        variants={"float16": MODELS["float16"], "nan": np.full((200, 4), np.nan, np.float32)},
        seconds={},
    )
    return measure(predictions, LABELS)


@pytest.mark.parametrize("model", MODELS)
def test_the_overall_metrics(measured: dict[str, Measured], model: str) -> None:
    found, said = measured[model].by_slice["overall"], MODELS[model].argmax(axis=1)
    top_3 = np.argsort(MODELS[model], axis=1)[:, 1:]
    expected = {
        "accuracy": np.mean(said == LABEL_IDS),
        "top-3 accuracy": np.mean(
            [label in row for label, row in zip(LABEL_IDS, top_3, strict=True)]
        ),
        "auc": roc_auc_score(LABEL_IDS, MODELS[model], multi_class="ovr", average="macro"),
        "calibration error": calibration(MODELS[model], LABEL_IDS).expected_error,
    }
    for index, label in enumerate(LABELS):
        of_class = {"labels": [index], "average": "macro"}
        expected[f"precision of {label}"] = precision_score(LABEL_IDS, said, **of_class)
        expected[f"recall of {label}"] = recall_score(LABEL_IDS, said, **of_class)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("camera", ["left", "right"])
def test_accuracy_by_slice(measured: dict[str, Measured], model: str, camera: str) -> None:
    members = camera == CAMERAS
    expected = np.mean(MODELS[model].argmax(axis=1)[members] == LABEL_IDS[members])
    found = measured[model].by_slice[f"camera={camera}"]
    assert found == pytest.approx({"accuracy": expected}, abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_confusion_matrix(measured: dict[str, Measured], model: str) -> None:
    expected = confusion_matrix(LABEL_IDS, MODELS[model].argmax(axis=1))
    assert measured[model].confusion == tuple(map(tuple, expected.tolist()))


def test_top_3_is_counted_in_blocks(
    measured: dict[str, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.tflite_evaluator.measure.BLOCK", 7)
    predictions = Predictions((), LABEL_IDS, {}, MODELS["float"], {}, {})
    found = measure(predictions, LABELS)["float"].by_slice["overall"]["top-3 accuracy"]
    assert found == measured["float"].by_slice["overall"]["top-3 accuracy"]


def test_a_class_that_is_never_said_has_no_precision() -> None:
    said = np.array([[0.8, 0.1, 0.1, 0.0]] * 4, np.float32)
    predictions = Predictions((), np.array([0, 1, 2, 3]), {}, said, {}, {})
    found = measure(predictions, LABELS)["float"].by_slice["overall"]
    assert np.isnan(found["precision of bee"])
    assert (found["precision of ant"], found["recall of bee"]) == (0.25, 0.0)


@pytest.mark.parametrize(("right", "of"), [(19, 20), (9, 10), (57, 60), (2850, 3000)])
def test_a_share_that_is_a_minimum_reaches_it(right: int, of: int) -> None:
    """In float32, 0.9 is 0.89999998."""
    labels = np.zeros(of, np.int64)
    said = np.where(np.arange(of)[:, None] < right, (1.0, 0.0), (0.0, 1.0)).astype(np.float32)
    found = measure(Predictions((), labels, {}, said, {}, {}), ("ant", "bee"))
    assert found["float"].by_slice["overall"]["accuracy"] >= float(str(right / of))


def test_a_model_that_gives_no_numbers_is_not_measured(measured: dict[str, Measured]) -> None:
    assert set(measured) == set(MODELS)


CALIBRATED = {
    "always right and always sure": ([[1.0, 0.0]] * 4, [0] * 4, 0.0),
    "always wrong and always sure": ([[1.0, 0.0]] * 4, [1] * 4, 1.0),
    "as sure as it is right": ([[0.75, 0.25]] * 4, [0, 0, 0, 1], 0.0),
    "half right, quite sure": ([[0.9, 0.1]] * 4, [0, 0, 1, 1], 0.4),
    "two bins, each with its share": (
        [[0.9, 0.1]] * 2 + [[0.6, 0.4]] * 2,
        [0, 0, 0, 1],
        (0.1 + 0.1) / 2,
    ),
}


@pytest.mark.parametrize(("said", "label_ids", "error"), CALIBRATED.values(), ids=CALIBRATED)
def test_the_calibration_error(said: list[list[float]], label_ids: list[int], error: float) -> None:
    found = calibration(np.array(said, np.float32), np.array(label_ids))
    assert found.expected_error == pytest.approx(error, abs=1e-6)
