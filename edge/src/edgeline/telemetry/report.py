"""A device's report: what it runs, how its last update went, and how its predictions spread.

    data = seal_report(report, enrolment, signer)        # on the device
    report = open_report(data, keys, revoked, at=now)    # where the fleet is watched

docs/fleet.md describes every field. A report holds no image, no path and no name of a person or
machine, has a bounded size, and is signed with a key of the device's own. That this key is one of
the fleet's is said by its enrolment, which travels with each report: it is signed by the model's
fleet key, which the registry's targets names.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Protocol,
    TypeAlias,
    TypeVar,
)

from securesystemslib.signer import ED25519, Key, Signer, SSlibKey

from edgeline._dsse import check_signed, open_envelope, seal
from edgeline._json import dump_canonical, parse_object
from edgeline._records import read
from edgeline._text import one_line
from edgeline.drift import QUANTITIES, Shift
from edgeline.errors import EdgelineError, IntegrityError, TrustError
from edgeline.registry.format import ChannelName, Digest, ModelName, VariantName
from edgeline.registry.rollout import is_device_id

if TYPE_CHECKING:
    from edgeline.runtime.classifier import Prediction

REPORT_TYPE = "application/vnd.edgeline.report.v1+json"
ENROLMENT_TYPE = "application/vnd.edgeline.enrolment.v1+json"

FORMAT = 1  # of what is signed
MAX_REPORT = 32 << 10  # bytes, with its enrolment
MAX_LABELS = 100  # that are counted each by its name; the rest are counted together
MAX_LABEL_BYTES = 8 << 10  # of the names of these labels, all together, so that a report fits
MAX_REASON = 200  # characters
OTHER_LABELS = "(others)"  # under which the rest is counted

# Upper bounds of the latency histogram, in seconds; what takes longer is counted after the last.
LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)

_Read = TypeVar("_Read")

_PATH = re.compile(r"(?:/[^\s/:,;()]+)+/?")


def _line(value: object) -> str:
    return one_line(read(str, value), limit=MAX_REASON)


def _labels(value: object) -> dict[str, int]:
    found = read(dict[Line, int], value)
    if len(found) > MAX_LABELS + 1:
        raise ValueError(f"expected at most {MAX_LABELS} labels")
    return found


def _latency(value: object) -> list[int]:
    found = read(list[int], value)
    if len(found) != len(LATENCY_BOUNDS) + 1:
        raise ValueError("expected a latency histogram with other bounds")
    return found


def _shifts(value: object) -> Mapping[str, Shift]:
    found = read(dict[str, Shift], value)
    if found.keys() != set(QUANTITIES):
        raise ValueError(f"expected shifts of {', '.join(QUANTITIES)}")
    return found


def check_device(value: object) -> str:
    """Return `value` when it is a device's id, and therefore safe as a file name and a tag.

    Raises:
        IntegrityError: it is not.
    """
    if isinstance(value, str) and is_device_id(value):
        return value
    raise IntegrityError(f"Expected a device's id, 32 hex digits, got {one_line(value, limit=80)}")


def parse_key(value: object) -> Key:
    """Read a device's public key.

    Raises:
        ValueError: it is no Ed25519 key.
    """
    try:
        entry = dict(value)  # type: ignore[call-overload]
        key = SSlibKey.from_dict(_line(entry.pop("id")), entry)
    except (KeyError, TypeError):
        raise ValueError(f"expected a public key, got {one_line(value, limit=80)}") from None
    if key.scheme != ED25519:
        raise ValueError(f"expected an Ed25519 key, got {one_line(key.scheme, limit=40)}")
    return key


Line: TypeAlias = Annotated[str, _line]
DeviceId: TypeAlias = Annotated[str, check_device]


@dataclass(frozen=True)
class Served:
    """A release, as far as a report names it."""

    version: int
    digest: Digest  # of its index
    variant: VariantName | None = None  # None where it was rejected
    reason: Line | None = None  # why it was rejected


@dataclass
class Counts:
    """What was counted since the device serves a model."""

    since: float = 0.0  # seconds since 1970, by the device's clock
    predictions: int = 0
    image_errors: int = 0  # images that could not be read
    model_errors: int = 0  # predictions that the model failed at
    crashes: int = 0  # times that the process ended without being told to
    labels: Annotated[dict[str, int], _labels] = field(default_factory=dict)
    confidence: float = 0.0  # mean probability of the predicted labels
    entropy: float = 0.0  # mean entropy of the probabilities, in nats
    latency: Annotated[list[int], _latency] = field(
        default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1)
    )

    def add_label(self, label: str) -> None:
        """Count a prediction of a label; beyond what a report has room for, among the others."""
        if label not in self.labels:
            size = sum(len(name.encode()) for name in (*self.labels, label))
            if len(self.labels) >= MAX_LABELS or size > MAX_LABEL_BYTES:
                label = OTHER_LABELS
        self.labels[label] = self.labels.get(label, 0) + 1

    def latency_quantile(self, share: float) -> float | None:
        """Return the bound in seconds below which this share of the predictions took.

        It is the histogram's, so not exact; infinite beyond the last bound, None without any.
        """
        total = sum(self.latency)
        if not total:
            return None
        seen = 0
        for bound, count in zip((*LATENCY_BOUNDS, math.inf), self.latency, strict=True):
            seen += count
            if seen >= share * total:
                return bound
        raise AssertionError("unreachable")


@dataclass
class Compared:
    """A model that ran in the shadow of the one that is served, on the same images."""

    digest: Digest  # of its release's index
    predictions: int = 0  # that were compared
    agreed: int = 0  # of them, those with the same label
    errors: int = 0  # images that it failed at
    confidence: float = 0.0  # mean probability of the labels that it predicted
    served_confidence: float = 0.0  # and of those that the served model did
    seconds: float = 0.0  # mean time that it took
    served_seconds: float = 0.0  # and that the served model took

    def add(
        self, said: "Prediction", seconds: float, served: "Prediction", served_seconds: float
    ) -> None:
        """Count an image that both predicted."""
        self.predictions += 1
        self.agreed += said.label == served.label
        means = {
            "confidence": said.probability,
            "served_confidence": served.probability,
            "seconds": seconds,
            "served_seconds": served_seconds,
        }
        for name, value in means.items():
            mean = getattr(self, name)
            setattr(self, name, mean + (value - mean) / self.predictions)


def _compared(value: object) -> Compared:
    found = read(Compared, value)
    if found.agreed > found.predictions:
        raise ValueError("more agreed than were compared")
    return found


@dataclass(frozen=True)
class Drift:
    """How a window of what a device saw compares with the test split of the release it serves."""

    digest: Digest  # of the release's index
    since: float  # seconds since 1970, by the device's clock
    until: float
    images: int
    shifts: Annotated[Mapping[str, Shift], _shifts]  # by quantity; see `edgeline.drift`

    @property
    def shifted(self) -> tuple[str, ...]:
        """The quantities that are too far from the test split's."""
        return tuple(name for name in QUANTITIES if self.shifts[name].is_major)


