"""Predicts every example of a split with every model, in Beam, and writes a Predictions artifact.

The split's records are found first, by their lengths. Beam's workers then predict units of a few
hundred examples; each opens the models once, and leaves a file a unit in a folder that all of them
reach. In the end the units are put together, model by model, through memory maps: so memory does
not grow with the number of examples, and the outcome is the same on one machine and on an engine,
bit for bit. Latency is measured last, alone on this machine.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray
from PIL import Image

from components.feature_names import IMAGE
from components.predictions import (
    FLOAT,
    MISTAKES,
    THUMBNAILS,
    Neighbour,
    PredictionsWriter,
    Probabilities,
    lost_examples,
    mistakes,
)
from components.records import next_record, open_records
from components.tf_example import parse_example
from components.tflite_models import TFLiteModelsFolder
from components.tflite_predictor.baseline import Baseline
from components.tflite_predictor.example_index import (
    ExampleIndex,
    Unit,
    index_examples,
)
from components.tflite_predictor.models import BATCH, THREADS, Models, Sources, TFLiteFile
from components.tflite_predictor.neighbours import look_through, nearest_rows
from components.timing import time_in_turns
from edgeline.errors import ModelError
from edgeline.preprocessing import load_image, preprocess

UNIT_EXAMPLES = 16 * BATCH  # so that no batch is cut, but at the end of a file
TIMED_IMAGES = 128
TRAIN = "train"  # the split whose images stand beside mistakes
THUMBNAIL_SIDE = 96  # pixels
PROGRESS_SECONDS = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictorInputs:
    """What is predicted, and with what.

    Attributes:
        files: TFRecords of raw examples, by split.
        split: that is predicted.
        saved_model: the float model.
        kept_features: file of features of training images; it may be missing.
        models: the variants.
        baseline: the deployed release; None if there is none yet.
    """

    files: Mapping[str, Sequence[str]]
    split: str
    saved_model: str
    kept_features: Path
    models: TFLiteModelsFolder
    baseline: Baseline | None


def predict(
    inputs: PredictorInputs,
    slice_keys: Sequence[str],
    make_pipeline: Callable[[], beam.Pipeline],
    output: Path,
) -> None:
    """Writes the content of a Predictions artifact.

    Args:
        inputs: examples and models.
        slice_keys: raw features to pass on.
        make_pipeline: makes the Beam pipeline that predicts.
        output: the artifact's folder, which every worker reaches.

    Raises:
        ValueError: a file of examples is damaged.
    """
    contract = inputs.models.contract
    index = index_examples(inputs.files[inputs.split], contract.labels, slice_keys)
    writer = PredictionsWriter(output)
    writer.examples(index.image_ids, index.sources, index.label_ids, index.slices)
    with tempfile.TemporaryDirectory(dir=output, prefix="units-") as scratch:
        sources = _sources(inputs, Path(scratch))
        units = list(index.units(UNIT_EXAMPLES))
        with make_pipeline() as pipeline:
            _ = (
                pipeline
                | "Units" >> beam.Create(units, reshuffle=False)
                | "Distribute" >> beam.Reshuffle()
                | "Predict" >> beam.ParDo(_PredictUnit(sources, scratch, len(index.offsets)))
            )
        errors = _errors(sources, units, Path(scratch))
        said = _put_together(sources, units, Path(scratch), writer, errors, len(contract.labels))
        wrong = mistakes(index.label_ids, said[FLOAT], MISTAKES)
        writer.statistics(_statistics(units, Path(scratch)))
        found = nearest_rows(inputs.kept_features, _features(wrong, units, Path(scratch)))
        seconds = _latencies(index, sources, errors)
    rows = {row for near in found.values() for row in near}
    images, described = _looked_through(inputs, index, rows)
    writer.nearest(found, described)
    for example, jpeg in _thumbnails(index, said):
        writer.thumbnail(example, jpeg)
    writer.finish(
        slice_keys,
        seconds,
        THREADS,
        {file.name: error for file, error in errors.items() if file.kind == "variant"},
        inputs.baseline.release if inputs.baseline else None,
        images,
    )


def _looked_through(
    inputs: PredictorInputs, index: ExampleIndex, rows: Collection[int]
) -> tuple[dict[str, list[int]], dict[int, Neighbour]]:
    """How many examples of each class a split has, by split; and what is known of training images.

    A split is read once: of the one that is predicted, the index tells.
    """
    labels = inputs.models.contract.labels
    images = {inputs.split: index.count_labels(len(labels))}
    described: dict[int, Neighbour] = {}
    for split, files in inputs.files.items():
        wanted = rows if split == TRAIN else ()
        if wanted or split not in images:
            images[split], found = look_through(files, labels, wanted, _picture)
            described |= found
    return {split: images[split] for split in inputs.files}, described


def _sources(inputs: PredictorInputs, scratch: Path) -> Sources:
    """The models as files; those of the deployed release are written for the workers to read."""
    contract = inputs.models.contract
    files = [
        TFLiteFile(
            "variant",
            model.variant,
            str(inputs.models.path(model)),
            contract,
            tuple(range(len(contract.labels))),
        )
        for model in inputs.models.models
        if model.error is None
    ]
    if baseline := inputs.baseline:
        columns = tuple(baseline.columns(contract.labels))
        for number, (name, content) in enumerate(baseline.models.items()):
            path = scratch / f"deployed-{number}.tflite"
            path.write_bytes(content)
            files.append(TFLiteFile("deployed", name, str(path), baseline.contract, columns))
    return Sources(inputs.saved_model, tuple(files), len(contract.labels))


class _PredictUnit(beam.DoFn):
    """Predicts a unit and writes it to the file of its number."""

    def __init__(self, sources: Sources, folder: str, examples: int) -> None:
        self._sources = sources
        self._folder = folder
        self._examples = examples
        self._shared = Shared()

    def setup(self) -> None:
        # Once a process, however many threads it works with.
        self._models = self._shared.acquire(lambda: Models(self._sources))
        self._logged = time.monotonic()

    def process(self, unit: Unit) -> None:
        said = self._models.predict(_records(unit), unit.examples)
        file = _unit_file(Path(self._folder), unit)
        # A unit that is tried again replaces what it left; it is never seen half written.
        part = file.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
        with part.open("wb") as opened:
            np.savez(
                opened,
                said=said.probabilities,
                errors=np.array(said.errors, np.str_),
                wrong=unit.first + said.wrong,
                features=said.features,
                statistics=said.statistics,
            )
        part.replace(file)
        if time.monotonic() - self._logged > PROGRESS_SECONDS:
            self._logged = time.monotonic()
            done = unit.first + unit.examples
            _LOG.info("%d of %d images predicted by every model", done, self._examples)


def _records(unit: Unit) -> Iterator[bytes]:
    with open_records(unit.file) as opened:
        opened.seek(unit.offset)
        for _ in range(unit.examples):
            yield next_record(opened, unit.file)


def _unit_file(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.number}.npz"


def _errors(sources: Sources, units: Sequence[Unit], folder: Path) -> dict[TFLiteFile, str]:
    """The first error of each file that has one."""
    found: dict[TFLiteFile, str] = {}
    for unit in units:
        with np.load(_unit_file(folder, unit), allow_pickle=False) as part:
            for file, error in zip(sources.files, part["errors"].tolist(), strict=True):
                if error:
                    found.setdefault(file, error)
    return found


def _features(
    wanted: Collection[int], units: Sequence[Unit], folder: Path
) -> dict[int, NDArray[np.float32]]:
    """What the float model's base made of some of its mistakes, by the index of the example."""
    found: dict[int, NDArray[np.float32]] = {}
    for unit in units:
        with np.load(_unit_file(folder, unit), allow_pickle=False) as part:
            found |= dict(zip(part["wrong"].tolist(), part["features"], strict=True))
    return {index: found[index] for index in wanted}


