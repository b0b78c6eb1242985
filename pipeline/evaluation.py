"""What TFX's Evaluator measures on the float model, and the thresholds it must reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2

from components.metrics import macro_auc
from pipeline.config import GateConfig
from pipeline.eval_settings import eval_settings

# Of what a `MacroAuc` has gathered: the label ids, and the probabilities row by row.
_Gathered = tuple[bytearray, bytearray]


def eval_config(gate: GateConfig, slice_keys: Sequence[str]) -> config_pb2.EvalConfig:
    """`eval_settings` as TFMA has them."""
    return json_format.ParseDict(eval_settings(gate, slice_keys), config_pb2.EvalConfig())


class MacroAuc(tfma.metrics.Metric):
    """`components.metrics.macro_auc`, by which variants are judged, too.

    TFMA's own AUC is an approximation in bins, far from it where probabilities crowd, and takes a
    histogram for each class and slice. This takes 4 bytes for each example and class, and as much
    again for each slice key.
    """

    def __init__(self, name: str) -> None:
        """Makes the metric; TFMA calls this with what `eval_config` wrote."""
        super().__init__(_macro_auc, name=name)


def _macro_auc(
    name: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_names: Sequence[str] = ("",),
    output_names: Sequence[str] = ("",),
) -> list[Any]:
    """A computation for each model; TFMA calls this with what it knows of them."""
    keys = [
        tfma.metrics.MetricKey(name=name, model_name=model, output_name=output)
        for model in model_names
        for output in output_names
    ]
    return [
        tfma.metrics.MetricComputation([key], None, _MacroAucCombiner(key, eval_config))
        for key in keys
    ]


class _MacroAucCombiner(beam.CombineFn):
    """Gathers what a model says of each example, and computes from all of it at the end."""

    def __init__(self, key: Any, eval_config: config_pb2.EvalConfig | None) -> None:
        self._key = key
        self._eval_config = eval_config

    def create_accumulator(self) -> _Gathered:
        return bytearray(), bytearray()

    def add_input(self, gathered: _Gathered, element: Any) -> _Gathered:
        label_ids, probabilities = gathered
        told = tfma.metrics.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            flatten=False,
        )
        for label_id, row, _ in told:
            label_ids += np.asarray(label_id, np.int64).tobytes()
            probabilities += np.asarray(row, np.float32).tobytes()
        return gathered

    def merge_accumulators(self, parts: Iterable[_Gathered]) -> _Gathered:
        merged = self.create_accumulator()
        for label_ids, probabilities in parts:
            merged[0].extend(label_ids)
            merged[1].extend(probabilities)
        return merged

    def extract_output(self, gathered: _Gathered) -> dict[Any, float]:
        label_ids = np.frombuffer(gathered[0], np.int64)
        probabilities = np.frombuffer(gathered[1], np.float32).reshape(len(label_ids), -1)
        return {self._key: macro_auc(label_ids, probabilities)}
