"""The index of an ingest: a row for each image, in a database file, for what must see them all.

Duplicates, groups and splits are questions about all images at once. At a million images, answers
in Python's own objects would take gigabytes; SQLite's take what its cache is given.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.examined import Examined

CACHE_KB = 4 * 1024
ROWS_AT_ONCE = 1_000
# Rows of one unit of work are neighbours, and units are in the order they were found in.
ROWS_A_UNIT = 2**32

_TABLES = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY, source TEXT, label TEXT, given_split TEXT, user_group TEXT, slices TEXT,
    reason TEXT, image_id TEXT, pixels_digest TEXT, perceptual_hash TEXT, format TEXT,
    width INTEGER, height INTEGER, bytes INTEGER, changes TEXT,
    file BLOB, file_offset INTEGER, file_length INTEGER,
    duplicate_of TEXT, cluster INTEGER, split TEXT, shard TEXT, shard_offset INTEGER
);
CREATE TABLE remembered (image_id TEXT, pixels_digest TEXT, split TEXT);
"""
_INDEXES = """
CREATE INDEX by_pixels ON images (pixels_digest);
CREATE INDEX by_image_id ON images (image_id);
"""


class Index:
    """All images of an ingest, in the order that they were found in."""

    def __init__(self, path: Path) -> None:
        """Makes an empty index; what is at `path` is replaced."""
        path.unlink(missing_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        # It is made anew from the workers' outcomes after a crash: nothing need be safe on disk.
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.executescript(_TABLES)

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    def add(self, unit: int, rows: Iterable[Examined]) -> int:
        """Adds the images of a unit of work, which is given by its number; returns how many."""
        first = unit * ROWS_A_UNIT
        values = (
            (
                first + position,
                *row[:4],
                _as_json(row.slices),
                *row[5:13],
                _as_json(row.changes),
                # A path may hold bytes that are no UTF-8.
                os.fsencode(row.file),
                row.offset,
                row.length,
            )
            for position, row in enumerate(rows)
        )
        marks = ", ".join("?" * 18)
        self._database.execute("BEGIN")
        added = self._database.executemany(
            f"INSERT INTO images VALUES ({marks}, NULL, NULL, NULL, NULL, NULL)", values
        ).rowcount
        self._database.execute("COMMIT")
        return added

    def complete(self) -> None:
        """Makes look-ups by pixels and by id fast, once all rows are there."""
        self._database.executescript(_INDEXES)

    def select(self, query: str, *values: Any) -> Iterator[Any]:
        """Yields the rows of a query; what it does not select by may be changed meanwhile."""
        cursor = self._database.execute(query, values)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield from rows

    def value(self, query: str, *values: Any) -> Any:
        """The single value of a query."""
        return self._database.execute(query, values).fetchone()[0]

    def change(self, statement: str, rows: Iterable[Sequence[Any]] | None = None) -> None:
        """Executes a statement, for each of the rows where there are some."""
        self._database.execute("BEGIN")
        if rows is None:
            self._database.execute(statement)
        else:
            self._database.executemany(statement, rows)
        self._database.execute("COMMIT")

    def numbers(
        self, query: str, of_row: Callable[[Any], Iterable[int]], columns: int
    ) -> list[NDArray[np.int64]]:
        """What a function makes of a query's rows: `columns` arrays, `[rows]` each."""
        flat = np.fromiter(chain.from_iterable(map(of_row, self.select(query))), np.int64)
        return list(flat.reshape(-1, columns).T.copy())


def _as_json(texts: Sequence[str]) -> str:
    return json.dumps(texts) if texts else "[]"


@lru_cache(maxsize=256)  # few are different, and a hostile one may be long
def texts_in(column: str) -> tuple[str, ...]:
    """The texts in a value of the columns `slices` and `changes`."""
    return tuple(json.loads(column))
