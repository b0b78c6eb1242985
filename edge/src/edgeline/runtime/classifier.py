"""Image classification with a verified release: the device's API.

with Classifier.from_registry("registry", "solar-cells", root="root.json") as classifier:
    prediction = classifier.predict("cell.png")
    print(prediction.label, prediction.probability)
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from edgeline.contract import MAX_BYTES, PreprocessingContract
from edgeline.device.state import InstalledModel, LoadedModel, StateFolder
from edgeline.errors import (
    ContractError,
    EdgelineError,
    ImageError,
    IntegrityError,
    ModelError,
    NotFoundError,
    TrustError,
)
from edgeline.preprocessing import ImageSource, load_pixels
from edgeline.registry.home import default_state, read_root
from edgeline.registry.store import Connection
from edgeline.runtime.interpreter import PixelModel
from edgeline.runtime.threads import cores, default_threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgeline.device.update import Device

Update = Literal["try", "never", "require"]

_AHEAD = 4  # images per worker that a batch has read at most before they are asked for

_log = logging.getLogger(__name__)


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
    images are decoded and resized in the calling threads, and inferences take turns, each with
    `num_threads`. For inferences side by side, there is `predict_batch`.

    Attributes:
        contract: How images are prepared.
        model: The model's name in the registry.
        version: The release's version, and `tag` the tag made from it.
        digest: The digest of the release's index.
        variant: Which of the release's variants this is.

    The last five are None for a model that comes from a plain file.

    Raises:
        ModelError: the bytes are not a TFLite model, or one that does not fit the contract.
    """

    def __init__(
        self,
        content: bytes,
        contract: PreprocessingContract,
        *,
        installed: InstalledModel | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.contract = contract
        self.model = installed.model if installed else None
        self.version = installed.version if installed else None
        self.tag = installed.tag if installed else None
        self.digest = installed.digest if installed else None
        self.variant = installed.variant if installed else None
        self._content = content
        self._lock = threading.Lock()
        self._pixel_model: PixelModel | None = self._load(content, num_threads or default_threads())
        self._idle: list[PixelModel] = []  # of batches, one per worker

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
        update: Update = "try",
        num_threads: int | None = None,
    ) -> "Classifier":
        """Load the release that `channel` of `model` serves now, signed, verified and tried.

        It is installed in the state folder, with the one before, and loaded from there. When the
        registry cannot be reached or is not to be trusted, what was installed before is loaded, and
        a warning is logged.

        Args:
            registry: Path of a directory, or "oci://host[:port]/repository".
            model: Name of the model in the registry.
            channel: "production", "canary" or "candidate".
            root: The root to trust the registry by, or the path of its file: the root.json that
                `edgeline registry init` made. It has to come with the device or its software, not
                from the registry itself.
            state: The state folder, which also remembers which signed metadata was seen, so that an
                older state of the registry is refused; by default one in the user's home directory.
                All processes with one state folder serve one choice of variant.
            connection: How to reach a registry server; a directory needs none of it.
            variant: Which of the release's variants to run: a name, several with commas between
                them, best first, or "auto" for the first in its publisher's order that works here.
                Remembered; by default what was said last time, and "auto" at first. All of a
                release's variants passed the same evaluation.
            update: "try" goes on with the installed model when no update is to be had; "require"
                raises then; "never" only loads what is installed, and starts several times faster.
            num_threads: Threads for one inference; by default one per core, at most 4.

        Raises:
            NotFoundError: there is no such registry, model, channel or variant; or nothing is
                installed and `update` is "never".
            TrustError: the registry is not what the keys behind `root` signed, or has gone back to
                an older state. ExpiredError, a kind of it: what they signed is too old.
            IntegrityError: what is stored is not what was signed.
            UnreachableError: the registry does not answer in time.
            RegistryError: the root or the state cannot be read or written.
            RejectedError: the release failed its trial on this device.
            DeviceError: the state folder cannot be used, or there is not enough space or memory.
            ContractError: the release needs preprocessing that this edgeline does not know.
            ModelError: the model cannot be loaded.
        """
        if update not in ("try", "never", "require"):
            raise ValueError(f'update: expected "try", "never" or "require", got {update!r}')
        trusted = root if isinstance(root, bytes) else read_root(Path(root))
        location = os.fspath(registry)
        base = default_state(location, trusted) if state is None else Path(state)
        folder = StateFolder(base, model, channel, trusted)
        if update == "never":
            return cls._from_folder(folder, _wanted(variant), None, None, num_threads)

        from edgeline.device.update import Device, Limits

        # Who can go on with what is installed does not wait for another process that updates.
        hurried = update == "try" and folder.read().active is not None
        device = Device(
            location,
            model,
            channel,
            root=trusted,
            state=base,
            connection=connection,
            limits=Limits(lock_seconds=0.0) if hurried else Limits(),
            num_threads=num_threads,
        )
        failure = None
        try:
            device.update(_wanted(variant))
        except EdgelineError as error:
            if update == "require":
                raise
            failure = error
        return cls._from_folder(folder, _wanted(variant), device, failure, num_threads)

    @classmethod
    def from_installed(cls, loaded: LoadedModel, *, num_threads: int | None = None) -> "Classifier":
        """Load a model that a state folder has verified.

        Raises:
            ContractError: it needs preprocessing that this edgeline does not know.
            ModelError: it cannot be loaded.
        """
        contract = PreprocessingContract.from_json(loaded.contract)
        return cls(loaded.content, contract, installed=loaded.installed, num_threads=num_threads)

    @classmethod
    def from_file(
        cls,
        model: str | os.PathLike[str],
        contract: PreprocessingContract | str | os.PathLike[str] | None = None,
        *,
        num_threads: int | None = None,
    ) -> "Classifier":
        """Load a model file that is trusted as it is, outside of any registry.

        Args:
            model: Path of a TFLite file.
            contract: Its preprocessing contract, or the path of one in JSON; by default the one
                that the pipeline has packed into the file.
            num_threads: Threads for one inference; by default one per core, at most 4.

        Raises:
            ContractError: the contract cannot be read or is malformed, or the file has none.
            ModelError: the model cannot be read, or does not fit the contract.
        """
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"Cannot read the model {model}: {error.strerror}") from None
        if contract is None:
            from edgeline.runtime.packed import packed_contract

            contract = packed_contract(content, os.fspath(model))
        elif not isinstance(contract, PreprocessingContract):
            contract = _read_contract(Path(contract))
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
        return self.predict_pixels(self.prepare(image))

    def described(self, prediction: Prediction) -> dict[str, Any]:
        """Return a prediction for programs: every label's probability, and which model said so."""
        probabilities = prediction.probabilities.tolist()
        return {
            "label": prediction.label,
            "probability": prediction.probability,
            "probabilities": dict(zip(prediction.labels, probabilities, strict=True)),
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "variant": self.variant,
        }

    def prepare(self, image: ImageSource) -> NDArray[np.float32]:
        """Return what the model takes for an image: `[height, width, 3]`, from 0 to 1.

        Raises:
            ImageError: the image cannot be read.
        """
        return load_pixels(self.contract, image)

    def predict_pixels(self, pixels: NDArray[np.float32]) -> Prediction:
        """Classify what `prepare` returned.

        Raises:
            ModelError: the model fails on it, or the classifier is closed.
        """
        with self._lock:
            if self._pixel_model is None:
                raise _closed()
            probabilities = self._pixel_model(pixels)
        return Prediction(self.labels, probabilities)

    def predict_batch(
        self, images: Iterable[ImageSource], *, workers: int | None = None
    ) -> Iterator[Prediction | ImageError]:
        """Classify images side by side, on all cores, and yield what comes of each, in their order.

        An image that cannot be read gives its ImageError in the place of a prediction, and the
        others go on. A few images are in memory at a time, however many there are.

        Args:
            images: They are taken from the iterable as there is work to do. An array is
                `[images, height, width, channels]`.
            workers: How many images are worked on at a time, each with an interpreter of its own
                that runs in one thread; by default one per core.

        Raises:
            TypeError: `images` is a single one.
            ModelError: the model fails on an image, or the classifier is closed.
        """
        workers = workers or cores()
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        # The rows of a frame, and the characters of a path, would be taken for images.
        is_frame = isinstance(images, np.ndarray) and images.ndim < 4
        if is_frame or isinstance(images, str | bytes | os.PathLike | Image):
            raise TypeError(
                "predict_batch takes several images, and this is one: a list of them, or an array "
                "[images, height, width, channels]. For one image, there is predict"
            )
        return self._predict_batch(images, workers)

    def _predict_batch(
        self, images: Iterable[ImageSource], workers: int
    ) -> Iterator[Prediction | ImageError]:
        from concurrent.futures import ThreadPoolExecutor  # of no use to who predicts one image

        waiting: deque[Future[Prediction | ImageError]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="edgeline") as pool:
            try:
                for image in images:
                    waiting.append(pool.submit(self._predict_one, image))
                    if len(waiting) >= workers * _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # Whoever stops in the middle of a batch does not wait for the rest of it.
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Free the model's memory. Closing twice does no harm."""
        with self._lock:
            self._pixel_model = None
            self._idle.clear()
            self._content = b""

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def _from_folder(
        cls,
        folder: StateFolder,
        wanted: tuple[str, ...] | None,
        device: "Device | None",
        failure: EdgelineError | None,
        num_threads: int | None,
    ) -> "Classifier":
        """Load what is installed, and say what is in the way of something newer."""
        try:
            loaded = folder.load_active() if device is None else _load_or_repair(device)
        except (NotFoundError, TrustError) as error:
            raise failure or error from None
        variant, tag = loaded.installed.variant, loaded.installed.tag
        if wanted and variant not in wanted:
            raise failure or NotFoundError(
                f"The installed model is {tag} {variant}; expected {' or '.join(wanted)}. "
                "Get it with `edgeline pull --variant`"
            )
        if failure is not None:
            _log.warning("%s. %s goes on", str(failure).rstrip("."), tag)
        return cls.from_installed(loaded, num_threads=num_threads)

    def _predict_one(self, image: ImageSource) -> Prediction | ImageError:
        try:
            pixels = load_pixels(self.contract, image)
        except ImageError as error:
            return error
        with self._lock:
            if self._pixel_model is None:
                raise _closed()
            model = self._idle.pop() if self._idle else None
            content = self._content
        model = model or self._load(content, 1)
        try:
            return Prediction(self.labels, model(pixels))
        finally:
            with self._lock:
                if self._pixel_model is not None:
                    self._idle.append(model)

    def _load(self, content: bytes, num_threads: int) -> PixelModel:
        return PixelModel(
            content,
            height=self.contract.height,
            width=self.contract.width,
            classes=len(self.contract.labels),
            num_threads=num_threads,
        )


def _load_or_repair(device: "Device") -> LoadedModel:
    try:
        return device.folder.load_active(fall_back=False)
    except IntegrityError as error:
        _log.warning("%s", str(error))
    try:
        device.repair()
        device.update()
    except EdgelineError as error:
        _log.warning("%s", str(error))
    return device.folder.load_active()


def _wanted(variant: str | None) -> tuple[str, ...] | None:
    """Return a preference of variants; None when nothing is said."""
    if variant is None:
        return None
    from edgeline.device.selection import parse_preference

    return parse_preference(variant)


def _closed() -> ModelError:
    return ModelError("This classifier is closed; make a new one")


def _read_contract(path: Path) -> PreprocessingContract:
    try:
        with path.open("rb") as file:
            return PreprocessingContract.from_json(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ContractError(
            f"Cannot read the preprocessing contract {path}: {error.strerror}"
        ) from None
