"""The content of a Predictions artifact: what every model said of each example of a split.

predictions.json        which model is in which file, latencies, errors, the deployed release, and
                        how many images of each class each split has
statistics.npy          of each image, see `edgeline.drift`; float32 `[examples, 3]`
examples.npz            `image_ids`, `sources`, `label_ids`, and `slice_<number>` of each slice key
<number>.npy            probabilities of one model, float32 `[examples, classes]`
thumbnails/<index>.jpg  of the mistakes that a report shows
nearest/<row>.jpg       of the training images that are nearest to them

Nothing here needs TensorFlow to be read, and probabilities are mapped, not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT = "float"  # the float model, among the models
PREDICTIONS_FILE = "predictions.json"
EXAMPLES_FILE = "examples.npz"
STATISTICS_FILE = "statistics.npy"
THUMBNAILS_FOLDER = "thumbnails"
NEAREST_FOLDER = "nearest"
MISTAKES = 24  # of the float model, that a report shows
THUMBNAILS = 12  # mistakes of each variant, that a report shows
NEIGHBOURS = 3  # training images that are shown beside a mistake of the float model
VERSION = 3

Probabilities = NDArray[np.float32]  # [examples, classes]


def lost_examples(
    label_ids: NDArray[np.int64], of_float: Probabilities, of_variant: Probabilities, limit: int
) -> list[int]:
    """The examples that the float model gets right and a variant gets wrong.

    Args:
        label_ids: `[examples]`.
        of_float: `[examples, classes]`.
        of_variant: `[examples, classes]`.
        limit: how many to return at most.

    Returns:
        Their indices, the most confident mistakes first.
    """
    float_right = of_float.argmax(axis=1) == label_ids
    variant_wrong = of_variant.argmax(axis=1) != label_ids
    lost = np.flatnonzero(float_right & variant_wrong)
    order = np.argsort(-of_variant[lost].max(axis=1), kind="stable")
    return [int(i) for i in lost[order][:limit]]


def mistakes(label_ids: NDArray[np.int64], probabilities: Probabilities, limit: int) -> list[int]:
    """The examples that a model gets wrong.

    Args:
        label_ids: `[examples]`.
        probabilities: `[examples, classes]`.
        limit: how many to return at most.

    Returns:
        Their indices: the most confident mistake on each class, the most confident of all first,
        then the second on each, and so on. The first so many of all examples are among the first so
        many of each part of them.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != label_ids)
    wrong = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    by_class = np.argsort(label_ids[wrong], kind="stable")
    sorted_ids = label_ids[wrong][by_class]
    rank = np.empty(len(wrong), np.int64)  # among the mistakes on its class
    rank[by_class] = np.arange(len(wrong)) - np.searchsorted(sorted_ids, sorted_ids)
    return [int(i) for i in wrong[np.argsort(rank, kind="stable")][:limit]]


@dataclass(frozen=True)
class DeployedRelease:
    """The release that the fleet runs now, whose predictions are compared with.

    Attributes:
        tag: such as "v3".
        digest: of its index.
        variants: their names.
        default: the variant that a device takes when it isn't told which.
    """

    tag: str
    digest: str
    variants: tuple[str, ...]
    default: str

    def counterpart(self, variant: str) -> str:
        """Which of its variants a new variant replaces."""
        return variant if variant in self.variants else self.default


@dataclass(frozen=True)
class Neighbour:
    """A training image, as it is shown beside one like it.

    Attributes:
        source: path of its original file, relative to the dataset's root.
        image_id: SHA-256 of that, in hex.
        label: its class.
        picture: a small JPEG.
    """

    source: str
    image_id: str
    label: str
    picture: bytes


@dataclass(frozen=True)
class Predictions:
    """What the models said, `[examples]` long each.

    Attributes:
        image_ids: SHA-256 of each example's original file, in hex.
        label_ids: int64 `[examples]`, -1 for a label that is not among the model's.
        slices: by slice key, the value of each example.
        float_model: float32 `[examples, classes]`.
        variants: by variant, float32 `[examples, classes]`; those that gave a number each time.
        seconds: by variant, how long each of the first examples took, one after another.
        threads: that an example was timed with.
        errors: by variant, why it gave none.
        deployed: by variant of the deployed release, float32 `[examples, classes]`.
        deployed_release: which that is; None if there is none yet.
        thumbnails: small JPEG pictures by the example's index: the most confident mistakes of the
            float model, and of each variant those that the float model does not make.
        sources: path of each example's original file, relative to the dataset's root.
        images: by split, of all there are, how many examples each class has.
        nearest: by the index of an example that the float model gets wrong, the training images
            nearest to it, if the training kept features to find them by.
        statistics: of the images, see `edgeline.drift.image_statistics`; float32 `[examples, 3]`.
    """

    image_ids: tuple[str, ...]
    label_ids: NDArray[np.int64]
    slices: Mapping[str, NDArray[np.str_]]
    float_model: Probabilities
    variants: Mapping[str, Probabilities]
    seconds: Mapping[str, NDArray[np.float64]]
    threads: int = 1
    errors: Mapping[str, str] = field(default_factory=dict)
    deployed: Mapping[str, Probabilities] = field(default_factory=dict)
    deployed_release: DeployedRelease | None = None
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    images: Mapping[str, Sequence[int]] = field(default_factory=dict)
    nearest: Mapping[int, Sequence[Neighbour]] = field(default_factory=dict)
    statistics: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 3), np.float32))