def _statistics(units: Sequence[Unit], folder: Path) -> NDArray[np.float32]:
    """The statistics of all images, `[examples, 3]`, in their order."""
    parts: list[NDArray[np.float32]] = []
    for unit in sorted(units, key=lambda unit: unit.first):
        with np.load(_unit_file(folder, unit), allow_pickle=False) as part:
            parts.append(part["statistics"])
    return np.concatenate(parts)


def _put_together(
    sources: Sources,
    units: Sequence[Unit],
    folder: Path,
    writer: PredictionsWriter,
    errors: dict[TFLiteFile, str],
    classes: int,
) -> dict[str, Probabilities]:
    """Writes the probabilities of each model without an error; returns all but the deployed's."""
    shape = (sum(unit.examples for unit in units), classes)
    kinds = [(FLOAT, FLOAT), *((file.kind, file.name) for file in sources.files)]
    failed = [False, *(file in errors for file in sources.files)]
    maps = {
        number: writer.probabilities(kind, name, shape)
        for number, (kind, name) in enumerate(kinds)
        if not failed[number]
    }
    for unit in units:
        with np.load(_unit_file(folder, unit), allow_pickle=False) as part:
            said = part["said"]
        for number, mapped in maps.items():
            mapped[unit.first : unit.first + unit.examples] = said[number]
    return {
        kinds[number][1]: mapped
        for number, mapped in maps.items()
        if kinds[number][0] != "deployed"
    }


def _latencies(
    index: ExampleIndex, sources: Sources, errors: dict[TFLiteFile, str]
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each of the first images, made pixels of as on a device, by variant."""
    files = [file for file in sources.files if file.kind == "variant" and file not in errors]
    if not files:
        return {}
    numbers = range(min(TIMED_IMAGES, len(index.offsets)))
    images = (load_image(_image(index.record(number))) for number in numbers)
    pixels = [preprocess(files[0].contract, image) for image in images]
    models, failed = {}, {}
    for file in files:
        try:
            models[file.name] = file.open(THREADS)
        except ModelError as error:
            failed[file.name] = str(error)
    seconds = time_in_turns(models, pixels, failed)
    errors |= {file: failed[file.name] for file in files if file.name in failed}
    return seconds


def _thumbnails(index: ExampleIndex, said: dict[str, Probabilities]) -> Iterator[tuple[int, bytes]]:
    """Small pictures of the float model's mistakes, and of those that only a variant makes."""
    wanted = set(mistakes(index.label_ids, said[FLOAT], MISTAKES))
    for name, of_variant in said.items():
        if name != FLOAT:
            wanted.update(lost_examples(index.label_ids, said[FLOAT], of_variant, THUMBNAILS))
    for example in sorted(wanted):
        yield example, _picture(index.record(example))


def _picture(record: bytes) -> bytes:
    """A small JPEG of an example."""
    picture = Image.open(io.BytesIO(_image(record)))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def _image(record: bytes) -> bytes:
    """The encoded image of an example."""
    image: bytes = parse_example(record)[IMAGE].values[0]
    return image
