"""Reads what is wanted of TFRecords of tf.Examples, and leaves the images where they are.

A split's labels or identities are a thousandth of its bytes. `skim` walks the records by their
lengths and, inside a record, the features by theirs; what is not wanted is sought over. So it costs
no pass over the data where the file is not compressed. Whoever reads the images checks the records'
checksums: a part of a record can't be checked.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import google_crc32c

from components.tf_example import Feature, RecordError, parse_example, parse_feature

GZIP_SUFFIX = ".gz"

# https://www.tensorflow.org/tutorials/load_data/tfrecord: length, masked CRC of the length, then
# the data and its masked CRC.
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8

# https://protobuf.dev/programming-guides/encoding: the tags of length-delimited fields 1 and 2.
_FIELD_1 = 0x0A
_FIELD_2 = 0x12
_VARINT_BYTES = 10  # at most
_MAX_BYTES = 2**31 - 1  # of a message, says protobuf


@dataclass(frozen=True)
class Skimmed:
    """What was wanted of one record.

    Attributes:
        offset: of the record in its file, in bytes (uncompressed, if it is compressed).
        features: the first value of each wanted feature that the record has.
    """

    offset: int
    features: Mapping[str, bytes]


class _Unusual(Exception):  # noqa: N818 - no error: the record is then parsed as a whole
    """A record is not laid out as protobuf's own libraries do it."""


def compression(file: str) -> str:
    """Tells TensorFlow's name of a TFRecord file's compression: by its suffix, as in Beam."""
    return "GZIP" if file.endswith(GZIP_SUFFIX) else ""


def open_records(file: str) -> BinaryIO:
    """Opens a TFRecord file for reading what is in it, unpacked.

    Args:
        file: a path or a URI that TensorFlow reads.
    """
    if "://" in file:
        import tensorflow as tf  # here, as most steps see folders and need none of it

        remote = cast(BinaryIO, tf.io.gfile.GFile(file, "rb"))
        return cast(BinaryIO, gzip.GzipFile(fileobj=remote)) if compression(file) else remote
    # Not a GFile, which takes ten times as long to seek.
    return cast(BinaryIO, gzip.open(file)) if compression(file) else Path(file).open("rb")


def skim(file: str, names: Collection[str]) -> Iterator[Skimmed]:
    """Yields the wanted bytes features of each record, in order.

    Args:
        file: a path or a URI that TensorFlow reads; gzipped if it ends in `.gz`.
        names: of the features.

    Raises:
        ValueError: the file ends within a record, or a record is no tf.Example.
    """
    with open_records(file) as opened:
        offset = 0
        while header := opened.read(_HEADER.size):
            start = offset + _HEADER.size
            length = _length(header, file, offset)
            # A compressed file can't seek.
            features = None if compression(file) else _sought(opened, start + length, names)
            if features is None:
                opened.seek(start)
                features = _parsed(_exactly(opened, length, file, offset), names, file, offset)
            opened.seek(start + length)
            _exactly(opened, _FOOTER.size, file, offset)
            yield Skimmed(offset, features)
            offset = start + length + _FOOTER.size


def next_record(opened: BinaryIO, file: str) -> bytes:
    """Reads the record where a file stands, and checks it by its checksum.

    Raises:
        ValueError: there is no whole record, or it is damaged.
    """
    offset = opened.tell()
    length = _length(opened.read(_HEADER.size), file, offset)
    record = _exactly(opened, length, file, offset)
    (expected,) = _FOOTER.unpack(_exactly(opened, _FOOTER.size, file, offset))
    crc = google_crc32c.value(record)
    if expected != ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF:
        raise ValueError(f"{file}: the record at byte {offset} is damaged: its checksum differs")
    return record


def read_at(opened: BinaryIO, offset: int) -> bytes:
    """Reads a record at an offset that `skim` gave, from a file that `open_records` opened.

    Raises:
        ValueError: there is no whole record.
    """
    opened.seek(offset)
    length = _length(opened.read(_HEADER.size), opened.name, offset)
    return _exactly(opened, length, opened.name, offset)


def _sought(opened: BinaryIO, end: int, names: Collection[str]) -> dict[str, bytes] | None:
    try:
        return _wanted(opened, end, names)
    except (_Unusual, RecordError):
        return None


def _wanted(opened: BinaryIO, end: int, names: Collection[str]) -> dict[str, bytes]:
    """Walks the features of the record that ends at `end`: a map, so entries of key and value."""
    found: dict[str, bytes] = {}
    if opened.tell() == end:
        return found
    if _enter(opened, _FIELD_1, end) != end:
        raise _Unusual
    while opened.tell() < end and len(found) < len(names):
        entry_end = _enter(opened, _FIELD_1, end)
        key_end = _enter(opened, _FIELD_1, entry_end)
        name = opened.read(key_end - opened.tell()).decode("utf-8", "replace")
        if name in names:
            if _enter(opened, _FIELD_2, entry_end) != entry_end or name in found:
                raise _Unusual
            found |= _value(name, parse_feature(opened.read(entry_end - opened.tell())))
        opened.seek(entry_end)
    return found


def _enter(opened: BinaryIO, tag: int, end: int) -> int:
    """Reads a field's tag and length; returns where the field ends, which is not after `end`."""
    if opened.read(1) != bytes((tag,)):
        raise _Unusual
    length = 0
    for shift in range(0, 7 * _VARINT_BYTES, 7):
        (byte,) = opened.read(1) or (0,)
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    field_end = opened.tell() + length
    if field_end > end:
        raise _Unusual
    return field_end


def _parsed(record: bytes, names: Collection[str], file: str, offset: int) -> dict[str, bytes]:
    try:
        features = parse_example(record)
    except RecordError as error:
        raise ValueError(f"{file}: the record at byte {offset} is no tf.Example") from error
    found: dict[str, bytes] = {}
    for name in names:
        if name in features:
            found |= _value(name, features[name])
    return found


def _value(name: str, feature: Feature) -> dict[str, bytes]:
    return {name: feature.values[0]} if feature.kind == "bytes" and feature.values else {}


def _length(header: bytes, file: str, offset: int) -> int:
    if len(header) < _HEADER.size:
        raise ValueError(f"{file}: ends within the record at byte {offset}")
    length: int = _HEADER.unpack(header)[0]
    if length > _MAX_BYTES:
        raise ValueError(f"{file}: the record at byte {offset} is no tf.Example")
    return length


def _exactly(opened: BinaryIO, length: int, file: str, offset: int) -> bytes:
    data = opened.read(length)
    if len(data) < length:
        raise ValueError(f"{file}: ends within the record at byte {offset}")
    return data
