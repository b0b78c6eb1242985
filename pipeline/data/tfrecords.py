"""TFRecord files and tf.Examples without TensorFlow, which costs seconds and 550 MB a process.

A TFRecord file is a row of records, each framed by its length and two checksums
(tensorflow/core/lib/io/record_writer.h), little-endian:

    uint64 length | uint32 masked CRC-32C of length | length bytes | uint32 masked CRC-32C of bytes

A record is nearly always a serialized tf.Example (tensorflow/core/example/example.proto): a map of
names to lists of bytes, of int64 or of float32. A file may be gzipped as a whole; offsets are then
those in what it unpacks to.

`RecordWriter` and `serialize_example` write the bytes that TensorFlow would. `read_records` reads
files that anybody wrote, damaged ones and hostile ones too: no length is believed before its
checksum holds and the file has that many bytes, and a record that can't be read is told with its
offset while the others go on.
"""

import functools
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from components.tf_example import RecordError

MAX_RECORD_BYTES: Final = 2**30
"""Bytes; a longer record is passed over and told as a bad one."""

_HEADER: Final = struct.Struct("<QI")  # length, its checksum
_LENGTH: Final = struct.Struct("<Q")
_CHECKSUM: Final = struct.Struct("<I")
_FRAME_BYTES: Final = _HEADER.size + _CHECKSUM.size
_MASK_DELTA: Final = 0xA282EAD8
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 2**20
# Headers that look right and whose records then are not: above this many in a file, which chance
# does not bring about, looking on would cost the square of its size.
_MAX_FALSE_HEADERS: Final = 16


@dataclass(frozen=True)
class Record:
    """A record whose checksums hold, and the byte offset of its frame in the (unpacked) file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class BadRecord:
    """What cannot be read at a byte offset of the (unpacked) file, and why."""

    offset: int
    reason: str


# Writing


class RecordWriter:
    """Writes an uncompressed TFRecord file; a context manager, which closes the file.

    Raises:
        OSError: The file cannot be written; the last bytes are written on closing.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_BLOCK_BYTES)
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def digest(self) -> str:
        """The SHA-256, in hex, of what was written."""
        return self._digest.hexdigest()

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._size

    def write(self, record: bytes) -> int:
        """Appends a record and returns the byte offset at which its frame begins."""
        offset = self._size
        length = _LENGTH.pack(len(record))
        frame = b"".join((length, _checksum(length), record, _checksum(record)))
        self._file.write(frame)
        self._digest.update(frame)
        self._size += len(frame)
        return offset

    def close(self) -> None:
        """Writes what is still in memory, and closes the file."""
        self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _checksum(data: bytes) -> bytes:
    return _CHECKSUM.pack(_masked_crc(data))


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C as TFRecords store it (tensorflow/core/lib/hash/crc32c.h, `Mask`)."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


# Reading


