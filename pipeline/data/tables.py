"""The dataset's tables in Parquet: every image that was found, and the split of every image ever.

`images.parquet` has a row for each image, kept or left out, in the order that they were found in.
`splits.parquet` is what a later ingest gives every image its split by: it is only added to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.tf_example import parse_example
from pipeline.data import arrow_arrays
from pipeline.data.dataset import ASSIGNMENTS_FILE, SPLITS, TABLE_FILE
from pipeline.data.index import Index, texts_in
from pipeline.data.safe_parquet import pq
from pipeline.data.tfrecords import BadRecord, read_records
from pipeline.errors import UserError

ROWS_A_GROUP = 10_000

_COLUMNS = [
    ("source", pa.string()),
    ("label", pa.string()),
    ("split", pa.string()),
    ("shard", pa.string()),
    ("offset", pa.int64()),
    ("image_id", pa.string()),
    ("pixels_digest", pa.string()),
    ("perceptual_hash", pa.binary()),
    ("group", pa.string()),
    ("cluster", pa.int64()),
    ("format", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("bytes", pa.int64()),
    ("changes", pa.list_(pa.string())),
    ("reason", pa.string()),
    ("duplicate_of", pa.string()),
]
_ASSIGNMENTS = pa.schema(
    [("image_id", pa.string()), ("pixels_digest", pa.string()), ("split", pa.string())]
)


def write_table(index: Index, folder: Path, slice_keys: Sequence[str]) -> None:
    """Writes `images.parquet`."""
    slices = [(f"slice.{key}", pa.string()) for key in slice_keys]
    rows = (
        _table_row(*row)
        for row in index.select(
            "SELECT perceptual_hash, changes, slices, source, label, split, shard, shard_offset,"
            " NULLIF(image_id, ''), NULLIF(pixels_digest, ''), user_group, cluster,"
            " NULLIF(format, ''), NULLIF(width, 0), NULLIF(height, 0), NULLIF(bytes, 0),"
            " NULLIF(reason, ''), duplicate_of FROM images ORDER BY id"
        )
    )
    _write(folder / TABLE_FILE, pa.schema([*_COLUMNS, *slices]), rows)


def _table_row(hash_text: str, changes: str, slices: str, *others: Any) -> Sequence[Any]:
    perceptual_hash = bytes.fromhex(hash_text) if hash_text else None
    return (
        *others[:7],
        perceptual_hash,
        *others[7:13],
        texts_in(changes),
        *others[13:],
        *texts_in(slices),
    )


def write_assignments(index: Index, folder: Path) -> None:
    """Writes `splits.parquet`: what was remembered, and the images that are new."""
    rows = index.select(
        "SELECT image_id, pixels_digest, split FROM images WHERE split IS NOT NULL UNION"
        " SELECT image_id, pixels_digest, split FROM remembered WHERE image_id NOT IN"
        " (SELECT image_id FROM images WHERE split IS NOT NULL) ORDER BY 1, 2, 3"
    )
    _write(folder / ASSIGNMENTS_FILE, _ASSIGNMENTS, rows)


def remember_assignments(index: Index, folder: Path) -> None:
    """Puts the splits of an earlier dataset's images into the index.

    Raises:
        UserError: the dataset's own record of them is damaged.
    """
    file = folder / ASSIGNMENTS_FILE
    if file.is_file():
        rows: Iterable[Sequence[str]] = _read_assignments(file)
    else:
        # Before they had a file of their own: the id and the split of an example told it.
        rows = (
            (image_id, "", split) for split in SPLITS for image_id in _image_ids(folder / split)
        )
    index.change("INSERT INTO remembered VALUES (?, ?, ?)", rows)
    index.change("CREATE INDEX remembered_ids ON remembered (image_id)")
    index.change("CREATE INDEX remembered_pixels ON remembered (pixels_digest)")


def _image_ids(split: Path) -> Iterator[str]:
    for shard in sorted(split.iterdir()):
        for record in read_records(shard):
            if isinstance(record, BadRecord):
                raise UserError(
                    f"{shard}, byte {record.offset}: {record.reason}. The images' splits can't be "
                    f"read from it: restore it, or move {split.parent} away to draw them anew"
                )
            (image_id,) = parse_example(record.data)["image_id"].values
            yield image_id.decode()


def _read_assignments(file: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with pq.ParquetFile(file) as table:
            if table.schema_arrow != _ASSIGNMENTS:
                raise pa.ArrowInvalid(f"its columns are {table.schema_arrow.names}")
            for batch in table.iter_batches(ROWS_A_GROUP):
                for image_id, pixels, split in zip(*map(pa.Array.to_pylist, batch), strict=True):
                    if split not in SPLITS:
                        raise pa.ArrowInvalid(f"it has a split {split!r}")
                    yield image_id, pixels, split
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file}, which remembers the images' splits, is damaged: {error}. Restore it, or move "
            f"{file.parent} away to have them drawn anew"
        ) from error


def _write(path: Path, schema: Any, rows: Iterable[Sequence[Any]]) -> None:
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(remaining, ROWS_A_GROUP)):
            columns = [
                arrow_arrays.array(values, field.type)
                for values, field in zip(zip(*group, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=schema))
