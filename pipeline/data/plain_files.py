"""Tells the JPEG and PNG files that every reader decodes alike from those that it may not.

Pillow and TensorFlow decode by libjpeg-turbo, libpng and zlib, of different versions and with
different patience: one reads a file without its end, the other trusts no checksum. A file is plain
if nothing in it is left to that patience: its container is whole, in order and of the common kind,
down to the end marker. Where Pillow decodes a plain file's pixels without an error, TensorFlow
decodes the same ones. A file that is not plain may be perfectly good; it is encoded anew.

Of a JPEG only the container is walked, which costs a few percent of decoding: damage to its
entropy-coded data goes unseen, and both readers conceal it in the same way. A PNG's data is
unpacked: Pillow lets it be shorter or longer than the image, and libpng does not.

Sources: ITU-T T.81, annexes B and G, for JPEG; the PNG specification, third edition.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

# What TensorFlow's decoders refuse: so many bytes of RGB, and (libpng) so many pixels a side.
MAX_RGB_BYTES = 2**29
MAX_SIDE = 1_000_000

_SOI = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"


def plain_length(data: bytes) -> int:
    """Returns how many bytes at the start of `data` are a plain JPEG or PNG file; 0 if none are.

    Less than `len(data)` means that something follows a JPEG's end marker, which no reader looks
    at. A plain file has 8-bit gray or colour samples, and no transparency.
    """
    try:
        if data.startswith(_SOI):
            return _jpeg_length(data)
        if data.startswith(_PNG):
            return _png_length(data)
    except (_NotPlain, IndexError, struct.error, zlib.error):
        pass
    return 0


class _NotPlain(Exception):  # noqa: N818 - it is an answer
    """The file leaves something to its reader."""


def _require(condition: bool) -> None:
    if not condition:
        raise _NotPlain


# JPEG

_SOF0, _SOF1, _SOF2, _DHT, _RST0, _RST7, _EOI, _SOS, _DQT, _DRI, _APP0, _APP14, _APP15, _COM = (
    0xC0, 0xC1, 0xC2, 0xC4, 0xD0, 0xD7, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xEF, 0xFE
)  # fmt: skip
# In entropy-coded data, 0xFF is followed by 0 unless it starts a marker.
_MARKER = re.compile(rb"\xff[^\x00]")
_MAX_SCANS = 100
_BLOCKS_IN_MCU = 10


@dataclass
class _Component:
    """One colour component, and how far each of its 64 coefficients has been sent.

    A coefficient's state is the number of its low bits that are still missing; -1 before its first
    scan. The decoders smooth blocks whose coefficients are incomplete, each version in its own way.
    """

    id: int
    horizontal: int
    vertical: int
    quantization: int
    missing_bits: list[int] = field(default_factory=lambda: [-1] * 64)


@dataclass
class _Jpeg:
    """What the segments read so far have said."""

    progressive: bool = False
    width: int = 0
    height: int = 0
    components: list[_Component] = field(default_factory=list)
    huffman_tables: set[int] = field(default_factory=set)  # 16 * class + id
    quantization_tables: set[int] = field(default_factory=set)
    restart_interval: int = 0
    jfif: bool = False
    adobe_transform: int | None = None
    scans: int = 0


def _jpeg_length(data: bytes) -> int:
    jpeg = _Jpeg()
    position = len(_SOI)
    while True:
        _require(data[position] == 0xFF)
        marker = data[position + 1]
        if marker == _EOI:
            _require(_is_complete(jpeg))
            return position + 2
        (length,) = struct.unpack_from(">H", data, position + 2)
        segment = data[position + 4 : position + 2 + length]
        _require(length >= 2 and len(segment) == length - 2)
        position += 2 + length
        if marker == _SOS:
            restarts = _read_scan_header(jpeg, segment)
            position = _end_of_scan(data, position, restarts)
        else:
            _read_segment(jpeg, marker, segment)


def _read_segment(jpeg: _Jpeg, marker: int, segment: bytes) -> None:
    if marker in (_SOF0, _SOF1, _SOF2):
        _read_frame(jpeg, segment)
        jpeg.progressive = marker == _SOF2
    elif marker == _DHT:
        jpeg.huffman_tables.update(_huffman_tables(segment))
    elif marker == _DQT:
        jpeg.quantization_tables.update(_quantization_tables(segment))
    elif marker == _DRI:
        (jpeg.restart_interval,) = struct.unpack(">H", segment)
    elif marker == _APP0 and segment.startswith(b"JFIF\0"):
        jpeg.jfif = True
    elif marker == _APP14 and segment.startswith(b"Adobe"):
        jpeg.adobe_transform = segment[11]
    else:
        _require(marker == _COM or _APP0 <= marker <= _APP15)


def _read_frame(jpeg: _Jpeg, segment: bytes) -> None:
    precision, jpeg.height, jpeg.width, count = struct.unpack_from(">BHHB", segment)
    _require(not jpeg.components and count in (1, 3) and precision == 8)
    _require(len(segment) == 6 + 3 * count)
    _require(0 < 3 * jpeg.width * jpeg.height < MAX_RGB_BYTES)
    for id, sampling, quantization in struct.iter_unpack("BBB", segment[6:]):
        jpeg.components.append(_Component(id, sampling >> 4, sampling & 15, quantization))
    _require(len({component.id for component in jpeg.components}) == count)
    first, *others = jpeg.components
    _require(first.horizontal in (1, 2, 4) and first.vertical in (1, 2, 4))
    _require(all((other.horizontal, other.vertical) == (1, 1) for other in others))


@lru_cache(maxsize=64)  # photos by one program share their tables
def _huffman_tables(segment: bytes) -> frozenset[int]:
    tables = set()
    position = 0
    while position < len(segment):
        table = segment[position]
        _require(table >> 4 <= 1 and table & 15 <= 3)
        symbols = sum(segment[position + 1 : position + 17])
        position += 17 + symbols
        _require(symbols <= 256 and position <= len(segment))
        tables.add(table)
    return frozenset(tables)


@lru_cache(maxsize=64)
def _quantization_tables(segment: bytes) -> frozenset[int]:
    tables = set()
    position = 0
    while position < len(segment):
        precision, table = segment[position] >> 4, segment[position] & 15
        _require(precision <= 1 and table <= 3)
        position += 1 + 64 * (1 + precision)
        _require(position <= len(segment))
        tables.add(table)
    return frozenset(tables)


def _read_scan_header(jpeg: _Jpeg, segment: bytes) -> int:
    """Returns how many restart markers the scan must hold."""
    count = segment[0]
    _require(len(segment) == 4 + 2 * count and count >= 1 and bool(jpeg.components))
    first, last, bits = segment[-3:]
    missing_before, missing = bits >> 4, bits & 15
    jpeg.scans += 1
    _require(jpeg.scans <= _MAX_SCANS)
    if jpeg.progressive:
        _require(first == last == 0 or (0 < first <= last < 64 and count == 1))
        _require(missing <= 13)
    else:
        _require(first == 0 and last == 63 and missing_before == missing == 0)

    by_id = {component.id: component for component in jpeg.components}
    components = []
    for id, tables in struct.iter_unpack("BB", segment[1:-3]):
        _require(id in by_id)
        component = by_id.pop(id)
        components.append(component)
        _require(component.quantization in jpeg.quantization_tables)
        if first == 0 and missing_before == 0:
            _require(tables >> 4 in jpeg.huffman_tables)
        if last > 0:
            _require(16 + (tables & 15) in jpeg.huffman_tables)
        _send(component, first, last, missing_before, missing)
    # In the frame's order, as libjpeg insists on.
    _require(components == [c for c in jpeg.components if c in components])
    _require(count == 1 or sum(c.horizontal * c.vertical for c in components) <= _BLOCKS_IN_MCU)
    if not jpeg.restart_interval:
        return 0
    return (_units(jpeg, components) - 1) // jpeg.restart_interval


def _send(component: _Component, first: int, last: int, before: int, missing: int) -> None:
    """Notes what a scan sends: coefficients for the first time, or one more bit of them."""
    band = slice(first, last + 1)
    state = -1 if before == 0 else before
    _require(before in (0, missing + 1))
    _require(component.missing_bits[band].count(state) == last + 1 - first)
    _require(first == 0 or component.missing_bits[0] >= 0)
    component.missing_bits[band] = [missing] * (last + 1 - first)


def _units(jpeg: _Jpeg, components: list[_Component]) -> int:
    """Returns the number of MCUs of a scan: of blocks, if it is of one component."""
    across = max(component.horizontal for component in jpeg.components)
    down = max(component.vertical for component in jpeg.components)
    if len(components) > 1:
        return -(-jpeg.width // (8 * across)) * -(-jpeg.height // (8 * down))
    (component,) = components
    width = -(-jpeg.width * component.horizontal // across)
    height = -(-jpeg.height * component.vertical // down)
    return -(-width // 8) * -(-height // 8)


def _end_of_scan(data: bytes, start: int, restarts: int) -> int:
    """Returns where the marker after a scan's entropy-coded data is."""
    position, seen = start, 0
    while True:
        found = _MARKER.search(data, position)
        # Each piece of data between markers holds something.
        if found is None or found.start() == position:
            raise _NotPlain
        marker = data[found.start() + 1]
        if not _RST0 <= marker <= _RST7:
            _require(seen == restarts)
            return found.start()
        _require(marker == _RST0 + seen % 8)
        seen += 1
        position = found.end()


