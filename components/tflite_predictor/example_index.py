"""Where each example of a split is, and what is known of it besides its image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.feature_names import IMAGE_ID, LABEL, SOURCE, UNKNOWN_LABEL
from components.records import open_records, read_at, skim


@dataclass(frozen=True)
class Unit:
    """Consecutive examples of one file: what a worker predicts at a time.

    Attributes:
        number: of the unit, from 0.
        first: index of its first example among all.
        file: of TFRecords.
        offset: of the first example's record in it, in bytes.
        examples: how many.
    """

    number: int
    first: int
    file: str
    offset: int
    examples: int


@dataclass(frozen=True)
class ExampleIndex:
    """The examples of a split, in the order of the files.

    Attributes:
        files: of TFRecords.
        first: index of each file's first example.
        offsets: int64 `[examples]`, of each record in its file, in bytes.
        image_ids: of each example.
        sources: path of each example's original file.
        label_ids: int64 `[examples]`, -1 for an unknown label.
        slices: by slice key, the value of each example; empty where it has none.
    """

    files: tuple[str, ...]
    first: tuple[int, ...]
    offsets: NDArray[np.int64]
    image_ids: tuple[str, ...]
    sources: tuple[str, ...]
    label_ids: NDArray[np.int64]
    slices: dict[str, list[str]]

    def units(self, most: int) -> Iterator[Unit]:
        """Cuts the files into units of `most` examples, a file's last one of fewer."""
        number = 0
        for file, first, end in zip(
            self.files, self.first, (*self.first[1:], len(self.offsets)), strict=True
        ):
            for start in range(first, end, most):
                examples = min(most, end - start)
                yield Unit(number, start, file, int(self.offsets[start]), examples)
                number += 1

    def count_labels(self, classes: int) -> list[int]:
        """How many examples each class has."""
        known = self.label_ids[self.label_ids != UNKNOWN_LABEL]
        return np.bincount(known, minlength=classes).tolist()

    def record(self, index: int) -> bytes:
        """Reads the record of one example."""
        number = int(np.searchsorted(self.first, index, side="right")) - 1
        with open_records(self.files[number]) as opened:
            return read_at(opened, int(self.offsets[index]))


def index_examples(
    files: Sequence[str], labels: Sequence[str], slice_keys: Sequence[str]
) -> ExampleIndex:
    """Finds every example of the files, without reading an image.

    Args:
        files: of TFRecords of raw examples.
        labels: class names in their order.
        slice_keys: raw features to note.

    Raises:
        ValueError: a file is damaged.
    """
    ids = {label.encode(): number for number, label in enumerate(labels)}
    first: list[int] = []
    offsets: list[int] = []
    image_ids: list[str] = []
    sources: list[str] = []
    label_ids: list[int] = []
    slices: dict[str, list[str]] = {key: [] for key in slice_keys}
    for file in files:
        first.append(len(offsets))
        for record in skim(file, (IMAGE_ID, SOURCE, LABEL, *slice_keys)):
            offsets.append(record.offset)
            image_ids.append(record.features.get(IMAGE_ID, b"").decode())
            sources.append(record.features.get(SOURCE, b"").decode())
            label_ids.append(ids.get(record.features.get(LABEL, b""), UNKNOWN_LABEL))
            for key, values in slices.items():
                values.append(record.features.get(key, b"").decode())
    return ExampleIndex(
        tuple(files),
        tuple(first),
        np.array(offsets, np.int64),
        tuple(image_ids),
        tuple(sources),
        np.array(label_ids, np.int64),
        slices,
    )
