"""Writes the examples: the work of a worker in the second half of an ingest.

A shard's plan names its examples and where their bytes are; nothing is decoded here. The examples
of a split are in the order of their ids, which is as good as shuffled, and cut into shards of about
equal size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from edgeline._files import sha256_of
from pipeline.data.dataset import SPLITS
from pipeline.data.index import Index, texts_in
from pipeline.data.reading import image_id
from pipeline.data.tfrecords import RecordWriter, serialize_example
from pipeline.data.work import Tally
from pipeline.data.workshop import Workshop

CHANGED = "the file changed while it was ingested"
EXAMPLES_A_LINE = 256  # of a plan


class PlannedExample(NamedTuple):
    """An example to write.

    Attributes:
        row: its number in the index.
        image_id: SHA-256 of the encoded image as it was found, hex.
        label: of its class.
        source: names it.
        slices: a value for each slice key.
        file: where its image's bytes are.
        offset: of the bytes in the file.
        length: of the bytes.
        as_found: whether the bytes are those of which `image_id` is the digest.
    """

    row: int
    image_id: str
    label: str
    source: str
    slices: Sequence[str]
    file: str
    offset: int
    length: int
    as_found: bool


def plan_shards(index: Index, workshop: Workshop, shard_bytes: int) -> list[str]:
    """Writes the plan of every shard; returns their names.

    There is one shard in each split at least, so that a reader's pattern always matches.

    Args:
        index: whose images have their splits.
        workshop: for the plans.
        shard_bytes: about how large a shard is to be.
    """
    names: list[str] = []
    for split in SPLITS:
        total = index.value(
            "SELECT COALESCE(SUM(file_length), 0) FROM images WHERE split = ?", split
        )
        count = max(1, math.ceil(total / shard_bytes))
        shards = [f"{split}-{number:05}-of-{count:05}" for number in range(count)]
        for shard in shards:
            workshop.plan(shard).touch()
        cut = _cut(_examples(index, split), total / count)
        for number, examples in groupby(cut, key=itemgetter(0)):
            plan = workshop.plan(shards[min(number, count - 1)])
            with plan.open("a", encoding="utf-8") as lines:
                while some := [example for _, example in islice(examples, EXAMPLES_A_LINE)]:
                    lines.write(json.dumps(some) + "\n")
        names += shards
    return names


def _examples(index: Index, split: str) -> Iterator[PlannedExample]:
    for row in index.select(
        "SELECT id, image_id, label, source, slices, file, file_offset, file_length,"
        " changes = '[]' FROM images WHERE split = ? ORDER BY image_id, id",
        split,
    ):
        example = PlannedExample(*row)
        yield example._replace(
            slices=texts_in(row[4]), file=os.fsdecode(row[5]), as_found=bool(row[8])
        )


def _cut(
    examples: Iterable[PlannedExample], shard_bytes: float
) -> Iterator[tuple[int, PlannedExample]]:
    """Yields each example with the number of its shard."""
    written = 0
    for example in examples:
        yield int(written / shard_bytes), example
        written += example.length


def shard_file(shard: str) -> str:
    """The path of a shard in the dataset's folder."""
    split, _, rest = shard.partition("-")
    return f"{split}/examples-{rest}.tfrecord"


def write_shard(shard: str, *, workshop: Workshop, slice_keys: Sequence[str]) -> None:
    """Writes a shard, and what came of it; does nothing if that is done."""
    tally = Tally(workshop.write_tally)
    plan = sha256_of(workshop.plan(shard))
    target = workshop.dataset / shard_file(shard)
    if (done := _done(workshop, shard, plan)) is not None:
        tally.tick(done["examples"])
        return
    # A cluster may do the same work twice at once: each writes a file of its own.
    mine = f"{os.uname().nodename}-{os.getpid()}"
    unfinished = target.with_name(f".{target.name}.{mine}")
    places = workshop.places(shard).with_suffix(f".{mine}")
    written = 0
    with RecordWriter(unfinished) as writer, places.open("w", encoding="utf-8") as lines:
        for examples in _read_plan(workshop.plan(shard)):
            offsets = [_write(writer, example, slice_keys) for example in examples]
            written += len(offsets) - offsets.count(None)
            rows = [example.row for example in examples]
            lines.write(json.dumps([*zip(rows, offsets, strict=True)]) + "\n")
            tally.tick(len(examples))
    unfinished.replace(target)
    places.replace(workshop.places(shard))
    outcome = {"plan": plan, "digest": writer.digest, "bytes": writer.size, "examples": written}
    partial = workshop.written(shard).with_suffix(f".{mine}")
    partial.write_text(json.dumps(outcome), encoding="utf-8")
    partial.replace(workshop.written(shard))


def read_outcomes(index: Index, workshop: Workshop, shards: Sequence[str]) -> dict[str, str]:
    """Notes in the index where each example is; returns the shards' digests by their paths."""
    digests = {}
    for shard in shards:
        outcome = json.loads(workshop.written(shard).read_text(encoding="utf-8"))
        file = shard_file(shard)
        digests[file] = outcome["digest"]
        places = _read_places(workshop.places(shard))
        index.change(
            "UPDATE images SET shard = ?, shard_offset = ? WHERE id = ?",
            ((file, offset, row) for row, offset in places),
        )
    index.change(
        "UPDATE images SET split = NULL, shard = NULL, reason = ?"
        " WHERE shard IS NOT NULL AND shard_offset IS NULL",
        [(CHANGED,)],
    )
    return digests


def _read_places(file: Path) -> Iterator[tuple[int, int | None]]:
    """The rows of a shard's plan, each with the offset of its example, if that was written."""
    with file.open(encoding="utf-8") as lines:
        yield from chain.from_iterable(map(json.loads, lines))


def _done(workshop: Workshop, shard: str, plan: str) -> dict[str, Any] | None:
    """What came of a shard that an earlier ingest wrote by the same plan, if it is there whole."""
    noted, file = workshop.written(shard), workshop.dataset / shard_file(shard)
    if not noted.is_file() or not file.is_file():
        return None
    outcome: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
    whole = outcome["plan"] == plan and outcome["bytes"] == file.stat().st_size
    return outcome if whole else None


def _read_plan(plan: Path) -> Iterator[list[PlannedExample]]:
    """Yields the examples of a plan, some at a time."""
    with plan.open(encoding="utf-8") as lines:
        for line in lines:
            yield [PlannedExample(*example) for example in json.loads(line)]


def _write(writer: RecordWriter, example: PlannedExample, slice_keys: Sequence[str]) -> int | None:
    """Writes an example; returns its offset, or None if its image changed since it was read."""
    data = _bytes_of(example)
    return None if data is None else writer.write(_serialized(example, data, slice_keys))


def _bytes_of(example: PlannedExample) -> bytes | None:
    """The bytes of an example's image, or None if they are no longer those that were read."""
    try:
        with open(example.file, "rb") as file:  # noqa: PTH123 (a Path for each is slow)
            file.seek(example.offset)
            data = file.read(example.length)
    except FileNotFoundError:
        return None
    if example.as_found and image_id(data) != example.image_id:
        return None
    return data


def _serialized(example: PlannedExample, data: bytes, slice_keys: Sequence[str]) -> bytes:
    slices = {key: value.encode() for key, value in zip(slice_keys, example.slices, strict=True)}
    return serialize_example(
        {
            "image": data,
            "label": example.label.encode(),
            "image_id": example.image_id.encode(),
            "source": example.source.encode(),
            **slices,
        }
    )
