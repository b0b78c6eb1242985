"""A kept file is read alike by Pillow and TensorFlow, whatever was done to it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.image_files import BadImageError, normalise
from pipeline.data.plain_files import plain_length
from tests.odd_images import encoded, photo, png_chunks, png_of

Random = np.random.Generator
JPEG_OPTIONS: tuple[dict[str, object], ...] = (
    {},
    {"subsampling": 0},
    {"subsampling": 1},
    {"progressive": True},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1, "progressive": True},
    {"keep_rgb": True},
)
SIZES = ((48, 32), (33, 47), (1, 1), (200, 3))
JPEGS = [
    encoded(photo(mode, size), "JPEG", **options)
    for size in SIZES
    for mode in ("RGB", "L")
    for options in JPEG_OPTIONS
]
PNGS = [
    encoded(photo(mode, size), "PNG", compress_level=level)
    for size in SIZES
    for mode in ("RGB", "L")
    for level in (0, 6)
]
PNG_CHUNKS = (
    b"tEXt zTXt iTXt iCCP gAMA cHRM sRGB sBIT bKGD hIST tRNS PLTE pHYs sPLT eXIf tIME acTL fcTL "
    b"fdAT IDAT IEND IHDR abCd ABCD a1cd"
).split()


def noise(random: Random, length: int) -> bytes:
    return random.bytes(int(length))


def scrambled(random: Random, data: bytes) -> bytes:
    """Returns a file of any kind with a few bytes changed, added or left out."""
    scrambled = bytearray(data)
    for _ in range(random.integers(1, 4)):
        # Half of the time near the start, where the headers are.
        place = int(random.integers(0, len(scrambled) if random.random() < 0.5 else 40))
        count = int(random.integers(1, 6))
        change = random.integers(0, 6)
        if change == 0:
            scrambled[place : place + 1] = noise(random, 1)
        elif change == 1:
            scrambled[place : place + 1] = bytes([data[place % len(data)] ^ 1 << count])
        elif change == 2:
            scrambled[place:place] = noise(random, count)
        elif change == 3:
            del scrambled[place : place + count]
        elif change == 4:
            scrambled += noise(random, 8 * count)
        else:
            del scrambled[len(scrambled) - int(random.integers(0, 40)) :]
        if len(scrambled) < 40:
            return data
    return bytes(scrambled)


def with_a_changed_segment(random: Random, data: bytes) -> bytes:
    """Returns a JPEG with a byte of a table or header changed, or with a marker put in."""
    changed = bytearray(data)
    if random.random() < 0.2:
        place = int(random.integers(2, len(data)))
        changed[place:place] = b"\xff" + noise(random, 1)
        return bytes(changed)
    segments = [
        place
        for place in range(len(data) - 1)
        if data[place] == 0xFF and data[place + 1] in b"\xc0\xc1\xc2\xc4\xda\xdb\xdd\xe0\xee"
    ]
    place = min(int(random.choice(segments) + random.integers(1, 21)), len(data) - 1)
    changed[place] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def with_a_changed_chunk(random: Random, data: bytes) -> bytes:
    """Returns a PNG whose checksums are right and whose chunks are not what they were."""
    chunks = png_chunks(data)
    place = int(random.integers(0, len(chunks)))
    change = random.integers(0, 4)
    if change == 0:
        changed = bytearray(chunks[place])
        changed[int(random.integers(0, len(changed)))] ^= 1 << int(random.integers(0, 8))
        chunks[place] = bytes(changed)
    elif change == 1:
        chunk = bytes(random.choice(PNG_CHUNKS)) + noise(random, random.choice([0, 1, 2, 6, 9, 13]))
        chunks[place:place] = [chunk] * int(random.choice([1, 2, 1100]))
    elif change == 2:
        chunks.insert(place, chunks[int(random.integers(0, len(chunks)))])
    else:
        del chunks[place]
    return png_of(*chunks)


def with_other_pixel_data(random: Random, data: bytes) -> bytes:
    """Returns a PNG with too much or too little pixel data, in a stream of another window."""
    header, *_, end = chunks = png_chunks(data)
    rows = zlib.decompress(b"".join(chunk[4:] for chunk in chunks if chunk[:4] == b"IDAT"))
    rows = (rows, rows[:-1], rows + noise(random, 300), b"\7" + rows[1:])[random.integers(0, 4)]
    packer = zlib.compressobj(9, zlib.DEFLATED, int(random.integers(9, 16)))
    stream = packer.compress(rows) + packer.flush()
    stream = (stream, stream, stream + b"more" * 400, stream[:-3])[random.integers(0, 4)]
    half = int(random.integers(0, len(stream)))
    return png_of(header, b"IDAT" + stream[:half], b"IDAT" + stream[half:], end)


MUTATIONS: dict[str, tuple[list[bytes], Callable[[Random, bytes], bytes], int]] = {
    "scrambled JPEGs": (JPEGS, scrambled, 4_000),
    "JPEGs with a changed segment": (JPEGS, with_a_changed_segment, 4_000),
    "scrambled PNGs": (PNGS, scrambled, 1_000),
    "PNGs with a changed chunk": (PNGS, with_a_changed_chunk, 2_000),
    "PNGs with other pixel data": (PNGS, with_other_pixel_data, 2_000),
}


def mutated(
    files: list[bytes], mutate: Callable[[Random, bytes], bytes], count: int
) -> Iterator[bytes]:
    random = np.random.default_rng(5)
    for number in range(count):
        yield mutate(random, files[number % len(files)])


def by_tensorflow(data: bytes) -> npt.NDArray[np.uint8]:
    """Returns the pixels of a JPEG or PNG as the model is trained on them."""
    if data.startswith(b"\xff\xd8\xff"):
        decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    else:
        decoded = tf.io.decode_png(data, channels=3)
    pixels: npt.NDArray[np.uint8] = decoded.numpy()
    return pixels


@pytest.mark.parametrize(("files", "mutate", "count"), MUTATIONS.values(), ids=MUTATIONS)
@pytest.mark.filterwarnings("ignore")
def test_what_becomes_of_a_mutated_file_is_read_alike(
    files: list[bytes], mutate: Callable[[Random, bytes], bytes], count: int
) -> None:
    kept = 0
    for data in mutated(files, mutate, count):
        try:
            image = normalise(data, max_side=512, max_pixels=10**6)
        except BadImageError:
            continue
        kept += set(image.changes) <= {"trailing data"}
        expected = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
        np.testing.assert_array_equal(by_tensorflow(image.data), expected)
    assert kept >= count // 50, "the mutations leave nothing to compare"


@pytest.mark.parametrize("data", [*JPEGS, *PNGS])
def test_what_pillow_writes_is_plain(data: bytes) -> None:
    assert plain_length(data) == len(data)


def test_what_follows_a_jpeg_is_cut_off() -> None:
    image = normalise(JPEGS[0] + b"a phone's film", max_side=512, max_pixels=10**6)
    assert (image.data, image.changes) == (JPEGS[0], ("trailing data",))


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def with_segment(marker: int, content: bytes) -> bytes:
    segment = struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content
    return JPEGS[0][:2] + segment + JPEGS[0][2:]


COLOUR = encoded(photo(), "JPEG", subsampling=0)
PROGRESSIVE = encoded(photo(), "JPEG", progressive=True)
PNG = encoded(photo(), "PNG")
NOT_PLAIN = {
    "nothing": b"",
    "no more than a beginning": b"\xff\xd8",
    "no end marker": COLOUR[:-2],
    "12-bit samples": replaced(COLOUR, b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "arithmetic coding": replaced(COLOUR, b"\xff\xc0", b"\xff\xc9"),
    "lossless coding": replaced(COLOUR, b"\xff\xc0", b"\xff\xc3"),
    "CMYK": encoded(photo("CMYK"), "JPEG"),
    "an odd subsampling": replaced(COLOUR, b"\1\x11\0\2\x11\1\3\x11", b"\1\x31\0\2\x11\1\3\x11"),
    "colour finer than brightness": replaced(
        COLOUR, b"\1\x11\0\2\x11\1\3\x11", b"\1\x11\0\2\x22\1\3\x11"
    ),
    "a colour transform that nobody knows": with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\2"),
    "two answers to what the colours are": with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "a height that comes later": replaced(COLOUR, b"\0\x20\0\x30\3", b"\0\0\0\x30\3"),
    "restart markers that are not there": with_segment(0xDD, b"\0\1"),
    "half of the scans": PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9",
    "a scan twice": PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") :],
    "a scan of nothing": replaced(COLOUR, COLOUR[COLOUR.index(b"\xff\xda") + 14 : -2], b""),
    "a PNG with more behind it": PNG + b"\0",
    "a PNG without its end": PNG[:-12],
    "an interlaced PNG": png_of(
        b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1), b"IDAT" + zlib.compress(b"\0\0"),
        b"IEND",
    ),
    "a PNG whose comment has a wrong checksum": replaced(
        png_of(*png_chunks(PNG)[:1], b"tEXta\0b", *png_chunks(PNG)[1:]), b"tEXta\0b", b"tEXta\0c"
    ),
    "a PNG with a clear colour": encoded(photo(), "PNG", transparency=(0, 0, 0)),
    "a PNG with a palette": encoded(photo("P"), "PNG"),
}  # fmt: skip


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_a_file_that_leaves_something_to_its_reader_is_not_plain(data: bytes) -> None:
    assert plain_length(data) == 0
