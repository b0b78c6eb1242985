"""The training images that are nearest to the float model's mistakes.

Near is what the network makes much the same features of. Where the neighbours have the label that
the model says, the label of the image itself may be wrong; where they are of both, theirs may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from components.feature_names import LABEL
from components.predictions import NEIGHBOURS, Neighbour
from components.records import open_records, read_at, skim
from components.tflite_predictor.example_index import IMAGE_ID, SOURCE


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


def describe_rows(
    files: Sequence[str], rows: Iterable[int], picture: Callable[[bytes], bytes]
) -> Iterator[tuple[int, Neighbour]]:
    """Yields what is known of some examples, in order.

    Args:
        files: of TFRecords of raw examples, of the train split.
        rows: numbers of examples, in the order of the files.
        picture: makes a small JPEG of a record.

    Raises:
        ValueError: a file is damaged.
    """
    wanted = set(rows)
    row = -1
    for file in files if wanted else ():
        for record in skim(file, (IMAGE_ID, SOURCE, LABEL)):
            row += 1
            if row in wanted:
                with open_records(file) as opened:
                    example = read_at(opened, record.offset)
                source, image_id, label = (
                    record.features.get(name, b"").decode() for name in (SOURCE, IMAGE_ID, LABEL)
                )
                yield row, Neighbour(source, image_id, label, picture(example))