def _is_complete(jpeg: _Jpeg) -> bool:
    unambiguous = jpeg.adobe_transform is None or (
        jpeg.adobe_transform in (0, 1) and not (jpeg.jfif and jpeg.adobe_transform == 0)
    )
    return (
        jpeg.scans > 0
        and all(not any(component.missing_bits) for component in jpeg.components)
        and (len(jpeg.components) == 1 or unambiguous)
    )


# PNG

# Chunks that say nothing about the pixels; a clear colour or an animation does.
_ANCILLARY = re.compile(rb"(?!tRNS|acTL|fcTL|fdAT)[a-z][A-Za-z]{3}")
_MAX_CHUNK = 4_000_000  # half of libpng's limit
_GRAY, _RGB = 0, 2  # colour types
_UNPACKED_AT_ONCE = 2**20


def _png_length(data: bytes) -> int:
    (kind, header), *chunks, last = _png_chunks(data)
    _require(kind == b"IHDR" and last[0] == b"IEND" and not last[1])
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", header)
    # Of the methods, only interlacing can be other than 0; it is seldom used.
    _require(depth == 8 and colour in (_GRAY, _RGB) and methods == [0, 0, 0])
    _require(0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE)
    _require(3 * width * height < MAX_RGB_BYTES)

    kinds = [kind for kind, _ in chunks]
    pixels = [content for kind, content in chunks if kind == b"IDAT"]
    first = kinds.index(b"IDAT") if pixels else len(kinds)
    _require(kinds[first : first + len(pixels)] == [b"IDAT"] * len(pixels))
    for kind, content in chunks:
        if kind != b"IDAT":
            _require(_ANCILLARY.fullmatch(kind) is not None and len(content) <= _MAX_CHUNK)
    _check_stream(pixels, height * (1 + width * (3 if colour == _RGB else 1)))
    return len(data)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the kinds and contents of all chunks; their checksums are right."""
    view = memoryview(data)
    position = len(_PNG)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        _require(end <= len(data))
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        _require(zlib.crc32(view[position + 4 : end - 4]) == checksum)
        yield kind, view[position + 8 : end - 4]
        position = end


def _check_stream(pieces: list[memoryview], size: int) -> None:
    """Requires a whole zlib stream (RFC 1950) that unpacks to `size` bytes, and nothing more."""
    # libpng also limits a chunk by what the image can take.
    _require(bool(pieces) and sum(map(len, pieces)) <= size + size // 100 + 1_000)
    # Not every version of zlib holds a stream to the window that it announces.
    window = 1 << (8 + (pieces[0][0] >> 4))
    _require(window >= min(size, 1 << 15))
    unpacker = zlib.decompressobj()
    for piece in pieces:
        rest: bytes | memoryview = piece
        while rest and size >= 0:
            size -= len(unpacker.decompress(rest, _UNPACKED_AT_ONCE))
            rest = unpacker.unconsumed_tail
    size -= len(unpacker.flush())
    _require(size == 0 and unpacker.eof and not unpacker.unused_data)
