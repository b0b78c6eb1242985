"""Small pictures of a dataset's images, read from its shards."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

from components.tf_example import parse_example
from pipeline.data.tfrecords import read_record_at

SIDE = 128  # pixels
MAX_BYTES = 6_000  # of a thumbnail; photographs take about 4,000 of quality 75
_QUALITIES = (75, 50, 25)
_FORMATS = ("JPEG", "PNG")  # of a dataset's images
_SHARD = re.compile(r"[a-z]+/[A-Za-z0-9_-]+\.tfrecord")


def data_uri(folder: Path, shard: str, offset: int) -> str:
    """A thumbnail of the image in a dataset's record, as a `data:` URI of at most 8 kB.

    Raises:
        ValueError: The shard's name is none that a dataset has.
        RecordError: There is no whole record at the offset, or it is no tf.Example.
        OSError: The shard cannot be read, or the record's image cannot be decoded.
    """
    if not _SHARD.fullmatch(shard):
        raise ValueError(f"expected a shard such as train/examples-….tfrecord, got {shard!r}")
    example = parse_example(read_record_at(folder / shard, offset))
    data = thumbnail(example["image"].values[0])
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def thumbnail(data: bytes) -> bytes:
    """An image as a JPEG of at most `SIDE` pixels a side and `MAX_BYTES`.

    Raises:
        OSError: `data` is not a JPEG or PNG, or is damaged.
    """
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    # Of a large JPEG only as many pixels are decoded as are needed.
    image.draft(None, (SIDE, SIDE))
    small = image.convert("L" if image.mode in ("1", "L") else "RGB")
    small.thumbnail((SIDE, SIDE))
    while True:
        for quality in _QUALITIES:
            encoded = _encoded(small, quality)
            if len(encoded) <= MAX_BYTES:
                return encoded
        # Noise doesn't compress.
        small.thumbnail((small.width // 2, small.height // 2))


def _encoded(image: Image.Image, quality: int) -> bytes:
    image.info = {}  # no comments, no profiles
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
