"""The models that predict, as a worker holds them: loaded once, used for every unit of examples.

A TFLite file runs as on a device: one image at a time, through the device package's own wrapper of
the interpreter (XNNPACK on, integer inputs rounded and clipped, names checked). TFMA's extractor
for TFLite does none of the three, which is why TFMA makes no predictions here. Images are shared
out to as many interpreters as there are cores, which is fastest; the probabilities are those of one
interpreter, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.feature_names import IMAGE, LABEL_ID
from components.predictions import MISTAKES, Probabilities, mistakes
from components.saved_transform import signature, transformed
from edgeline.contract import PreprocessingContract
from edgeline.drift import image_statistics
from edgeline.errors import ModelError
from edgeline.preprocessing import load_image, preprocess
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import cores

BATCH = 32  # images
THREADS = cores()  # of one timed prediction
WORKERS = min(THREADS, 8)  # interpreters of one file, each with a copy of its weights

Pixels = NDArray[np.float32]  # [images, height, width, 3]


@dataclass(frozen=True)
class TFLiteFile:
    """A TFLite file and how to use it.

    Attributes:
        kind: "variant" of this run, or "deployed".
        name: the variant's.
        path: of the file, the same for every worker.
        contract: that it was made for.
        columns: where its output has each label.
    """

    kind: str
    name: str
    path: str
    contract: PreprocessingContract
    columns: tuple[int, ...]

    def open(self, num_threads: int) -> PixelModel:
        """Loads the model, and predicts once: that packs weights, which no later image pays for.

        Raises:
            ModelError: it can't be loaded, or gives no numbers.
        """
        height, width = self.contract.height, self.contract.width
        model = PixelModel(
            Path(self.path).read_bytes(),
            height=height,
            width=width,
            classes=len(self.contract.labels),
            num_threads=num_threads,
        )
        model(np.zeros((height, width, 3), np.float32))
        return model


@dataclass(frozen=True)
class Sources:
    """What the models are loaded from.

    Attributes:
        saved_model: folder of the float model; its signatures `features` and `transform_features`
            are used.
        files: the variants, and those of the deployed release.
        classes: how many.
    """

    saved_model: str
    files: tuple[TFLiteFile, ...]
    classes: int


@dataclass(frozen=True)
class Said:
    """What models said of some examples.

    Attributes:
        probabilities: float32 `[models, examples, classes]`.
        errors: by file the reason why its probabilities are NaN, or an empty text.
        wrong: of the float model's mistakes among them, those that a report may show, int64
            `[mistakes]`.
        features: that the float model's base made of these, float32 `[mistakes, channels]`.
        statistics: of the images; see `edgeline.drift.image_statistics`; float32 `[examples, 3]`.
    """

    probabilities: Probabilities
    errors: list[str]
    wrong: NDArray[np.int64]
    features: NDArray[np.float32]
    statistics: NDArray[np.float32]


class Models:
    """Every model of a run, loaded. Safe to use from several threads."""

    def __init__(self, sources: Sources) -> None:
        self._classes = sources.classes
        self._loaded = tf.saved_model.load(sources.saved_model)
        self._features = signature(self._loaded, "features")
        self._runners = [Runner(file) for file in sources.files]
        # A deployed release preprocesses the encoded images by its own contract.
        self._raw = any(file.kind == "deployed" for file in sources.files)

    def predict(self, records: Iterable[bytes], examples: int) -> Said:
        """Predicts serialized raw examples with every model.

        Args:
            records: the examples.
            examples: how many there are.

        Returns:
            Of the float model first and then of the files in their order.
        """
        said = np.full((1 + len(self._runners), examples, self._classes), np.nan, np.float32)
        errors = ["" for _ in self._runners]
        features: list[NDArray[np.float32]] = []
        label_ids: list[NDArray[np.int64]] = []
        statistics: list[tuple[float, float, float]] = []
        first = 0
        for batch in transformed(self._loaded, _dataset(records), BATCH, with_images=self._raw):
            pixels = batch["pixels"]
            rows = slice(first, first + len(pixels))
            first += len(pixels)
            answer = self._features(pixels=pixels)
            said[0, rows] = answer["probabilities"].numpy()
            features.append(answer["features"].numpy())
            label_ids.append(batch[LABEL_ID].numpy())
            statistics += map(image_statistics, pixels.numpy())
            images = batch[IMAGE].numpy() if self._raw else ()
            for number, runner in enumerate(self._runners):
                if not errors[number]:
                    try:
                        said[1 + number, rows] = runner.predict(pixels.numpy(), images)
                    except ModelError as error:
                        errors[number] = str(error)
        wrong = mistakes(np.concatenate(label_ids), said[0], MISTAKES)
        return Said(
            said,
            errors,
            np.array(wrong, np.int64),
            np.concatenate(features)[wrong],
            np.array(statistics, np.float32),
        )


class Runner:
    """The interpreters of one file."""

    def __init__(self, file: TFLiteFile) -> None:
        self._file = file
        self._error = ""
        self._idle: SimpleQueue[PixelModel] = SimpleQueue()
        try:
            for _ in range(WORKERS):
                self._idle.put(file.open(num_threads=1))
        except ModelError as error:
            self._error = str(error)

    def predict(self, pixels: Pixels, images: Sequence[bytes] = ()) -> Probabilities:
        """Predicts a batch, `[images, labels]`.

        Args:
            pixels: by this run's preprocessing.
            images: encoded; for a deployed release only.

        Raises:
            ModelError: the model gives no number.
        """
        if self._error:
            raise ModelError(self._error)
        if self._file.kind == "deployed":
            contract = self._file.contract
            pixels = np.stack([preprocess(contract, load_image(image)) for image in images])
        with ThreadPoolExecutor(WORKERS) as pool:
            said = np.stack(list(pool.map(self._one, pixels)))
        return said[:, self._file.columns]

    def _one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        # The interpreter releases Python's lock while it works.
        model = self._idle.get()
        try:
            return model(image)
        finally:
            self._idle.put(model)


def _dataset(records: Iterable[bytes]) -> tf.data.Dataset:
    def read() -> Iterator[bytes]:
        yield from records

    return tf.data.Dataset.from_generator(read, output_signature=tf.TensorSpec((), tf.string))
