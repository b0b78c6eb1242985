"""Adds TFLite Metadata to a model: what its input and output mean, for clients that aren't ours.

MediaPipe Tasks, Android's code generator and others read from it the labels and how to make pixels.
The format is TFLite Metadata 1.0 (`metadata_schema.fbs`, file identifier "M001"): a flatbuffer in
the model's metadata table, and the labels as a file in a zip archive appended to the model. There
is no maintained Python package that writes it, hence the slot numbers below. The whole contract
lies beside the labels, for `edgeline` itself.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import flatbuffers
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils as schema

from components.tflite_rewriter.flatbuffer import pack, unpack
from edgeline.contract import PreprocessingContract
from edgeline.runtime.packed import PACKED_CONTRACT

LABELS_FILE = "labels.txt"
METADATA_NAME = b"TFLITE_METADATA"
METADATA_IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"

# Of the schema's unions and enums, the values used here.
_IMAGE_PROPERTIES = 2
_FEATURE_PROPERTIES = 1
_RGB = 1
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2


def add_metadata(model: bytes, contract: PreprocessingContract) -> bytes:
    """Returns the model with metadata and, appended, the labels and the contract.

    Args:
        model: a TFLite flatbuffer with one input and one output.
        contract: what they mean.
    """
    table = unpack(model)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata(contract), np.uint8)
    entry = schema.schema_fb.MetadataT()
    entry.name = METADATA_NAME
    entry.buffer = len(table.buffers)
    table.buffers.append(buffer)
    table.metadata = [*(table.metadata or []), entry]

    return _append_files(pack(table), contract)


def read_labels(model: bytes) -> tuple[str, ...]:
    """Returns the labels that `add_metadata` appended.

    Raises:
        zipfile.BadZipFile, KeyError: there are none.
    """
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return tuple(archive.read(LABELS_FILE).decode("utf-8").splitlines())


def _append_files(model: bytes, contract: PreprocessingContract) -> bytes:
    file = io.BytesIO(model)
    files = {
        LABELS_FILE: "\n".join(contract.labels).encode(),
        PACKED_CONTRACT: contract.to_json(),
    }
    with zipfile.ZipFile(file, "a") as archive:
        for name, data in files.items():
            # A fixed date: equal models are equal bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return file.getvalue()


def _metadata(contract: PreprocessingContract) -> bytes:
    builder = flatbuffers.Builder(1024)
    pixels = _input_metadata(builder, contract)
    probabilities = _output_metadata(builder)
    name, main = builder.CreateString("edgeline classifier"), builder.CreateString("main")
    description = builder.CreateString(
        f"Image classifier: {len(contract.labels)} classes, RGB {contract.width}x{contract.height}"
    )
    parser_version = builder.CreateString(MIN_PARSER_VERSION)
    inputs, outputs = _vector(builder, [pixels]), _vector(builder, [probabilities])
    subgraph = _table(builder, 10, {0: main, 2: inputs, 3: outputs})
    subgraphs = _vector(builder, [subgraph])
    root = _table(builder, 8, {0: name, 1: description, 3: subgraphs, 7: parser_version})
    builder.Finish(root, file_identifier=METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _input_metadata(builder: flatbuffers.Builder, contract: PreprocessingContract) -> int:
    name = builder.CreateString("pixels")
    description = builder.CreateString("RGB image, scaled to [0, 1]")
    size = _table(builder, 2, {}, numbers={0: contract.width, 1: contract.height})
    image = _table(builder, 2, {1: size}, enums={0: _RGB})
    content = _table(builder, 3, {1: image}, enums={0: _IMAGE_PROPERTIES})
    # Clients compute (x - mean) / std on [0, 255].
    low, high = contract.value_range
    std = 255 / (high - low)
    normalization = _table(
        builder, 2, {0: _floats(builder, [-low * std]), 1: _floats(builder, [std])}
    )
    unit = _table(builder, 2, {1: normalization}, enums={0: _NORMALIZATION_OPTIONS})
    stats = _table(builder, 2, {0: _floats(builder, [high]), 1: _floats(builder, [low])})
    units = _vector(builder, [unit])
    return _table(builder, 7, {0: name, 1: description, 3: content, 4: units, 5: stats})


def _output_metadata(builder: flatbuffers.Builder) -> int:
    name = builder.CreateString("probabilities")
    description = builder.CreateString("Probability of each label")
    content = _table(builder, 3, {1: _table(builder, 0, {})}, enums={0: _FEATURE_PROPERTIES})
    file_name = builder.CreateString(LABELS_FILE)
    file_description = builder.CreateString("Labels in the order of the output")
    labels = _table(builder, 5, {0: file_name, 1: file_description}, enums={2: _TENSOR_AXIS_LABELS})
    stats = _table(builder, 2, {0: _floats(builder, [1.0]), 1: _floats(builder, [0.0])})
    files = _vector(builder, [labels])
    return _table(builder, 7, {0: name, 1: description, 3: content, 5: stats, 6: files})


def _table(
    builder: flatbuffers.Builder,
    slots: int,
    offsets: dict[int, int],
    *,
    enums: dict[int, int] | None = None,
    numbers: dict[int, int] | None = None,
) -> int:
    """Writes a table of `slots` fields: references, bytes and unsigned 32-bit numbers by slot."""
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in (numbers or {}).items():
        builder.PrependUint32Slot(slot, number, 0)
    for slot, value in (enums or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.float32)))
