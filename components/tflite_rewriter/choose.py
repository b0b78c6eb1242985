"""Chooses the real images that variants are calibrated with, checked with and tuned by.

The choice depends on the images alone, not on the files they lie in or on their order there.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from operator import attrgetter
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.examples import TransformedExamples, example_files
from components.records import open_records, read_at, skim
from components.tflite_rewriter.images import Images

BATCH = 32  # images


@dataclass(frozen=True, order=True, slots=True)
class _Place:
    """Where an image lies."""

    image_id: str
    file: str
    offset: int


def balanced_images(file_patterns: Sequence[str], transform_graph: Path, count: int) -> Images:
    """Chooses images evenly over the classes; a class that has too few leaves room to the others.

    Args:
        file_patterns: globs of TFRecords of serialized raw tf.Examples, gzipped if their names end
            in `.gz`.
        transform_graph: folder of a TransformGraph artifact.
        count: at most so many.

    Raises:
        FileNotFoundError: no file matches, or there is no image in them.
    """
    by_label: dict[str, list[_Place]] = defaultdict(list)
    for label, place in _places(file_patterns):
        by_label[label].append(place)
    # One of each class in turn, until there are enough.
    turns = zip_longest(*(sorted(by_label[label]) for label in sorted(by_label)))
    chosen = [place for place in chain.from_iterable(turns) if place is not None]
    return _chosen(file_patterns, transform_graph, chosen[:count])


def first_images(file_patterns: Sequence[str], transform_graph: Path, count: int) -> Images:
    """Chooses the images whose ids come first: hashes, so a fair sample of the split.

    Args and raises: as `balanced_images`.
    """
    first = heapq.nsmallest(count, (place for _, place in _places(file_patterns)))
    return _chosen(file_patterns, transform_graph, first)


def _places(file_patterns: Sequence[str]) -> Iterator[tuple[str, _Place]]:
    """Every image, with its label; no image is read."""
    for file in example_files(file_patterns):
        for record in skim(file, ("image_id", "label")):
            image_id, label = (record.features[name].decode() for name in ("image_id", "label"))
            yield label, _Place(image_id, file, record.offset)


def _chosen(
    file_patterns: Sequence[str], transform_graph: Path, chosen: Sequence[_Place]
) -> Images:
    if not chosen:
        raise FileNotFoundError(f"no image at {', '.join(file_patterns)}: at least one is needed")
    return Images(tuple(place.image_id for place in chosen), _Decoded(chosen, transform_graph))


@dataclass(frozen=True)
class _Decoded:
    """The chosen images, and no others, read and transformed as they are asked for."""

    chosen: Sequence[_Place]
    transform_graph: Path

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        found: dict[str, bytes] = {}
        in_order = sorted(self.chosen, key=attrgetter("file", "offset"))
        for file, places in groupby(in_order, key=attrgetter("file")):
            with open_records(file) as opened:
                found |= {place.image_id: read_at(opened, place.offset) for place in places}
        with tempfile.TemporaryDirectory() as folder:
            copy = str(Path(folder) / "chosen.tfrecord")
            with tf.io.TFRecordWriter(copy) as writer:
                for place in self.chosen:
                    writer.write(found.pop(place.image_id))
            for batch in TransformedExamples([copy], self.transform_graph).batches(BATCH):
                yield batch["pixels"].numpy(), batch["label_id"].numpy()
