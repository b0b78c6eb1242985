"""A dataset's `images.parquet` in numbers: what is counted of it, drawn of it and warned of.

`ImageTable.read(folder, labels)` goes over the file column by column, a batch at a time. About 40
bytes a row stay in memory: numbers, and codes in place of repeated text. Text that belongs to
single rows stays in the file; `texts` fetches that of a few.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import arrow_arrays
from pipeline.data.dataset import SPLITS, TABLE_FILE
from pipeline.data.safe_parquet import pq

SLICE_PREFIX = "slice."
# Distinct values that are told apart in a column of codes. A key of more, such as a serial number,
# is no slice to measure, and must not fill the memory.
MAX_VALUES = 10_000
# A batch of paths, which are the widest of the columns, takes about 1 MB.
_BATCH = 8_192
_NONE = -1  # the code of a null
_REPEATED = ("label", "split", "format", "reason")  # text, which is read as codes

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SliceCounts:
    """How many images of each split have which value of a slice key.

    Attributes:
        key: The slice key.
        values: Its distinct values among the images that were kept.
        counts: int64 `[splits, values]`.
        further: Whether there were more than `MAX_VALUES` values, and only that many were told
            apart: the images of the others are in no count.
    """

    key: str
    values: tuple[str, ...]
    counts: NDArray[np.int64]
    further: bool


@dataclass(frozen=True)
class Clusters:
    """Groups of near-duplicates: those of which two images or more were kept.

    Attributes:
        rows: int64 `[images]`, the kept images of all clusters, cluster after cluster.
        starts: int64 `[clusters]`, where each cluster begins in `rows`.
        sizes: int64 `[clusters]`.
        mixed: bool `[clusters]`, whether its images have more than one label.
        leaking: bool `[clusters]`, whether it has images both in train and in another split.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mixed: Bools
    leaking: Bools

    def __len__(self) -> int:
        return len(self.starts)

    def members(self, cluster: int) -> NDArray[np.int64]:
        """The rows of one cluster, in the file's order."""
        start = self.starts[cluster]
        return self.rows[start : start + self.sizes[cluster]]