class PredictionsWriter:
    """Writes a Predictions artifact, a piece at a time, so that it need not fit in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[dict[str, str]] = []
        self._neighbours: dict[str, dict[str, str]] = {}
        self._nearest: dict[str, Sequence[int]] = {}

    def examples(
        self,
        image_ids: Iterable[str],
        sources: Iterable[str],
        label_ids: NDArray[np.int64],
        slices: Mapping[str, Iterable[str]],
    ) -> None:
        """Writes what is known of the examples."""
        columns = {f"slice_{n}": _encoded(values) for n, values in enumerate(slices.values())}
        np.savez(
            self._folder / EXAMPLES_FILE,
            image_ids=_encoded(image_ids),
            sources=_encoded(sources),
            label_ids=label_ids,
            **columns,
        )

    def probabilities(self, kind: str, name: str, shape: tuple[int, int]) -> Probabilities:
        """Makes the file of one model's probabilities, to be filled through the returned map.

        Args:
            kind: "float", "variant" or "deployed".
            name: the model's among its kind.
            shape: examples and classes.
        """
        # Numbered: a deployed variant's name comes from a registry and makes no path.
        file = f"{len(self._files)}.npy"
        self._files.append({"kind": kind, "name": name, "file": file})
        mapped: Probabilities = np.lib.format.open_memmap(
            self._folder / file, mode="w+", dtype=np.float32, shape=shape
        )
        return mapped

    def statistics(self, values: NDArray[np.float32]) -> None:
        """Writes the statistics of the images, `[examples, 3]`."""
        np.save(self._folder / STATISTICS_FILE, values, allow_pickle=False)

    def thumbnail(self, index: int, jpeg: bytes) -> None:
        """Writes the small picture of one example."""
        folder = self._folder / THUMBNAILS_FOLDER
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.jpg").write_bytes(jpeg)

    def nearest(
        self,
        found: Mapping[int, Sequence[int]],
        described: Mapping[int, Neighbour],
    ) -> None:
        """Writes which training images are nearest to which examples, and what these are.

        Args:
            found: by example, rows of the train split.
            described: each of the rows, by its number.
        """
        folder = self._folder / NEAREST_FOLDER
        for row, neighbour in described.items():
            folder.mkdir(exist_ok=True)
            (folder / f"{row}.jpg").write_bytes(neighbour.picture)
            facts = {k: v for k, v in vars(neighbour).items() if k != "picture"}
            self._neighbours[str(row)] = facts
        self._nearest = {str(example): near for example, near in found.items()}

    def finish(
        self,
        slice_keys: Iterable[str],
        seconds: Mapping[str, NDArray[np.float64]],
        threads: int,
        errors: Mapping[str, str],
        release: DeployedRelease | None,
        images: Mapping[str, Sequence[int]],
    ) -> None:
        """Writes the table of what was written, which makes the artifact whole."""
        table = {
            "version": VERSION,
            "slice_keys": list(slice_keys),
            "models": self._files,
            "seconds": {name: values.tolist() for name, values in seconds.items()},
            "threads": threads,
            "errors": dict(errors),
            "deployed_release": asdict(release) if release else None,
            "images": {split: list(counts) for split, counts in images.items()},
            "neighbours": self._neighbours,
            "nearest": self._nearest,
        }
        (self._folder / PREDICTIONS_FILE).write_text(json.dumps(table, indent=2) + "\n")


def load_predictions(folder: Path) -> Predictions:
    """Reads a Predictions artifact; probabilities are mapped, and read where they are used.

    Raises:
        OSError: a file is missing.
        ValueError: it is not an artifact of this version.
    """
    table = json.loads((folder / PREDICTIONS_FILE).read_text())
    if table["version"] != VERSION:
        raise ValueError(f"expected predictions of version {VERSION}, got {table['version']!r}")
    with np.load(folder / EXAMPLES_FILE, allow_pickle=False) as examples:
        image_ids = tuple(_decoded(examples["image_ids"]).tolist())
        sources = tuple(_decoded(examples["sources"]).tolist())
        label_ids = examples["label_ids"]
        slices = {
            key: _decoded(examples[f"slice_{n}"]) for n, key in enumerate(table["slice_keys"])
        }
    by_kind: dict[str, dict[str, Probabilities]] = {"float": {}, "variant": {}, "deployed": {}}
    for row in table["models"]:
        mapped = np.load(folder / row["file"], mmap_mode="r", allow_pickle=False)
        by_kind[row["kind"]][row["name"]] = mapped
    return Predictions(
        image_ids=image_ids,
        label_ids=label_ids,
        slices=slices,
        float_model=by_kind["float"][FLOAT],
        variants=by_kind["variant"],
        seconds={name: np.array(values) for name, values in table["seconds"].items()},
        threads=table["threads"],
        errors=table["errors"],
        deployed=by_kind["deployed"],
        deployed_release=_release(table["deployed_release"]),
        sources=sources,
        statistics=np.load(folder / STATISTICS_FILE, allow_pickle=False),
        images=table["images"],
        nearest={
            int(example): [
                Neighbour(
                    **table["neighbours"][str(row)],
                    picture=(folder / NEAREST_FOLDER / f"{row}.jpg").read_bytes(),
                )
                for row in near
            ]
            for example, near in table["nearest"].items()
        },
        thumbnails={
            int(file.stem): file.read_bytes() for file in (folder / THUMBNAILS_FOLDER).glob("*.jpg")
        },
    )


def _release(row: Mapping[str, Any] | None) -> DeployedRelease | None:
    return None if row is None else DeployedRelease(**{**row, "variants": tuple(row["variants"])})


def _encoded(values: Iterable[str]) -> NDArray[np.bytes_]:
    # A quarter of what numpy's own strings take, and no pickle.
    return np.array([value.encode() for value in values], np.bytes_)


def _decoded(values: NDArray[np.bytes_]) -> NDArray[np.str_]:
    return np.char.decode(values, "utf-8")
