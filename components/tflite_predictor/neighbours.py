"""The training images that are nearest to the float model's mistakes.

Near is what the network makes much the same features of. Where the neighbours have the label that
the model says, the label of the image itself may be wrong; where they are of both, theirs may be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from components.feature_names import IMAGE_ID, LABEL, SOURCE
from components.predictions import NEIGHBOURS, Neighbour
from components.records import open_records, read_at, skim


def nearest_rows(kept: Path, features: Mapping[int, NDArray[np.float32]]) -> dict[int, list[int]]:
    """Finds the nearest of the training images by the angle between features.

    Args:
        kept: file that the Trainer left, see `components.trained_model.FEATURES_FILE`.
        features: by number of an image, `[channels]`.

    Returns:
        By number of the image: rows of the train split, the nearest first; empty where the Trainer
        left no file.
    """
    if not features or not kept.is_file():
        return {}
    with np.load(kept, allow_pickle=False) as file:
        rows, found = file["rows"], file["features"].astype(np.float32)
    search = NearestNeighbors(
        n_neighbors=min(NEIGHBOURS, len(rows)), metric="cosine", algorithm="brute"
    ).fit(found)
    places = search.kneighbors(np.stack(list(features.values())), return_distance=False)
    return dict(zip(features, rows[places].tolist(), strict=True))


def look_through(
    files: Sequence[str],
    labels: Sequence[str],
    rows: Collection[int] = (),
    picture: Callable[[bytes], bytes] = bytes,
) -> tuple[list[int], dict[int, Neighbour]]:
    """Counts the examples of each class, and describes some of them, in one pass.

    Args:
        files: of TFRecords of raw examples, of a split.
        labels: class names in their order.
        rows: numbers of the examples to describe, in the order of the files.
        picture: makes a small JPEG of a record.

    Returns:
        How many examples each class has, and by row what is known of it.

    Raises:
        ValueError: a file is damaged.
    """
    found = Counter[str]()
    described: dict[int, Neighbour] = {}
    names = (SOURCE, IMAGE_ID, LABEL) if rows else (LABEL,)
    records = ((file, record) for file in files for record in skim(file, names))
    for row, (file, record) in enumerate(records):
        known = {name: record.features.get(name, b"").decode() for name in names}
        found[known[LABEL]] += 1
        if row in rows:
            with open_records(file) as opened:
                example = read_at(opened, record.offset)
            described[row] = Neighbour(
                known[SOURCE], known[IMAGE_ID], known[LABEL], picture(example)
            )
    return [found[label] for label in labels], described