def read_records(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> Iterator[Record | BadRecord]:
    """Yields a file's records in order, and what of it cannot be read.

    A record that does not match its checksum, or is too long, is passed over. Where a length does
    not match its own, reading goes on at the next place where a whole record with both checksums
    right begins; in a gzipped file, and where there is no such place, the rest of the file is one
    bad record. At any time one record is in memory.

    Args:
        path: A TFRecord file, plain or gzipped, whatever its name.
        max_bytes: A longer record is not read but told as a bad one.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with path.open("rb", buffering=_BLOCK_BYTES) as file:
        reader = _Reader(_unpacked(file), max_bytes)
        while True:
            offset = reader.offset
            try:
                record = reader.record()
            except _LostError as error:
                following = reader.find_record(offset + 1)
                if following is None:
                    yield BadRecord(offset, f"{error}; nothing can be read from there on")
                    return
                yield BadRecord(offset, f"{error}; {following - offset:,} bytes were passed over")
            else:
                if record is None:
                    return
                yield record


def read_record_at(path: Path, offset: int) -> bytes:
    """Returns the record whose frame begins at a byte offset, as `read_records` tells it.

    Raises:
        RecordError: No whole record with right checksums begins there.
        OSError: The file cannot be opened or read.
    """
    with path.open("rb") as file:
        reader = _Reader(_unpacked(file), MAX_RECORD_BYTES)
        reader.seek(offset)
        record = reader.record()
    if record is None:
        raise RecordError("the file ends before the record")
    if isinstance(record, BadRecord):
        raise RecordError(record.reason)
    return record.data


def is_tfrecord(path: Path) -> bool:
    """Tells whether a file begins with a record, as the checksum of its length says.

    Raises:
        OSError: The file cannot be opened or read.
    """
    with path.open("rb") as file:
        try:
            with _unpacking():
                return _length(_unpacked(file).read(_HEADER.size)) is not None
        except _LostError:
            return False


def _unpacked(file: BinaryIO) -> BinaryIO | gzip.GzipFile:
    """Returns the file's content, by its first bytes: its name may say anything.

    A plain file may begin with gzip's magic bytes, as the length of its first record.
    """
    start = file.read(_HEADER.size)
    file.seek(0)
    is_gzip = start.startswith(_GZIP_MAGIC) and _length(start) is None
    return gzip.GzipFile(fileobj=file) if is_gzip else file


def _length(header: bytes) -> int | None:
    """Returns the length that a record's header holds, None if it is no header."""
    if len(header) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack(header)
    return int(length) if _masked_crc(header[: _LENGTH.size]) == checksum else None


class _LostError(RecordError):
    """Where the record ends, and the next one begins, is not known."""


class _Reader:
    """Reads records where a stream stands.

    Attributes:
        offset: Where it stands, in bytes of the unpacked file.
    """

    def __init__(self, stream: BinaryIO | gzip.GzipFile, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        zipped = isinstance(stream, gzip.GzipFile)
        # How much a gzipped file holds only reading tells.
        self._size = None if zipped else os.fstat(stream.fileno()).st_size
        self._false_headers = 0

    @property
    def offset(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int) -> None:
        with _unpacking():
            self._stream.seek(offset)

    def record(self) -> Record | BadRecord | None:
        """Returns the record that begins here, None at the end of the file.

        Raises:
            _LostError: The stream stands somewhere in the record, whose end is not known.
        """
        offset = self.offset
        header = self._read(_HEADER.size, or_nothing=True)
        if not header:
            return None
        length = _length(header)
        if length is None:
            raise _LostError("the record's length does not match its checksum")
        if self._size is not None and length > self._size - offset - _FRAME_BYTES:
            raise _LostError(f"the file ends within the {length:,} bytes that the record claims")
        if length > self._max_bytes:
            self._skip(length + _CHECKSUM.size)
            limit = f"{self._max_bytes:,}"
            return BadRecord(offset, f"the record has {length:,} bytes, above the limit of {limit}")
        data = self._read(length)
        if _checksum(data) != self._read(_CHECKSUM.size):
            return BadRecord(offset, "the record does not match its checksum")
        return Record(offset, data)

    def find_record(self, start: int) -> int | None:
        """Goes to the next record, from an offset on, that can be read; returns its offset.

        Returns None if there is none, or the stream cannot go back to look for one.
        """
        if self._size is None:
            return None
        for offset in _headers(self._stream, start, self._size):
            if self._false_headers == _MAX_FALSE_HEADERS:
                return None
            self.seek(offset)
            if self._is_readable():
                self.seek(offset)
                return offset
            self._false_headers += 1
        return None

    def _is_readable(self) -> bool:
        try:
            return isinstance(self.record(), Record)
        except _LostError:
            return False

    def _read(self, count: int, *, or_nothing: bool = False) -> bytes:
        """Returns `count` bytes, or none at the end if that is allowed."""
        with _unpacking():
            data = self._stream.read(count)
        if len(data) < count and (data or not or_nothing):
            raise _LostError("the file ends within the record")
        return data

    def _skip(self, count: int) -> None:
        if self._size is not None:
            self.seek(self.offset + count)
            return
        for start in range(0, count, _BLOCK_BYTES):
            self._read(min(_BLOCK_BYTES, count - start))


@contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _LostError(f"the file cannot be unpacked ({error})") from error


def _headers(file: BinaryIO | gzip.GzipFile, start: int, size: int) -> Iterator[int]:
    """Yields where a record's header begins, from `start` on, as its checksum tells.

    Lengths of 2^32 and more are not looked for: four zero bytes are what makes the search fast.
    """
    while start + _HEADER.size <= size:
        file.seek(start)
        block = np.frombuffer(file.read(_BLOCK_BYTES), np.uint8)
        if block.size < _HEADER.size:
            return
        yield from (start + position for position in _header_positions(block))
        start += block.size - _HEADER.size + 1


def _header_positions(block: NDArray[np.uint8]) -> list[int]:
    """Returns where in a block (bytes, one dimension) a header with a right checksum begins."""
    windows = np.lib.stride_tricks.sliding_window_view(block, _HEADER.size)
    zero = block == 0
    zeros = zero[:-3] & zero[1:-2] & zero[2:-1] & zero[3:]
    # A checksum of 0 is left out: in a stretch of zeros, every place would have to be looked at.
    candidates = np.flatnonzero(zeros[4:-4] & ~zeros[8:])
    headers = windows[candidates]
    # A CRC is affine over GF(2): that of a whole is the sum, by exclusive or, of its bytes' parts.
    crc, parts = _crc_parts()
    crcs = np.full(len(headers), crc, np.uint32)
    for place, part in enumerate(parts):
        crcs ^= part[headers[:, place]]
    masked = (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(_MASK_DELTA)
    stored = np.ascontiguousarray(headers[:, _LENGTH.size :]).view("<u4")[:, 0]
    return [int(place) for place in candidates[masked == stored]]


@functools.cache
def _crc_parts() -> tuple[int, NDArray[np.uint32]]:
    """Returns the CRC-32C of eight zero bytes, and what each of the first four changes in it.

    The parts have the shape [4, 256]: a byte's place, and its value.
    """
    zero: int = google_crc32c.value(bytes(8))
    lengths = [[value << 8 * place for value in range(256)] for place in range(4)]
    crcs = [[google_crc32c.value(_LENGTH.pack(length)) ^ zero for length in row] for row in lengths]
    return zero, np.array(crcs, np.uint32)


# tf.Example


def serialize_example(features: Mapping[str, bytes]) -> bytes:
    """Returns a tf.Example with one bytes value a feature, as TensorFlow's C++ serializes it.

    Equal features give equal bytes, in the order of their names. (protobuf's own deterministic
    order is not the same in all its versions.)
    """
    parts: list[bytes] = []
    for name, value in sorted(features.items()):
        parts += (_entry_start(name, len(value)), value)
    return b"".join([_head(1, sum(map(len, parts))), *parts])


@functools.lru_cache(maxsize=4096)  # most values are as long as others of their name
def _entry_start(name: str, length: int) -> bytes:
    """Returns what is before a value of so many bytes in its entry of the map of features."""
    start = b""
    for number in (1, 1, 2):  # the value is in a BytesList, that in a Feature, that in the entry
        start = _head(number, len(start) + length) + start
    key = name.encode()
    start = _head(1, len(key)) + key + start
    return _head(1, len(start) + length) + start


def _head(number: int, length: int) -> bytes:
    """Returns what is before a field of so many bytes on protobuf's wire; `number` is below 16."""
    if length < 0x80:
        return bytes((number << 3 | 2, length))
    head = bytearray((number << 3 | 2,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)