@dataclass(frozen=True)
class ImageTable:
    """The rows of `images.parquet` in columns of numbers.

    Attributes:
        path: The file.
        labels: The classes, in their order for ever.
        label: int32 `[rows]`, index of the class; -1 for one that is not among the labels.
        split: int8 `[rows]`, index in `SPLITS`; -1 for an image that was left out.
        width: int32 `[rows]`, pixels of the upright original; 0 where unknown, as `height`.
        height: int32 `[rows]`.
        size: int64 `[rows]`, bytes of the original's encoded image; 0 where unknown.
        cluster: int64 `[rows]`, shared by near-duplicates; -1 for an image that has none.
        format: int32 `[rows]`, index in `formats`; -1 where unknown.
        formats: Such as "JPEG".
        reason: int32 `[rows]`, index in `reasons`, of an image that was left out; -1 without one,
            or if it had none of the first `MAX_VALUES` kinds.
        reasons: Kinds of reasons: their text before the first colon, without numbers.
        copy: bool `[rows]`, whether it was left out as an exact copy of another.
        changed: Kept images that were encoded anew.
        changes: The same by what was changed, most frequent first; an image may have several.
        slices: A count for each slice key.
    """

    path: Path
    labels: tuple[str, ...]
    label: NDArray[np.int32]
    split: NDArray[np.int8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.int64]
    cluster: NDArray[np.int64]
    format: NDArray[np.int32]
    formats: tuple[str, ...]
    reason: NDArray[np.int32]
    reasons: tuple[str, ...]
    copy: Bools
    changed: int
    changes: Mapping[str, int]
    slices: tuple[SliceCounts, ...]

    @classmethod
    def read(cls, folder: Path, labels: Sequence[str]) -> ImageTable:
        """Reads the `images.parquet` of a dataset folder.

        Raises:
            OSError: There is no such file, or it is no Parquet file.
            KeyError: It lacks a column.
        """
        path = folder / TABLE_FILE
        names = pq.read_schema(path).names
        texts = [name for name in names if name in _REPEATED or name.startswith(SLICE_PREFIX)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            columns = _Columns(file)
            split = columns.codes("split", dict(zip(SPLITS, range(len(SPLITS)), strict=True)))
            kept = split != _NONE
            formats: dict[str, int] = {}
            reasons: dict[str, int] = {}
            changed, changes = columns.changes(kept)
            return cls(
                path=path,
                labels=tuple(labels),
                label=columns.codes("label", {label: i for i, label in enumerate(labels)}),
                split=split.astype(np.int8),
                width=columns.numbers("width", np.int32, 0),
                height=columns.numbers("height", np.int32, 0),
                size=columns.numbers("bytes", np.int64, 0),
                cluster=columns.numbers("cluster", np.int64, _NONE),
                format=columns.codes("format", formats, grow=True),
                formats=tuple(formats),
                reason=columns.codes("reason", reasons, grow=True, kind=_kind_of_reason),
                reasons=tuple(reasons),
                copy=columns.known("duplicate_of") & ~kept,
                changed=changed,
                changes=changes,
                slices=tuple(columns.slice_counts(key, split) for key in columns.slice_keys),
            )

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """The rows whose image is in the dataset, in the file's order."""
        return np.flatnonzero(self.split != _NONE)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Images by split and class: int64 `[splits, classes]`."""
        rows = self.kept[self.label[self.kept] != _NONE]
        return _cross_counts(self.split[rows], self.label[rows], len(SPLITS), len(self.labels))

    @cached_property
    def clusters(self) -> Clusters:
        """The groups of near-duplicates among the images that were kept."""
        rows = self.kept[self.cluster[self.kept] != _NONE]
        rows = rows[np.argsort(self.cluster[rows], kind="stable")]
        _, sizes = np.unique(self.cluster[rows], return_counts=True)
        rows = rows[np.repeat(sizes > 1, sizes)]
        sizes = sizes[sizes > 1].astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        return Clusters(
            rows,
            starts,
            sizes,
            mixed=_differ(self.label[rows], starts),
            leaking=_differ(self.split[rows] == SPLITS.index("train"), starts),
        )

    def texts(self, rows: Ints, columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """The values that a few rows have in some of the file's columns, by row."""
        wanted = np.unique(rows)
        found: dict[int, dict[str, Any]] = {}
        with pq.ParquetFile(self.path) as file:
            first = 0
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
                if len(here):
                    for row in here.tolist():
                        found[row] = batch.slice(row - first, 1).to_pylist()[0]
                first += batch.num_rows
        return found


class _Columns:
    """Reads a Parquet file column by column."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._rows: int = file.metadata.num_rows
        self._names: tuple[str, ...] = tuple(file.schema_arrow.names)

    @property
    def slice_keys(self) -> tuple[str, ...]:
        names = (name for name in self._names if name.startswith(SLICE_PREFIX))
        return tuple(name[len(SLICE_PREFIX) :] for name in names)

    def numbers(self, name: str, dtype: type[np.generic], null: int) -> NDArray[Any]:
        """A column of numbers, with `null` where there is none."""
        numbers = np.empty(self._rows, dtype)
        for rows, values in self._batches(name):
            numbers[rows] = arrow_arrays.numbers(values, null)
        return numbers

    def known(self, name: str) -> Bools:
        """Where a column has a value."""
        known = np.empty(self._rows, np.bool_)
        for rows, values in self._batches(name):
            known[rows] = arrow_arrays.known(values)
        return known

    def codes(
        self,
        name: str,
        vocabulary: dict[str, int],
        *,
        grow: bool = False,
        kind: Callable[[str], str] = str,
    ) -> NDArray[np.int32]:
        """A column of text, each text as its number in the vocabulary, -1 for none.

        Args:
            name: The column's.
            vocabulary: The texts and their numbers.
            grow: Whether texts that are not in the vocabulary are added, up to `MAX_VALUES`.
            kind: What of a text counts.
        """
        codes = np.empty(self._rows, np.int32)
        for rows, values in self._batches(name):
            texts = [kind(text) for text in values.dictionary.to_pylist()]
            if grow:
                for text in texts:
                    if len(vocabulary) < MAX_VALUES:
                        vocabulary.setdefault(text, len(vocabulary))
            # The last one is of the nulls.
            code_of = np.array([*(vocabulary.get(text, _NONE) for text in texts), _NONE], np.int32)
            codes[rows] = code_of[arrow_arrays.numbers(values.indices, len(texts))]
        return codes

    def slice_counts(self, key: str, split: Ints) -> SliceCounts:
        vocabulary: dict[str, int] = {}
        codes = self.codes(SLICE_PREFIX + key, vocabulary, grow=True)
        kept = split != _NONE
        told = kept & (codes != _NONE)
        counts = _cross_counts(split[told], codes[told], len(SPLITS), len(vocabulary))
        # A null in a kept row is a value that the full vocabulary had no room for.
        further = len(vocabulary) == MAX_VALUES and bool((kept & ~told).any())
        present = np.flatnonzero(counts.sum(axis=0))
        values = tuple(vocabulary)
        return SliceCounts(
            key, tuple(values[i] for i in present.tolist()), counts[:, present], further
        )

    def changes(self, kept: Bools) -> tuple[int, Mapping[str, int]]:
        """How many kept images were changed, and how many in which way."""
        changed = 0
        changes: Counter[str] = Counter()
        for rows, values in self._batches("changes"):
            ends = arrow_arrays.numbers(values.offsets, 0)
            lengths = np.diff(ends)
            changed += np.count_nonzero(lengths[kept[rows]])
            items = values.values.slice(ends[0], ends[-1] - ends[0]).to_pylist()
            changes.update(compress(items, np.repeat(kept[rows], lengths).tolist()))
        return changed, dict(sorted(changes.items(), key=lambda item: (-item[1], item[0])))

    def _batches(self, name: str) -> Iterator[tuple[slice, Any]]:
        """A column's batches, each with the rows that it is of."""
        if name not in self._names:
            raise KeyError(f"{TABLE_FILE} has no column {name!r}")
        first = 0
        for batch in self._file.iter_batches(_BATCH, columns=[name]):
            # Of a name such as "slice.a", "slice.a.b" may be taken for a part.
            column = batch.column(batch.schema.get_field_index(name))
            yield slice(first, first + batch.num_rows), column
            first += batch.num_rows


def dominant(owners: Ints, values: Ints, number: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The most frequent value of each owner, and its share of the owner's.

    Args:
        owners: `[n]`, at least 0 and below `number`.
        values: `[n]`, at least 0.
        number: How many owners there are.

    Returns:
        int64 `[owners]`, of equally frequent values the largest, and float64 `[owners]`; -1 and 0
        for an owner without values.
    """
    value, share = np.full(number, _NONE, np.int64), np.zeros(number)
    if len(owners):
        base = int(values.max()) + 1
        pairs, counts = np.unique(owners.astype(np.int64) * base + values, return_counts=True)
        whose, what = np.divmod(pairs, base)
        order = np.lexsort((counts, whose))
        last = order[np.flatnonzero(np.diff(whose[order], append=_NONE))]
        value[whose[last]] = what[last]
        share[whose[last]] = counts[last] / np.bincount(owners, minlength=number)[whose[last]]
    return value, share


def _cross_counts(a: Ints, b: Ints, rows: int, columns: int) -> NDArray[np.int64]:
    """How often each pair of values occurs: int64 `[rows, columns]`."""
    pairs = a.astype(np.int64) * columns + b
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def _differ(values: Ints | Bools, starts: Ints) -> Bools:
    """Whether the values of each run, from its start to the next, are not all the same."""
    if not len(starts):
        return np.zeros(0, np.bool_)
    return np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts)


def _kind_of_reason(reason: str) -> str:
    """What reasons of a kind have in common: after the colon come the details of one file."""
    return re.sub(r"\d+", "…", reason.split(":", 1)[0].strip())
