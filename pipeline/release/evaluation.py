"""What TFX's Evaluator measures of the float model's predictions, by the code that judges variants.

TFMA's own accuracy is a Keras metric, which computes in float32 and takes seconds to be traced; its
own AUC is an approximation in bins, far from it where probabilities crowd, and takes a histogram
for each class and slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from numpy.typing import NDArray
from tensorflow_model_analysis.proto import config_pb2

from components.metrics import macro_auc

# Of what a `MacroAuc` has gathered: the label ids, and the probabilities row by row.
_Gathered = tuple[bytearray, bytearray]
_Counted = tuple[int, int]  # examples that are right, and all


def eval_config(settings: Mapping[str, Any]) -> config_pb2.EvalConfig:
    """`pipeline.release.eval_settings` as TFMA has them."""
    return json_format.ParseDict(settings, config_pb2.EvalConfig())


class Accuracy(tfma.metrics.Metric):
    """The share of examples whose label has the highest probability."""

    def __init__(self, name: str, code_digest: str) -> None:
        """Makes the metric; TFMA calls this with what `eval_settings` wrote."""
        super().__init__(_computations(_Accuracy), name=name)


class MacroAuc(tfma.metrics.Metric):
    """`components.metrics.macro_auc`.

    It takes 4 bytes for each example and class, and as much again for each slice key.
    """

    def __init__(self, name: str, code_digest: str) -> None:
        """Makes the metric; TFMA calls this with what `eval_settings` wrote."""
        super().__init__(_computations(_MacroAuc), name=name)


class _Combiner(beam.CombineFn):
    """Sums up what a model says of each example."""

    def __init__(self, key: Any, eval_config: config_pb2.EvalConfig | None) -> None:
        self._key = key
        self._eval_config = eval_config

    def _said(self, element: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yields the label id and the probabilities of each example of an element."""
        told = tfma.metrics.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            flatten=False,
        )
        for label_id, row, _ in told:
            yield np.asarray(label_id, np.int64), np.asarray(row, np.float32)


class _Accuracy(_Combiner):
    def create_accumulator(self) -> _Counted:
        return 0, 0

    def add_input(self, counted: _Counted, element: Any) -> _Counted:
        right, examples = counted
        for label_id, row in self._said(element):
            right += int(row.argmax() == label_id.item())
            examples += 1
        return right, examples

    def merge_accumulators(self, parts: Iterable[_Counted]) -> _Counted:
        right, examples = zip(*parts, strict=True)
        return sum(right), sum(examples)

    def extract_output(self, counted: _Counted) -> dict[Any, float]:
        right, examples = counted
        return {self._key: right / examples if examples else float("nan")}


class _MacroAuc(_Combiner):
    def create_accumulator(self) -> _Gathered:
        return bytearray(), bytearray()

    def add_input(self, gathered: _Gathered, element: Any) -> _Gathered:
        label_ids, probabilities = gathered
        for label_id, row in self._said(element):
            label_ids += label_id.tobytes()
            probabilities += row.tobytes()
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


def _computations(combiner: type[_Combiner]) -> Any:
    """What TFMA calls to have a computation for each model, with what it knows of them."""

    def create(
        name: str,
        eval_config: config_pb2.EvalConfig | None = None,
        model_names: Sequence[str] = ("",),
        output_names: Sequence[str] = ("",),
    ) -> list[Any]:
        keys = [
            tfma.metrics.MetricKey(name=name, model_name=model, output_name=output)
            for model in model_names
            for output in output_names
        ]
        return [
            tfma.metrics.MetricComputation([key], None, combiner(key, eval_config)) for key in keys
        ]

    return create
