"""A hard example on its way home: an image that a model was unsure of, signed and sealed.

    data = seal_example(example, enrolment, signer, owner)            # on the device
    example = open_example(data, opener, fleet, at=now)               # at the owner's

It is signed by the enrolled device, as what comes home may be trained on, and then sealed to the
owner's key. The image is a PNG of pixels: no metadata of the camera's file is in it.
"""

import hashlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from securesystemslib.signer import Signer

from edgeline._records import Base64, document_of, number, share
from edgeline.contract import MAX_LABEL_LENGTH
from edgeline.errors import IntegrityError
from edgeline.preprocessing import load_image
from edgeline.registry.format import Digest, ModelName
from edgeline.telemetry.report import FORMAT, DeviceId, Fleet, Kind
from edgeline.telemetry.sealing import Opener, seal_to

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

EXAMPLE_TYPE = "application/vnd.edgeline.example.v1+json"
MAX_SIDE = 1024  # px, of an image
MAX_EXAMPLE = 12 << 20  # bytes, sealed: a PNG of noise, in base64 twice

_END_OF_TIME = 253_402_300_799.0  # the end of the year 9999, in seconds since 1970


def _label(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LABEL_LENGTH:
        raise ValueError("expected a label")
    return value


def _time(value: object) -> float:
    return number(value, _END_OF_TIME)


@dataclass(frozen=True)
class Guess:
    """What a model said of an image."""

    label: Annotated[str, _label]
    probability: Annotated[float, share]
    margin: Annotated[float, share]  # to the probability of the second label
    digest: Digest  # of the release's index
    shadow: Annotated[str, _label] | None = None  # of the model in the shadow, if another one
    time: Annotated[float, _time] = 0.0  # seconds since 1970, by the device's clock


@dataclass(frozen=True)
class Example:
    """An image, and what the model said of it."""

    device: DeviceId
    model: ModelName
    guess: Guess
    image: Base64  # PNG

    def to_json(self) -> dict[str, Any]:
        """Return what is signed."""
        return {"format": FORMAT, **document_of(self)}

    def pixels(self) -> NDArray[np.uint8]:
        """Decode the image, `[height, width, 3]`.

        Raises:
            IntegrityError: it is no PNG, or larger than devices send.
        """
        try:
            # By the header alone, before anything is unpacked.
            if max(Image.open(io.BytesIO(self.image), formats=["PNG"]).size) <= MAX_SIDE:
                return load_image(self.image)
        except Exception as error:
            # On hostile bytes Pillow raises nearly anything; each means that this is no image.
            raise IntegrityError("An example's image cannot be read") from error
        raise IntegrityError(f"An example's image has more than {MAX_SIDE} pixels a side")


# A device's id and the SHA-256 of what was sealed, in part: the image's would tell which it is.
EXAMPLES = Kind(
    "example",
    "An example",
    Example,
    EXAMPLE_TYPE,
    ".example",
    MAX_EXAMPLE,
    re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}"),
)


def seal_example(
    example: Example, enrolment: bytes, signer: Signer, owner: "X25519PublicKey"
) -> bytes:
    """Return an example with the device's signature and enrolment, for nobody but the owner.

    Raises:
        RegistryError: the key cannot be used, or `cryptography` is too old.
    """
    return seal_to(owner, EXAMPLES.seal(example, enrolment, signer))


def name_of(device: str, sealed: bytes) -> str:
    """Return the name of a sealed example at a place."""
    return f"{device}-{hashlib.sha256(sealed).hexdigest()[:32]}"


def open_example(data: bytes, opener: Opener, fleet: Fleet, *, at: float) -> Example:
    """Open an example that comes from anywhere, by the time `at` in seconds since 1970.

    Raises:
        IntegrityError: it is no example.
        TrustError: it was sealed to another key, or is not by a device of the fleet.
    """
    return EXAMPLES.open(opener.open(EXAMPLES.checked_size(data)), fleet, at=at)