@dataclass(frozen=True)
class Report:
    """What a device says of itself. Times are seconds since 1970, by its own clock."""

    device: DeviceId
    model: ModelName
    channel: ChannelName
    sequence: int  # grows with each report
    time: float
    software: Line  # versions of edgeline and of what runs models
    checked: float  # when the registry was last found genuine, 0 for never
    error: Line | None  # the kind of the last check's error
    active: Served | None
    rejected: Served | None
    counts: Counts
    shadow: Annotated[Compared, _compared] | None = None  # the last that was compared with `active`
    drift: Drift | None = None  # of the last full window, if the device watches for it

    def to_json(self) -> dict[str, Any]:
        """Return what is signed."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: bytes) -> "Report":
        """Read what was signed by a device, which may be anybody's by now.

        Raises:
            IntegrityError: it is no report.
        """
        return read_document(data, "A report", cls)


@dataclass(frozen=True)
class Enrolment:
    """What the holder of a model's fleet key has signed: whose reports count."""

    device: DeviceId
    model: ModelName
    key: Annotated[Key, parse_key]
    expires: float  # seconds since 1970

    def to_json(self) -> dict[str, Any]:
        """Return what is signed."""
        key = {"id": self.key.keyid, **self.key.to_dict()}
        named = {"device": self.device, "model": self.model, "key": key, "expires": self.expires}
        return {"format": FORMAT, **named}

    @classmethod
    def from_json(cls, data: bytes) -> "Enrolment":
        """Read it.

        Raises:
            IntegrityError: it is none.
        """
        return read_document(data, "An enrolment", cls)


def read_document(data: bytes, one: str, kind: type[_Read]) -> _Read:
    """Read what a device has signed, or was signed for it, and may be anybody's by now.

    Args:
        data: JSON, with the fields of `kind` and maybe others.
        one: What it should be, with an article, to begin a sentence with.
        kind: A record.

    Raises:
        IntegrityError: it is malformed.
    """
    try:
        document = parse_object(data)
        if document.get("format") != FORMAT:
            raise ValueError("it is of another format")
        return read(kind, document, strict=False)
    except (EdgelineError, ValueError) as error:
        raise IntegrityError(f"{one} is malformed: {one_line(error)}") from None


def seal_enrolment(enrolment: Enrolment, signer: Signer) -> bytes:
    """Return a signed enrolment, for its device to keep.

    Raises:
        RegistryError: the key cannot be used.
    """
    return seal(enrolment.to_json(), ENROLMENT_TYPE, signer, "The enrolment")


