"""Chooses the real images that variants are calibrated with, checked with and tuned by.

The choice depends on the images alone, not on the files they lie in or on their order there.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, groupby, zip_longest
from operator import attrgetter
from pathlib import Path

from components.feature_names import IMAGE_ID, LABEL
from components.records import open_records, read_at, skim

PLACES_FILE = "places.json"


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where an image lies.

    Attributes:
        image_id: SHA-256 of the original file, in hex.
        file: of TFRecords.
        offset: of the record in it, in bytes.
    """

    image_id: str
    file: str
    offset: int


@dataclass(frozen=True)
class ChosenImages:
    """Raw examples, where they lie: the process that loads the model makes pixels of them."""

    places: Sequence[Place]

    @property
    def image_ids(self) -> tuple[str, ...]:
        """SHA-256 of each original file, in hex."""
        return tuple(place.image_id for place in self.places)

    def save(self, folder: Path) -> None:
        """Writes where they are, for another process to read."""
        folder.mkdir(parents=True)
        places = json.dumps([astuple(place) for place in self.places])
        (folder / PLACES_FILE).write_text(places)

    @classmethod
    def load(cls, folder: Path) -> ChosenImages | None:
        """Reads what `save` wrote; None if it wrote nothing there."""
        file = folder / PLACES_FILE
        if not file.exists():
            return None
        return cls([Place(*place) for place in json.loads(file.read_text())])

    def records(self) -> list[bytes]:
        """Reads the serialized examples, and no others.

        Raises:
            ValueError: a record is not whole.
        """
        found: dict[str, bytes] = {}
        in_order = sorted(self.places, key=attrgetter("file", "offset"))
        for file, places in groupby(in_order, key=attrgetter("file")):
            with open_records(file) as opened:
                found |= {place.image_id: read_at(opened, place.offset) for place in places}
        return [found[place.image_id] for place in self.places]


def balanced_images(files: Sequence[str], count: int) -> ChosenImages:
    """Chooses images evenly over the classes; a class that has too few leaves room to the others.

    Args:
        files: TFRecords of serialized raw tf.Examples, gzipped if their names end in `.gz`.
        count: at most so many.

    Raises:
        FileNotFoundError: there is no image in the files.
        ValueError: a file is damaged.
    """
    by_label: dict[str, list[Place]] = defaultdict(list)
    for label, place in _places(files):
        by_label[label].append(place)
    # One of each class in turn, until there are enough.
    turns = zip_longest(*(sorted(by_label[label]) for label in sorted(by_label)))
    chosen = [place for place in chain.from_iterable(turns) if place is not None]
    return _chosen(files, chosen[:count])


def first_images(files: Sequence[str], count: int) -> ChosenImages:
    """Chooses the images whose ids come first: hashes, so a fair sample of the split.

    Args and raises: as `balanced_images`.
    """
    return _chosen(files, heapq.nsmallest(count, (place for _, place in _places(files))))


def _places(files: Sequence[str]) -> Iterator[tuple[str, Place]]:
    """Every image, with its label; no image is read."""
    for file in files:
        for record in skim(file, (IMAGE_ID, LABEL)):
            image_id, label = (record.features[name].decode() for name in (IMAGE_ID, LABEL))
            yield label, Place(image_id, file, record.offset)


def _chosen(files: Sequence[str], places: Sequence[Place]) -> ChosenImages:
    if not places:
        raise FileNotFoundError(
            f"no image in {', '.join(files) or 'no file'}: at least one is needed"
        )
    return ChosenImages(places)
