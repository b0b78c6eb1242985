"""Reads TFRecord and Parquet files alike: as rows, of named columns, with a list of values each.

A TFRecord file's columns are the features of its tf.Examples. What cannot be read comes as a row
with a reason, and the rows after it go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.tf_example import RecordError, parse_example
from pipeline.data.label_names import Declared
from pipeline.data.safe_parquet import pq
from pipeline.data.tfrecords import BadRecord, read_records

_ROWS_LOOKED_AT = 8
_BATCH_BYTES = 32 * 2**20
_MAX_BATCH_ROWS = 256
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        number: Its number in the file, from 0 on.
        where: Its place in the file, for a message.
        values: By column; without those that the row lacks.
        reason: Why the row can't be read; empty if it can.
    """

    number: int
    where: str
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Description:
    """What the columns of a file hold.

    Attributes:
        kinds: By column "bytes", "text", "int64", "float" or "empty", or what else it holds.
        declared: Which of them hold images and class labels, as the file says.
        names: The classes' names, by column, in the order of their numbers.
        first: The first rows.
    """

    kinds: Mapping[str, str]
    first: Sequence[Row]
    declared: Declared = field(default_factory=Declared)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


# TFRecords


def tfrecord_rows(path: Path, max_bytes: int) -> Iterator[Row]:
    """Yields the records of a TFRecord file; longer ones than `max_bytes` as unreadable."""
    for number, record in enumerate(read_records(path, max_bytes=max_bytes)):
        where = f"at byte {record.offset:,}"
        if isinstance(record, BadRecord):
            yield Row(number, where, reason=record.reason)
            continue
        try:
            features = parse_example(record.data)
        except RecordError as error:
            yield Row(number, where, reason=str(error))
            continue
        yield Row(number, where, {name: feature.values for name, feature in features.items()})


def describe_tfrecord(path: Path, max_bytes: int) -> Description:
    """Returns what a TFRecord file's first records hold.

    Raises:
        RecordError: None can be read; the message is empty if the file has none.
    """
    first = []
    reason = ""
    for row in tfrecord_rows(path, max_bytes):
        if row.reason:
            reason = reason or f"{row.where}: {row.reason}"
        else:
            first.append(row)
        if len(first) == _ROWS_LOOKED_AT:
            break
    if not first:
        raise RecordError(reason)
    kinds: dict[str, str] = {}
    for row in first:
        for name, values in row.values.items():
            if kinds.get(name, "empty") == "empty":
                kinds[name] = _kind_of_value(values)
    return Description(kinds, first)


def _kind_of_value(values: Sequence[Any]) -> str:
    if not values:
        return "empty"
    return {bytes: "bytes", int: "int64"}.get(type(values[0]), "float")


# Parquet


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a Parquet file, with the values of some of its columns.

    A few rows are in memory at a time. Of a group of rows that is damaged, those from the damage on
    are one unreadable row.
    """
    try:
        with _parquet(path) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise RecordError(f"it has no column {min(missing)!r}")
            for group in range(file.num_row_groups):
                yield from _group_rows(file, group, columns)
    except RecordError as error:
        yield Row(0, "the file", reason=str(error))


def describe_parquet(path: Path) -> Description:
    """Returns what the columns of a Parquet file hold.

    Raises:
        RecordError: It is not one.
    """
    with _parquet(path) as file:
        schema = file.schema_arrow
    kinds = {column.name: _kind_of_column(column.type) for column in schema}
    declared, names = _hub_features(schema.metadata or {})
    return Description(kinds, (), declared, names)


def first_parquet_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """Returns the first rows of a Parquet file."""
    rows = []
    for row in parquet_rows(path, columns):
        rows.append(row)
        if len(rows) == _ROWS_LOOKED_AT:
            break
    return rows


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(path.open("rb"))
            # The file is read in pieces: a column of a group may be larger than memory.
            file = stack.enter_context(pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES))
            names = file.schema_arrow.names
        except Exception as error:
            # A hostile file makes pyarrow, and what guards it from pickles, raise almost anything.
            raise RecordError(f"it cannot be read as Parquet: {_one_line(error)}") from error
        if len(set(names)) < len(names):
            raise RecordError("two of its columns have the same name")
        yield file


def _group_rows(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[Row]:
    number = sum(file.metadata.row_group(earlier).num_rows for earlier in range(group))
    schema = file.schema_arrow
    leaves = [_leaf(schema.field(name)) for name in columns]
    try:
        for batch in file.iter_batches(
            _batch_rows(file.metadata.row_group(group)),
            row_groups=[group],
            columns=leaves,
            use_threads=False,
        ):
            for values in zip(*(_values(batch, name) for name in columns), strict=True):
                yield Row(number, f"row {number:,}", dict(zip(columns, values, strict=True)))
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # OSError: a page can't be unpacked
        reason = f"the rest of its group of rows cannot be read: {_one_line(error)}"
        yield Row(number, f"row {number:,}", reason=reason)


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    row_bytes = group.total_byte_size // max(1, group.num_rows)
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _leaf(column: pa.Field) -> str:
    """Returns what to read of a column: of an image with its path, the bytes."""
    return f"{column.name}.bytes" if pa.types.is_struct(column.type) else column.name


def _values(batch: pa.RecordBatch, name: str) -> Iterator[list[Any]]:
    """Yields the values of a column: none where it is null, else one, or those of its list."""
    for value in batch.column(batch.schema.get_field_index(name)).to_pylist():
        if isinstance(value, dict):
            value = value.get("bytes")
        yield value if isinstance(value, list) else [] if value is None else [value]


def _kind_of_column(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        kind = fields.get("bytes", kind)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind):
        return "int64"
    return "float" if types.is_floating(kind) else str(kind)[:60]


def _hub_features(
    metadata: Mapping[bytes, bytes],
) -> tuple[Declared, Mapping[str, Sequence[str]]]:
    """Returns what the library `datasets` says of the columns, in the schema's metadata.

    Raises:
        RecordError: It is not as that library writes it.
    """
    try:
        content = json.loads(metadata.get(b"huggingface", b"{}"))
        features = content.get("info", {}).get("features", {})
        kinds = {
            name: feature.get("_type")
            for name, feature in features.items()
            if type(feature) is dict
        }
        labels = tuple(name for name, kind in kinds.items() if kind == "ClassLabel")
        names = {name: tuple(map(str, features[name].get("names") or ())) for name in labels}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError("its metadata called huggingface is damaged") from error
    images = tuple(name for name, kind in kinds.items() if kind == "Image")
    return Declared(images, labels), names


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
