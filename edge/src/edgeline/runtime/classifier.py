"""Image classification with a verified release: the device's API.

with Classifier.from_registry("registry", "solar-cells", root="root.json") as classifier:
    prediction = classifier.predict("cell.png")
    print(prediction.label, prediction.probability)
"""

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeline.contract import MAX_BYTES, PreprocessingContract
from edgeline.errors import ContractError, ModelError, RegistryError
from edgeline.preprocessing import ImageSource, load_image, preprocess
from edgeline.registry.format import MAX_TUF_METADATA
from edgeline.registry.reader import RegistryReader, Release
from edgeline.registry.store import Connection, open_store
from edgeline.registry.trust import TrustedChannels, default_state
from edgeline.runtime.interpreter import PixelModel


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]  # in the order of `labels`

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities.max())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable labels with their probabilities, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


class Classifier:
    """A loaded model with the preprocessing and the labels that belong to it.

    Make one with `from_registry` or `from_file`. Any number of threads may share a classifier:
    images are decoded and resized in the calling threads, inferences take turns. For inferences
    side by side, give each thread a classifier of its own.

    Attributes:
        contract: How images are prepared.
        model: The model's name in the registry.
        version: The release's version, and `tag` the tag made from it.
        digest: The digest of the release's index.
        variant: Which of the release's variants this is.

    The last four are None for a model that comes from a plain file.

    Raises:
        ModelError: the bytes are not a TFLite model, or one that does not fit the contract.
    """

    def __init__(
        self,
        content: bytes,
        contract: PreprocessingContract,
        *,
        release: Release | None = None,
        variant: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.contract = contract
        self.model = release.model if release else None
        self.version = release.version if release else None
        self.tag = release.tag if release else None
        self.digest = release.digest if release else None
        self.variant = variant
        self._lock = threading.Lock()
        self._pixel_model: PixelModel | None = PixelModel(
            content,
            height=contract.height,
            width=contract.width,
            classes=len(contract.labels),
            num_threads=num_threads or _default_threads(),
        )

    @classmethod
    def from_registry(
        cls,
        registry: str | os.PathLike[str],
        model: str,
        channel: str = "production",
        *,
        root: str | os.PathLike[str] | bytes,
        state: str | os.PathLike[str] | None = None,
        connection: Connection | None = None,
        variant: str | None = None,
        num_threads: int | None = None,
    ) -> "Classifier":
        """Load the release that `channel` of `model` serves now, signed and verified.

        Args:
            registry: Path of a directory, or "oci://host[:port]/repository".
            model: Name of the model in the registry.
            channel: "production", "canary" or "candidate".
            root: The root to trust the registry by, or the path of its file: the root.json that
                `edgeline registry init` made. It has to come with the device or its software, not
                from the registry itself.
            state: Folder where it is remembered which signed metadata was seen, so that an older
                state of the registry is refused; by default one in the user's home directory.
            connection: How to reach a registry server; a directory needs none of it.
            variant: Which of the release's variants to load; by default the one with the smallest
                file. All of them passed the same evaluation.
            num_threads: Threads for one inference; by default one per core, at most 4.

        Raises:
            NotFoundError: there is no such registry, model, channel or variant.
            TrustError: the registry is not what the keys behind `root` signed, or has gone back to
                an older state. ExpiredError, a kind of it: what they signed is too old.
            IntegrityError: what is stored is not what was signed.
            UnreachableError: the registry does not answer in time.
            RegistryError: the root or the state cannot be read or written.
            ContractError: the release needs preprocessing that this edgeline does not know.
            ModelError: the model cannot be loaded.
        """
        trusted = root if isinstance(root, bytes) else _read_root(Path(root))
        store = open_store(os.fspath(registry), connection or Connection())
        folder = default_state(store.location, trusted) if state is None else Path(state)
        reader = RegistryReader(store)
        channels = TrustedChannels(store, root=trusted, state=folder)
        release = reader.open_channel(channels, model, channel)
        chosen = release.variant(variant)
        content = reader.read_model(chosen)
        return cls(
            content,
            release.contract,
            release=release,
            variant=chosen.name,
            num_threads=num_threads,
        )

    @classmethod
    def from_file(
        cls,
        model: str | os.PathLike[str],
        contract: PreprocessingContract | str | os.PathLike[str],
        *,
        num_threads: int | None = None,
    ) -> "Classifier":
        """Load a model file that is trusted as it is, outside of any registry.

        Args:
            model: Path of a TFLite file.
            contract: Its preprocessing contract, or the path of one in JSON.
            num_threads: Threads for one inference; by default one per core, at most 4.

        Raises:
            ContractError: the contract cannot be read or is malformed.
            ModelError: the model cannot be read, or does not fit the contract.
        """
        if not isinstance(contract, PreprocessingContract):
            contract = _read_contract(Path(contract))
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"Cannot read the model {model}: {error.strerror}") from None
        return cls(content, contract, num_threads=num_threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the model's probabilities."""
        return self.contract.labels

    def predict(self, image: ImageSource) -> Prediction:
        """Classify one image: a path, a file's bytes, a Pillow image or a uint8 array.

        Raises:
            ImageError: the image cannot be read.
            ModelError: the model fails on it, or the classifier is closed.
        """
        pixels = preprocess(self.contract, load_image(image))
        with self._lock:
            if self._pixel_model is None:
                raise ModelError("This classifier is closed; make a new one")
            probabilities = self._pixel_model(pixels)
        return Prediction(self.labels, probabilities)

    def predict_batch(self, images: Iterable[ImageSource]) -> Iterator[Prediction]:
        """Classify images one after the other, holding one in memory at a time.

        Raises:
            ImageError: the next image cannot be read, which ends the iteration. Call `predict` for
                each image to go on after one that is damaged.
            ModelError: the model fails on it, or the classifier is closed.
        """
        return map(self.predict, images)

    def close(self) -> None:
        """Free the model's memory. Closing twice does no harm."""
        with self._lock:
            self._pixel_model = None

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _default_threads() -> int:
    return min(4, os.cpu_count() or 1)


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TUF_METADATA + 1)
    except OSError as error:
        raise RegistryError(
            f"The trusted root {path} cannot be read: {error.strerror}. Expected the root.json "
            "that `edgeline registry init` made"
        ) from None


def _read_contract(path: Path) -> PreprocessingContract:
    try:
        with path.open("rb") as file:
            return PreprocessingContract.from_json(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ContractError(
            f"Cannot read the preprocessing contract {path}: {error.strerror}"
        ) from None
