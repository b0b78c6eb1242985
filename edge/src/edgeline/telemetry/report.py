"""A device's report: what it runs, how its last update went, and how its predictions spread.

    data = REPORTS.seal(report, enrolment, signer)       # on the device
    report = REPORTS.open(data, fleet, at=now)           # where the fleet is watched

docs/fleet.md describes every field. A report holds no image, no path and no name of a person or
machine, has a bounded size, and is signed with a key of the device's own. That this key is one of
the fleet's is said by its enrolment, which travels with each report: it is signed by the model's
fleet key, which the registry's targets names.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
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
    return read_document(envelope.payload, "An enrolment", Enrolment)


@dataclass(frozen=True)
class Fleet:
    """Whose reports on a model count."""

    keys: Collection[Key]  # that enrol devices
    revoked: Collection[str] = ()  # ids of devices that were enrolled, and count no more


class _OfDevice(Protocol):
    @property
    def device(self) -> str: ...

    @property
    def model(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


Document = TypeVar("Document", bound=_OfDevice)


@dataclass(frozen=True)
class Kind(Generic[Document]):
    """A kind of document that enrolled devices sign, and leave at a place."""

    name: str  # in messages, and beside its enrolment; in the plural, its repository's
    one: str  # the same with an article, to begin a sentence with
    record: type[Document]
    media_type: str
    suffix: str  # of a file
    limit: int  # bytes, with its enrolment
    names: re.Pattern[str]  # safe as files and tags

    def check(self, name: str) -> str:
        """Return a name when it is one of this kind.

        Raises:
            IntegrityError: it is not.
        """
        if not self.names.fullmatch(name):
            raise IntegrityError(
                f"{name[:80]!r} names none of the {self.name}s: expected a device's id"
            )
        return name

    def seal(self, document: Document, enrolment: bytes, signer: Signer) -> bytes:
        """Return a signed document with the device's enrolment.

        Raises:
            RegistryError: the key cannot be used.
            IntegrityError: it is larger than anybody would read.
        """
        signed = seal(document.to_json(), self.media_type, signer, f"The {self.name}")
        parts = {"enrolment": json.loads(enrolment), self.name: json.loads(signed)}
        return self.checked_size(dump_canonical(parts))

    def open(self, data: bytes, fleet: Fleet, *, at: float) -> Document:
        """Read what `seal` made, from anywhere, by the time `at` in seconds since 1970.

        Raises:
            IntegrityError: it is none.
            TrustError: it is not by a device of the fleet.
        """
        try:
            document = parse_object(self.checked_size(data))
            parts = [dump_canonical(document[name]) for name in ("enrolment", self.name)]
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"{self.one} is malformed: {one_line(error)}") from None
        enrolment = open_enrolment(parts[0], fleet.keys)
        if enrolment.device in fleet.revoked or enrolment.expires <= at:
            raise TrustError(f"Device {enrolment.device} is no longer enrolled")
        what = f"The {self.name}"
        envelope = open_envelope(parts[1], self.media_type, limit=self.limit, what=what)
        check_signed(envelope, [enrolment.key], what)
        found = read_document(envelope.payload, self.one, self.record)
        if (found.device, found.model) != (enrolment.device, enrolment.model):
            raise TrustError(
                f"Device {enrolment.device} has signed {self.one.lower()} of {found.device}"
            )
        return found

    def checked_size(self, data: bytes) -> bytes:
        """Return what is no larger than anybody reads.

        Raises:
            IntegrityError: it is larger.
        """
        if len(data) > self.limit:
            raise IntegrityError(f"{self.one} has {len(data)} bytes; at most {self.limit} are read")
        return data


REPORTS = Kind(
    "report", "A report", Report, REPORT_TYPE, ".json", MAX_REPORT, re.compile(r"[0-9a-f]{32}")
)


def without_paths(text: str) -> str:
    """Return a reason for a report: short, and without the paths of a machine."""
    return one_line(_PATH.sub("(path)", text), limit=MAX_REASON)
