"""Has TFMA compute the metrics of every model, overall and by slice, in one Beam run.

The predictions are made already (see `predict`). They go in as one table with a row an example and
model, and the model's name is a slice key: one TFMA graph serves all models, where a ModelSpec a
model would build the whole graph anew for each.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray
from tensorflow_model_analysis.proto import config_pb2

from components.report.measures import calibration
from components.tflite_evaluator.predict import FLOAT, Predictions
from components.verdict import OVERALL

MODEL = "model"
LABEL_ID = "label_id"
PREDICTION = "prediction"
TOP_K = 3


@dataclass(frozen=True)
class Measured:
    """The metrics of one model.

    Attributes:
        by_slice: metric name to value, by slice: "overall" or "<key>=<value>".
        confusion: `[label][said]` counts, in the order of the labels.
    """

    by_slice: Mapping[str, Mapping[str, float]]
    confusion: tuple[tuple[int, ...], ...]


def measure(
    predictions: Predictions, labels: Sequence[str], beam_args: Sequence[str]
) -> dict[str, Measured]:
    """Measures the float model and every variant that gave predictions (finite ones).

    Metrics: `accuracy`, `top-3 accuracy` (of more than three classes), `auc` (one class against the
    rest, averaged), `precision of <label>`, `recall of <label>`, `calibration error`; by slice,
    `accuracy` only.

    Returns:
        The metrics by model, the float model under "float".
    """
    models = {
        name: probabilities
        for name, probabilities in {FLOAT: predictions.float_model, **predictions.variants}.items()
        if np.isfinite(probabilities).all()
    }
    table = _table(predictions, models)
    config = _eval_config(labels, list(predictions.slices))
    with tempfile.TemporaryDirectory() as output:
        with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
            _ = (
                pipeline
                | beam.Create([table])
                | tfma.ExtractEvaluateAndWriteResults(
                    eval_config=config,
                    extractors=tfma.default_extractors(eval_config=config),
                    evaluators=tfma.default_evaluators(eval_config=config),
                    writers=tfma.default_writers(output, eval_config=config),
                )
            )
        result = tfma.load_eval_result(output)
    return {
        name: Measured(
            _with_calibration(
                _by_slice(result.slicing_metrics, name, labels),
                calibration(probabilities, predictions.label_ids).error,
            ),
            _confusion(result.plots, name, len(labels)),
        )
        for name, probabilities in models.items()
    }


def _table(predictions: Predictions, models: Mapping[str, NDArray[np.float32]]) -> pa.RecordBatch:
    """A row an example and model, each cell a list as TFMA has it."""
    examples = len(predictions.label_ids)
    names = np.repeat(list(models), examples)
    columns = {
        LABEL_ID: _cells(np.tile(predictions.label_ids, len(models)), pa.int64()),
        MODEL: _cells(names, pa.string()),
        PREDICTION: pa.array(
            list(np.concatenate(list(models.values())).astype(np.float32)), pa.list_(pa.float32())
        ),
    }
    for key, values in predictions.slices.items():
        columns[key] = _cells(np.tile(values, len(models)), pa.string())
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _cells(values: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    return pa.array([[value] for value in values.tolist()], pa.list_(kind))


def _eval_config(labels: Sequence[str], slice_keys: Sequence[str]) -> config_pb2.EvalConfig:
    classes = range(len(labels))
    whole = [
        _metric("SparseCategoricalAccuracy", name="accuracy"),
        _metric("MultiClassConfusionMatrixPlot", thresholds=[0.0]),
    ]
    if len(labels) > TOP_K:
        whole.append(_metric("SparseTopKCategoricalAccuracy", name="top_k", k=TOP_K))
    by_class = [_metric("Precision", name="precision", top_k=1)]
    by_class.append(_metric("Recall", name="recall", top_k=1))
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key=LABEL_ID, prediction_key=PREDICTION)],
        slicing_specs=[
            config_pb2.SlicingSpec(feature_keys=[MODEL, *key])
            for key in ([], *([k] for k in slice_keys))
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(metrics=whole),
            config_pb2.MetricsSpec(
                metrics=[_metric("AUC", name="auc")],
                aggregate=config_pb2.AggregationOptions(
                    macro_average=True, class_weights=dict.fromkeys(classes, 1.0)
                ),
            ),
            config_pb2.MetricsSpec(
                metrics=by_class,
                binarize=config_pb2.BinarizationOptions(class_ids={"values": list(classes)}),
            ),
        ],
    )


def _metric(class_name: str, **config: object) -> config_pb2.MetricConfig:
    return config_pb2.MetricConfig(class_name=class_name, config=json.dumps(config))


def _by_slice(
    slicing_metrics: Sequence[tuple[tuple[tuple[str, str], ...], Mapping[str, object]]],
    model: str,
    labels: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Sorts TFMA's result out: slice to metric to value, for one model."""
    found: dict[str, dict[str, float]] = {}
    for slice_key, by_output in slicing_metrics:
        values = dict(slice_key)
        if values.pop(MODEL) != model:
            continue
        name = "=".join(*values.items()) if values else OVERALL
        by_sub_key: Mapping[str, Mapping[str, Mapping[str, float]]] = by_output[""]  # type: ignore[assignment]
        # TFMA computes in float32, where 0.9 is 0.89999998 and below a minimum of 0.9.
        rounded = {m: round(v, 6) for m, v in _values(by_sub_key, labels, overall=not values)}
        found[name] = rounded
    return found


def _values(
    by_sub_key: Mapping[str, Mapping[str, Mapping[str, float]]],
    labels: Sequence[str],
    *,
    overall: bool,
) -> list[tuple[str, float]]:
    whole = {key.rsplit("\n_", 1)[-1]: value for key, value in by_sub_key[""].items()}
    values = [("accuracy", whole["accuracy"]["doubleValue"])]
    if not overall:
        return values
    if "top_k" in whole:
        values.append((f"top-{TOP_K} accuracy", whole["top_k"]["doubleValue"]))
    values.append(("auc", whole["auc"]["doubleValue"]))
    for index, label in enumerate(labels):
        of_class = by_sub_key[f"classId:{index} topK:1"]
        # Of a class that is never said, no precision is defined: TFMA gives NaN, which passes no
        # threshold.
        values += [
            (f"{metric} of {label}", float(of_class[metric]["doubleValue"]))
            for metric in ("precision", "recall")
        ]
    return values


def _with_calibration(
    by_slice: dict[str, dict[str, float]], calibration_error: float
) -> dict[str, dict[str, float]]:
    by_slice[OVERALL]["calibration error"] = calibration_error
    return by_slice


def _confusion(
    plots: Sequence[tuple[tuple[tuple[str, str], ...], Mapping[str, object]]],
    model: str,
    classes: int,
) -> tuple[tuple[int, ...], ...]:
    counts = np.zeros((classes, classes), int)
    for slice_key, by_output in plots:
        if dict(slice_key) != {MODEL: model}:
            continue
        plot = by_output[""][""]["multiClassConfusionMatrixAtThresholds"]  # type: ignore[index]
        for entry in plot["matrices"][0]["entries"]:
            row, column = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)
            counts[row, column] = round(entry["numWeightedExamples"])
    return tuple(tuple(row) for row in counts.tolist())
