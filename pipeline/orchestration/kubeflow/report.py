"""The step that reports, passed or not, before the last one publishes: `... kubeflow.report`.

Kubeflow's pages then show the run's report, and its metrics beside those of other runs; the step's
log has the tables that `python -m pipeline run` prints.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from components.predictions import load_predictions
from components.verdict import CONFUSION_FILE, MOST_CONFUSED, OVERALL, REPORT_FILE, Verdict
from pipeline.history.tracking import track_report
from pipeline.orchestration.kubeflow.invocation import ExecutorInput, main_of
from pipeline.orchestration.kubeflow.staging import staged
from pipeline.orchestration.summary import verdict_tables

MOST_POINTS = 200  # of a curve
MOST_METRICS = 500  # with more, those of single classes are left to the report
_ODD = re.compile(r"[^\w-]+")


def run(arguments: list[str]) -> None:
    """Shows a verdict.

    Args:
        arguments: `--executor_input` and its value.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.orchestration.kubeflow.report")
    parser.add_argument("--executor_input", required=True)
    executor_input = ExecutorInput(parser.parse_args(arguments).executor_input)
    folder = Path(staged(executor_input.uri("inputs", "verdict")))
    verdict = Verdict.load(folder)
    predictions = load_predictions(Path(staged(executor_input.uri("inputs", "predictions"))))
    print(verdict_tables(verdict))
    page = Path(staged(executor_input.uri("outputs", "report")))
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / REPORT_FILE, page)
    if told := track_report(folder / REPORT_FILE):
        print(told)
    shown: dict[str, dict[str, Any]] = {"metrics": metrics_of(verdict)}
    for output, model, probabilities in (
        ("float_model", verdict.float_model.variant, predictions.float_model),
        ("variant", best(verdict), predictions.variants.get(best(verdict))),
    ):
        if matrix := confusion_of(folder / CONFUSION_FILE, model):
            shown[output] = {"model": model, "confusionMatrix": matrix}
            if probabilities is not None:
                curve = roc_of(predictions.label_ids, probabilities)
                shown[output]["confidenceMetrics"] = curve
    artifacts = {name: {"artifacts": [{"metadata": each}]} for name, each in shown.items()}
    executor_input.write_output({"artifacts": artifacts})


def metrics_of(verdict: Verdict) -> dict[str, float]:
    """The overall metrics of the float model and of every variant, by name.

    A name has no spaces, so that Kubeflow's pages sort by it and compare runs, and nothing else for
    which MLflow would refuse all of them, as a class may have. The metrics of single classes are
    among them unless they are too many for a page.
    """
    checks = [
        (judged.variant, check)
        for judged in verdict.models
        for check in judged.checks
        if check.slice == OVERALL and math.isfinite(check.value)
    ]
    few = len(checks) <= MOST_METRICS
    return {
        _ODD.sub("_", f"{variant} {check.metric}"): check.value
        for variant, check in checks
        if few or not check.of_part
    }


def best(verdict: Verdict) -> str:
    """The first variant that a release would have; if there is none, the first that was made."""
    made = [variant.variant for variant in verdict.variants if not variant.error]
    return next(iter((*verdict.publishable, *made)), "")


def confusion_of(file: Path, model: str) -> dict[str, Any] | None:
    """A model's confusion as Kubeflow shows it, `rows[label]["row"][said]`: counts of images.

    Returns:
        None where nothing was predicted, and for more than 50 classes, too many for a page.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["model"] == model]
    classes = list(dict.fromkeys([row["label"] for row in rows] + [row["said"] for row in rows]))
    if not 0 < len(classes) <= MOST_CONFUSED:
        return None
    counts = {(row["label"], row["said"]): int(row["images"]) for row in rows}
    return {
        "annotationSpecs": [{"displayName": name} for name in classes],
        "rows": [{"row": [counts.get((label, said), 0) for said in classes]} for label in classes],
    }


def roc_of(
    label_ids: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> list[dict[str, float]]:
    """A model's ROC curve as Kubeflow shows it, of all classes in one.

    Kubeflow draws one curve for a model, with its thresholds. Of two classes or more, the average
    that has thresholds is the micro-average: each image and class is one decision, whether the
    class's probability reaches the threshold. The report has the curve of each class.

    Args:
        label_ids: `[examples]`, -1 for a label that is not the model's.
        probabilities: `[examples, classes]`.

    Returns:
        At most `MOST_POINTS` points from (0, 0) to (1, 1); none where there is no example.
    """
    if not len(label_ids):
        return []
    members = label_ids[:, None] == np.arange(probabilities.shape[1])
    false_positives, recall, thresholds = roc_curve(members.ravel(), probabilities.ravel())
    # The first one is infinite, which JSON does not have; no probability reaches this, either.
    thresholds[0] = math.nextafter(1.0, 2.0)
    chosen = np.unique(np.linspace(0, len(thresholds) - 1, MOST_POINTS).round().astype(int))
    return [
        {
            "confidenceThreshold": float(thresholds[i]),
            "falsePositiveRate": float(false_positives[i]),
            "recall": float(recall[i]),
        }
        for i in chosen
    ]


if __name__ == "__main__":
    main_of(run)