def open_enrolment(data: bytes, keys: Collection[Key] | None) -> Enrolment:
    """Read an enrolment.

    Args:
        data: What `seal_enrolment` made.
        keys: The fleet keys; None to read it whoever signed it, as its own device may.

    Raises:
        IntegrityError: it is none.
        TrustError: none of the keys has signed it.
    """
    envelope = open_envelope(data, ENROLMENT_TYPE, limit=MAX_REPORT, what="The enrolment")
    if keys is not None:
        check_signed(envelope, keys, "The enrolment")
    return Enrolment.from_json(envelope.payload)


@dataclass(frozen=True)
class Signed:
    """A kind of document that enrolled devices sign.

    Attributes:
        name: What it is under beside the device's enrolment, and in messages.
        one: The same with an article, which begins a sentence.
        payload_type: Of its envelope.
        limit: Bytes that are read of it at most.
    """

    name: str
    one: str
    payload_type: str
    limit: int

    @property
    def what(self) -> str:
        """Its name in a sentence."""
        return f"The {self.name}"


class _OfDevice(Protocol):
    @property
    def device(self) -> str: ...

    @property
    def model(self) -> str: ...


Document = TypeVar("Document", bound=_OfDevice)

SIGNED_REPORT = Signed("report", "A report", REPORT_TYPE, MAX_REPORT)


def seal_with_enrolment(
    document: Mapping[str, Any], kind: Signed, enrolment: bytes, signer: Signer
) -> bytes:
    """Return a signed document with the device's enrolment.

    Raises:
        RegistryError: the key cannot be used.
    """
    signed = seal(document, kind.payload_type, signer, kind.what)
    return dump_canonical({"enrolment": json.loads(enrolment), kind.name: json.loads(signed)})


def open_with_enrolment(
    data: bytes,
    kind: Signed,
    parse: Callable[[bytes], Document],
    keys: Collection[Key],
    revoked: Collection[str],
    *,
    at: float,
) -> Document:
    """Read what `seal_with_enrolment` made, from anywhere.

    Args:
        data: The document with its enrolment.
        kind: What it is expected to be.
        parse: Reads the document.
        keys: The model's fleet keys.
        revoked: Ids of devices that count no more.
        at: The time, in seconds since 1970.

    Raises:
        IntegrityError: it is none.
        TrustError: it is not by an enrolled device, or of another one than that.
    """
    try:
        document = parse_object(data)
        parts = [dump_canonical(document[name]) for name in ("enrolment", kind.name)]
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"{kind.one} is malformed: {one_line(error)}") from None
    enrolment = open_enrolment(parts[0], keys)
    if enrolment.device in revoked or enrolment.expires <= at:
        raise TrustError(f"Device {enrolment.device} is no longer enrolled")
    envelope = open_envelope(parts[1], kind.payload_type, limit=kind.limit, what=kind.what)
    check_signed(envelope, [enrolment.key], kind.what)
    found = parse(envelope.payload)
    if (found.device, found.model) != (enrolment.device, enrolment.model):
        raise TrustError(
            f"Device {enrolment.device} has signed {kind.one.lower()} of {found.device}"
        )
    return found


def seal_report(report: Report, enrolment: bytes, signer: Signer) -> bytes:
    """Return a signed report with the device's enrolment.

    Raises:
        RegistryError: the key cannot be used.
        IntegrityError: it is larger than anybody would read.
    """
    data = seal_with_enrolment(report.to_json(), SIGNED_REPORT, enrolment, signer)
    if len(data) > MAX_REPORT:
        raise IntegrityError(f"The report has {len(data)} bytes; at most {MAX_REPORT} are read")
    return data


def open_report(
    data: bytes, keys: Collection[Key], revoked: Collection[str], *, device: str, at: float
) -> Report:
    """Read a report that comes from anywhere.

    Args:
        data: The report with its enrolment.
        keys: The model's fleet keys.
        revoked: Ids of devices that count no more.
        device: The id that it was filed under.
        at: The time, in seconds since 1970.

    Raises:
        IntegrityError: it is no report.
        TrustError: it is not by an enrolled device, or by another one than `device`.
    """
    if len(data) > MAX_REPORT:
        raise IntegrityError(f"A report has {len(data)} bytes; at most {MAX_REPORT} are read")
    report = open_with_enrolment(data, SIGNED_REPORT, Report.from_json, keys, revoked, at=at)
    if report.device != device:
        raise TrustError(f"The report of {report.device} was filed as that of {device[:40]!r}")
    return report


def without_paths(text: str) -> str:
    """Return a reason for a report: short, and without the paths of a machine."""
    return one_line(_PATH.sub("(path)", text), limit=MAX_REASON)
