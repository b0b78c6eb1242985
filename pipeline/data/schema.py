"""The schema of the raw examples, as TFX's steps read it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline.data.photos import EXAMPLE_FEATURES


def write_schema(folder: Path, labels: Sequence[str], slice_keys: Sequence[str]) -> str:
    """Writes the raw examples' schema and returns its file's name.

    The name carries the content's digest because TFX caches an imported schema by its path.
    """
    schema = schema_pb2.Schema()
    for name in (*EXAMPLE_FEATURES, *slice_keys):
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        feature.presence.min_fraction = 1
        feature.presence.min_count = 1
        feature.shape.dim.add(size=1)
        if name == "label":
            feature.string_domain.value.extend(labels)
    content = text_format.MessageToString(schema, as_utf8=True).encode()
    name = f"schema-{hashlib.sha256(content).hexdigest()[:12]}.pbtxt"
    (folder / name).write_bytes(content)
    return name
