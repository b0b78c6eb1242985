"""Golden pairs: images, and what a model file said of them where it was published.

    golden = make(content, contract)                    # the publisher
    check(pixel_model, contract, golden)                # the device, before it serves a new release

A device whose interpreter, processor or decoder computes something else than was measured finds out
before anybody relies on it. The images are noise made from fixed seeds, so that no picture of the
data set leaves with a release; they are of another size and shape than the model's input, so that
resizing is checked too.

How far a correct device may be off is measured, not guessed. XNNPACK and TFLite's own kernels are
two implementations of the same operations, and differ by rounding: by 1e-6 for a float model, by
much more where an integer model's rounding errors add up through many layers. Only images on which
the two agree are kept, and the tolerance is twice their largest disagreement on those. It is at
least 0.01, unless the model is so undecided that this would let pass anything. Of the images that
remain, those are kept on which the model's answers differ most from each other: a model that says
the same of everything proves nothing. Where the two agree on no image, there is no pair, and no
release.
"""

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeline._json import dump_canonical, parse_object
from edgeline._records import Base64, document_of, read
from edgeline.contract import PreprocessingContract
from edgeline.errors import ImageError, ModelError
from edgeline.preprocessing import load_image, preprocess, resize_bilinear
from edgeline.runtime.interpreter import PixelModel

MAX_CASES = 16
MAX_IMAGE_BYTES = 1 << 20
MAX_IMAGE_SIDE = 1024  # px
MIN_TOLERANCE = 0.01
MAX_TOLERANCE = 0.04

_VERSION = 1
_CASES = 4  # of a golden pair that is made here
_CANDIDATES = 16  # among which they are chosen
_HEIGHT, _WIDTH = 72, 96  # px
_OCTAVES = ((3, 0.6), (12, 0.3), (48, 0.1))  # of the noise: cells along the height, weight
_CONTRAST = 1.6
_AGREED = (
    MAX_TOLERANCE / 2
)  # difference of a probability within which the two implementations agree
_DECIMALS = 6


@dataclass(frozen=True)
class GoldenCase:
    """One image, and the probabilities to expect for it."""

    image: Base64  # PNG
    probabilities: tuple[float, ...]  # in the order of the contract's labels


