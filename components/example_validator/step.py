"""Compares statistics with a schema, without TensorFlow."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.metadata import distribution
from importlib.util import module_from_spec
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.folders import SPLIT, Folders

# As TFX names them in its artifacts.
STATISTICS_FILE = "FeatureStats.pb"
ANOMALIES_FILE = "SchemaDiff.pb"

COMPILED = "tensorflow_data_validation.pywrap.tensorflow_data_validation_extension"

_LOG = logging.getLogger(__name__)


def find_anomalies(
    inputs: Folders, outputs: Folders, settings: Mapping[str, Any], run: str
) -> None:
    """Writes the anomalies of each split; see `components.folders.Step`, and the component."""
    (schema_file,) = inputs["schema"].path.iterdir()
    schema = text_format.Parse(schema_file.read_text(encoding="utf-8"), schema_pb2.Schema())
    folders = sorted(inputs["statistics"].path.glob(f"{SPLIT}*"))
    splits = [folder.name.removeprefix(SPLIT) for folder in folders]
    for split, folder in zip(splits, folders, strict=True):
        statistics = statistics_pb2.DatasetFeatureStatisticsList()
        statistics.ParseFromString((folder / STATISTICS_FILE).read_bytes())
        anomalies = validate(statistics, schema)
        for feature, anomaly in sorted(anomalies.anomaly_info.items()):
            _LOG.warning("%s: %s: %s", split, feature, anomaly.description)
        target = outputs["anomalies"].path / folder.name
        target.mkdir()
        (target / ANOMALIES_FILE).write_bytes(anomalies.SerializeToString())
    outputs["anomalies"].properties["split_names"] = json.dumps(splits)


def validate(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, schema: schema_pb2.Schema
) -> anomalies_pb2.Anomalies:
    """What `tensorflow_data_validation.validate_statistics` finds.

    Args:
        statistics: of one split, without slices.
        schema: of its examples.

    Raises:
        ValueError: the statistics are of no split, or of several.
        RuntimeError: TFDV can't compare them.
    """
    (of_split,) = statistics.datasets
    messages = (of_split.SerializeToString(), schema.SerializeToString())
    nothing = (b"",) * 6  # environment, earlier and serving statistics, options
    with_changes_to_schema = False
    found = _tfdv().validation.ValidateFeatureStatistics(
        *messages, *nothing, with_changes_to_schema
    )
    return anomalies_pb2.Anomalies.FromString(found)


@cache
def _tfdv() -> Any:
    """TFDV's compiled half, which needs nothing; the package that it is in imports TensorFlow."""
    path = f"{COMPILED.replace('.', '/')}.so"
    file = str(distribution("tensorflow-data-validation").locate_file(path))
    loader = ExtensionFileLoader(COMPILED, file)
    module = module_from_spec(ModuleSpec(COMPILED, loader, origin=file))
    loader.exec_module(module)
    return module
