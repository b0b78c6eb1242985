"""Makes small finished dataset folders, without ingest: shards, `images.parquet`, `labels.txt`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from pipeline.data.dataset import LABELS_FILE, SPLITS
from pipeline.data.tfrecords import RecordWriter, serialize_example


@dataclass(frozen=True)
class Photo:
    """An image that ingest found; one with a reason or an original was left out."""

    source: str
    label: str
    split: str | None = "train"
    width: int = 40
    height: int = 30
    format: str | None = "JPEG"
    changes: tuple[str, ...] = ()
    cluster: int | None = None
    reason: str | None = None
    duplicate_of: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)


def columns(slice_keys: Iterable[str] = ()) -> Any:
    """The schema of `images.parquet`."""
    text = pa.string()
    return pa.schema(
        [
            ("source", text),
            ("label", text),
            ("split", text),
            ("shard", text),
            ("offset", pa.int64()),
            ("image_id", text),
            ("pixels_digest", text),
            ("perceptual_hash", pa.binary()),
            ("group", text),
            ("cluster", pa.int64()),
            ("format", text),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bytes", pa.int64()),
            ("changes", pa.list_(text)),
            ("reason", text),
            ("duplicate_of", text),
            *((f"slice.{key}", text) for key in slice_keys),
        ]
    )


def finish(folder: Path, photos: Iterable[Photo]) -> Path:
    """Writes a dataset of these photos, whose pixels are noise, and returns its folder."""
    photos = list(photos)
    folder.mkdir(parents=True, exist_ok=True)
    shards = {split: f"{split}/examples-00000-of-00001.tfrecord" for split in SPLITS}
    rows: list[dict[str, Any] | None] = [None] * len(photos)
    for split in (*SPLITS, None):
        chosen = [(i, photo) for i, photo in enumerate(photos) if photo.split == split]
        if split is None:
            for i, photo in chosen:
                rows[i] = _row(photo, None, None, b"")
            continue
        (folder / split).mkdir(exist_ok=True)
        with RecordWriter(folder / shards[split]) as writer:
            for i, photo in chosen:
                image = encoded(photo.width, photo.height, seed=i)
                offset = writer.write(
                    serialize_example(
                        {
                            "image": image,
                            "label": photo.label.encode(),
                            "image_id": hashlib.sha256(image).hexdigest().encode(),
                            "source": photo.source.encode(),
                            **{key: value.encode() for key, value in photo.slices.items()},
                        }
                    )
                )
                rows[i] = _row(photo, shards[split], offset, image)
    keys = sorted({key for photo in photos for key in photo.slices})
    table = pa.Table.from_pylist([row for row in rows if row], schema=columns(keys))
    parquet.write_table(table, folder / "images.parquet")
    labels = sorted({photo.label for photo in photos if photo.split})
    (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    return folder


def labels_of(folder: Path) -> tuple[str, ...]:
    """The classes of a dataset folder."""
    return tuple((folder / LABELS_FILE).read_text("utf-8").splitlines())


def encoded(width: int, height: int, *, seed: int) -> bytes:
    """A JPEG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _row(photo: Photo, shard: str | None, offset: int | None, image: bytes) -> dict[str, Any]:
    return {
        "source": photo.source,
        "label": photo.label,
        "split": photo.split,
        "shard": shard,
        "offset": offset,
        "image_id": hashlib.sha256(image).hexdigest(),
        "group": "",
        "cluster": photo.cluster,
        "format": photo.format,
        "width": photo.width,
        "height": photo.height,
        "bytes": len(image) or None,
        "changes": list(photo.changes),
        "reason": photo.reason,
        "duplicate_of": photo.duplicate_of,
        **{f"slice.{key}": value for key, value in photo.slices.items()},
    }