@dataclass(frozen=True)
class Golden:
    """What a model file must say of some images.

    Raises:
        ModelError: a field holds a value this version does not allow.
    """

    tolerance: float  # of each probability, absolute
    cases: tuple[GoldenCase, ...]

    def __post_init__(self) -> None:
        if not _is_probability(self.tolerance) or not 0 < self.tolerance <= MAX_TOLERANCE:
            raise _malformed(
                f"expected a tolerance above 0 and at most {MAX_TOLERANCE}, got {self.tolerance!r}"
            )
        if not 1 <= len(self.cases) <= MAX_CASES:
            raise _malformed(f"expected 1 to {MAX_CASES} cases, got {len(self.cases)}")
        for case in self.cases:
            _check_image(case.image)
            if not case.probabilities or not all(map(_is_probability, case.probabilities)):
                raise _malformed("expected probabilities from 0 to 1")
        if self.tolerance >= _decision(case.probabilities for case in self.cases):
            raise _malformed("it would let pass a model that finds all labels equally probable")

    def to_json(self) -> bytes:
        """Return the golden pair as JSON; equal ones give equal bytes."""
        return dump_canonical({"version": _VERSION, **document_of(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "Golden":
        """Read a golden pair from untrusted bytes.

        Raises:
            ModelError: the bytes are not a golden pair that this edgeline knows.
        """
        try:
            document = parse_object(data)
            version = document.pop("version", None)
            if type(version) is not int or version != _VERSION:
                raise ValueError(f"it has version {version!r}, and this edgeline reads {_VERSION}")
            return read(cls, document)
        except ValueError as error:
            raise _malformed(str(error)) from None


def make(content: bytes, contract: PreprocessingContract) -> Golden:
    """Make the golden pair of a TFLite model; the same on every run of one machine.

    Args:
        content: The model file's bytes.
        contract: By which it preprocesses.

    Raises:
        ModelError: the model cannot be run, or does not fit the contract; or it computes something
            else with each implementation, or finds all labels equally probable.
    """
    images = [_noise(seed) for seed in range(_CANDIDATES)]
    pixels = [preprocess(contract, image) for image in images]
    said = _answers(content, contract, pixels, xnnpack=True)
    disagreement = np.abs(said - _answers(content, contract, pixels, xnnpack=False)).max(axis=1)
    if disagreement.min() > _AGREED:
        raise ModelError(
            "No device could be told from a faulty one: XNNPACK and TFLite's own kernels differ by "
            f"{disagreement.min():.3f} or more in a probability of every golden image, expected at "
            f"most {_AGREED}. Leave this variant out"
        )
    chosen = _choose(said, disagreement)
    cases = tuple(GoldenCase(_png(images[i]), _rounded(said[i])) for i in chosen)
    least = min(MIN_TOLERANCE, _decision(case.probabilities for case in cases) / 2)
    tolerance = max(least, 2 * float(disagreement[chosen].max()))
    return Golden(min(MAX_TOLERANCE, math.ceil(tolerance * 1e6) / 1e6), cases)


def check(model: PixelModel, contract: PreprocessingContract, golden: Golden) -> None:
    """Run the golden images, and return if the model says of them what it should.

    Raises:
        ModelError: it says something else, or cannot be run.
    """
    for number, case in enumerate(golden.cases, start=1):
        if len(case.probabilities) != len(contract.labels):
            raise _malformed(
                f"expected {len(contract.labels)} probabilities, one a label, got "
                f"{len(case.probabilities)}"
            )
        try:
            said = model(preprocess(contract, load_image(case.image)))
        except ImageError as error:
            raise _malformed(f"image {number}: {error}") from error
        differences = np.abs(said - np.asarray(case.probabilities, np.float32))
        worst = int(differences.argmax())
        if differences[worst] > golden.tolerance:
            raise ModelError(
                f"The model computes something else here than where it was published: of golden "
                f"image {number} it says {contract.labels[worst]!r} with a probability of "
                f"{said[worst]:.4f}, expected {case.probabilities[worst]:.4f} within "
                f"{golden.tolerance:g}. The file is intact, so suspect this device's interpreter: "
                "update ai-edge-litert, or choose another variant"
            )


def _noise(seed: int) -> NDArray[np.uint8]:
    """Return a smooth image of large, middling and small blotches in random colours."""
    generator = np.random.default_rng(seed)
    image = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
    for cells, weight in _OCTAVES:
        coarse = generator.integers(0, 256, (cells, cells * _WIDTH // _HEIGHT, 3))
        image += np.float32(weight) * resize_bilinear(coarse, _HEIGHT, _WIDTH)
    contrasted = (image - np.float32(127.5)) * np.float32(_CONTRAST) + np.float32(127.5)
    return np.clip(np.round(contrasted), 0, 255).astype(np.uint8)


def _answers(
    content: bytes,
    contract: PreprocessingContract,
    pixels: Sequence[NDArray[np.float32]],
    *,
    xnnpack: bool,
) -> NDArray[np.float32]:
    model = PixelModel(
        content,
        height=contract.height,
        width=contract.width,
        classes=len(contract.labels),
        num_threads=1,
        xnnpack=xnnpack,
    )
    return np.stack([model(each) for each in pixels])


def _choose(said: NDArray[np.float32], disagreement: NDArray[np.float32]) -> list[int]:
    """Return which images to keep: calm ones, then as far from each other as can be."""
    calm = np.argsort(disagreement, kind="stable")
    usable = calm[: int((disagreement <= _AGREED).sum())]
    chosen = [int(usable[0])]
    while len(chosen) < min(_CASES, len(usable)):
        distances = np.abs(said[usable][:, None] - said[chosen][None]).max(axis=2).min(axis=1)
        distances[np.isin(usable, chosen)] = -1
        chosen.append(int(usable[int(distances.argmax())]))
    return chosen


def _decision(answers: Iterable[Sequence[float]]) -> float:
    """Return how far probabilities are from even ones, at most: what tells a model from none."""
    return max(abs(p - 1 / len(answer)) for answer in answers for p in answer)


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _rounded(probabilities: NDArray[np.float32]) -> tuple[float, ...]:
    # An integer model's grid may end a little outside of 0 to 1.
    return tuple(round(min(1.0, max(0.0, float(p))), _DECIMALS) for p in probabilities)


def _check_image(image: bytes) -> None:
    """Check format and size by the header alone, before anything is unpacked."""
    try:
        size = Image.open(io.BytesIO(image), formats=["PNG"]).size
    except Exception as error:
        # On hostile bytes Pillow raises nearly anything; each means that this is no image.
        raise _malformed("an image is no PNG, or a huge one") from error
    if len(image) > MAX_IMAGE_BYTES or max(size) > MAX_IMAGE_SIDE:
        raise _malformed(
            f"expected images of at most {MAX_IMAGE_BYTES} bytes and {MAX_IMAGE_SIDE} pixels a "
            f"side, got {len(image)} bytes and {size[0]} x {size[1]}"
        )


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _malformed(problem: str) -> ModelError:
    return ModelError(f"The golden pair is malformed: {problem}")
