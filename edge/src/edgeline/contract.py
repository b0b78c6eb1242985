"""The preprocessing contract: how an image becomes the numbers a model was trained on.

The pipeline writes one from its configuration and stores it with every release. The device reads it
and does what it says, so height, width and labels are never typed in twice.
"""

from dataclasses import asdict, dataclass, fields

from edgeline._json import dump_canonical, parse_object
from edgeline._text import quoted
from edgeline.errors import ContractError

MAX_BYTES = 1 << 20
MAX_SIDE = 4096  # px, of the model's input
MAX_IMAGE_SIDE = 1 << 16  # px, of an image
MAX_LABELS = 10_000
MAX_LABEL_LENGTH = 200  # characters

_VERSION = 1


@dataclass(frozen=True)
class PreprocessingContract:
    """Everything a client needs to reproduce the model's input and to name its outputs.

    `resize="bilinear"` means half-pixel centres and no antialiasing, the default of
    `tf.image.resize`. Version 1 of the contract knows a single value for each field that has a
    default; they are written down so that a client in another language need not guess.

    Raises:
        ContractError: a field holds a value this version does not allow.
    """

    height: int  # px
    width: int  # px
    max_side: int  # px; an image with a longer side is first scaled down to it (Lanczos)
    labels: tuple[str, ...]  # in the order of the model's outputs
    color: str = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    resize: str = "bilinear"
    exif_orientation: str = "apply"

    def __post_init__(self) -> None:
        _check_side("height", self.height)
        _check_side("width", self.width)
        _check_side("max_side", self.max_side, MAX_IMAGE_SIDE)
        _check_labels(self.labels)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _FIXED and value != field.default:
                only = f"{field.default!r}, the only value of version {_VERSION}"
                raise _wrong(field.name, only, value)

    def to_json(self) -> bytes:
        """Return the contract as JSON; equal contracts give equal bytes."""
        return dump_canonical({"version": _VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "PreprocessingContract":
        """Read a contract from untrusted bytes.

        Raises:
            ContractError: the bytes are not a contract that this edgeline can honour.
        """
        if len(data) > MAX_BYTES:
            raise ContractError(
                f"The preprocessing contract has {len(data)} bytes; at most {MAX_BYTES} are allowed"
            )
        try:
            document = parse_object(data)
        except ValueError as error:
            raise ContractError(f"The preprocessing contract is not valid JSON: {error}") from None
        version = document.pop("version", None)
        if type(version) is not int or version != _VERSION:
            raise ContractError(
                f"The preprocessing contract has version {version!r}, and this edgeline reads "
                f"version {_VERSION}. Update edgeline on the device"
            )
        _check_keys(document, {field.name for field in fields(cls)})
        for name in ("labels", "value_range"):
            if not isinstance(document[name], list):
                raise _wrong(name, "a list", document[name])
            document[name] = tuple(document[name])
        return cls(**document)


_FIXED = ("color", "value_range", "resize", "exif_orientation")


def _check_keys(document: dict[str, object], expected: set[str]) -> None:
    if document.keys() != expected:
        raise ContractError(
            "The preprocessing contract has other fields than expected: "
            f"missing {sorted(expected - document.keys())}, "
            f"unknown {sorted(document.keys() - expected)}"
        )


def _check_side(name: str, value: object, most: int = MAX_SIDE) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise _wrong(name, f"a whole number of pixels from 1 to {most}", value)


def _check_labels(labels: object) -> None:
    if not isinstance(labels, tuple) or not 2 <= len(labels) <= MAX_LABELS:
        raise _wrong("labels", f"2 to {MAX_LABELS} names", labels)
    for label in labels:
        # Printable: labels end up on terminals, where a control character is a command.
        if (
            not isinstance(label, str)
            or not 1 <= len(label) <= MAX_LABEL_LENGTH
            or not label.isprintable()
            or label != label.strip()
        ):
            raise _wrong(
                "labels",
                f"printable names of 1 to {MAX_LABEL_LENGTH} characters without space at the ends",
                label,
            )
    if len(set(labels)) != len(labels):
        repeated = next(label for label in labels if labels.count(label) > 1)
        raise _wrong("labels", "each name once", repeated)


def _wrong(name: str, expected: str, got: object) -> ContractError:
    return ContractError(
        f"Preprocessing contract, field {name!r}: expected {expected}; got {quoted(got)}"
    )
