"""Reporting how this device does, when its user has asked for it; off by default.

    reporter = Reporter(device, "oci://registry.example/cells")
    reporter.serves(installed)              # begins to count anew with another model
    reporter.predicted(prediction, 0.02)
    reporter.report(state, now=time.time())  # once an hour at most, sooner after a switch

What it counts is kept beside the device's models, so that a restart loses nothing that was told.
Nothing that goes wrong here keeps a device from predicting.
"""

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeline._files import read_bounded, write_whole
from edgeline._records import load, save
from edgeline.device.identity import device_id
from edgeline.device.selection import versions
from edgeline.device.state import InstalledModel, State
from edgeline.errors import DeviceError, TrustError
from edgeline.telemetry.report import (
    LATENCY_BOUNDS,
    MAX_REPORT,
    REPORTS,
    Compared,
    Counts,
    Drift,
    Report,
    Served,
    open_enrolment,
    without_paths,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from edgeline.device.update import Device
    from edgeline.runtime.classifier import Prediction
    from edgeline.telemetry.places import Place

REPORT_SECONDS = 3600.0  # between two reports
CHANGED_SECONDS = 900.0  # between two of which the second tells of another release

KEY_FILE = "device-key.pem"

_COUNTS_FILE = "counts.json"


@dataclass
class _Kept:
    """What is remembered between two runs."""

    model: str | None = None  # id of the model that is counted
    sequence: int = 0  # of the last report
    reported: float = 0.0  # when, in seconds since 1970
    about: str = ""  # what it told: releases
    running: bool = False  # whether a process counts now, or ended without saying so
    counts: Counts = field(default_factory=Counts)
    shadow: Compared | None = None


class Reporter:
    """Counts what a device does, and reports it.

    Args:
        device: Whose reports.
        place: Where to: a folder, or "oci://host[:port]/repository" of the registry.

    Raises:
        DeviceError: the device is not enrolled, or its key can't be used.
        RegistryError: the place is malformed.
    """

    def __init__(self, device: "Device", place: str) -> None:
        from edgeline.telemetry.places import open_place

        self._device = device
        self._place: Place = open_place(place, device.connection)
        self._enrolment, self._signer = enrolment_of(device)
        self._file = device.folder.path / _COUNTS_FILE
        self._lock = threading.Lock()
        self._kept = load(_Kept, self._file, MAX_REPORT) or _Kept()
        if self._kept.running:
            self._kept.counts.crashes += 1
        self._kept.running = True
        self._serves: InstalledModel | None = None

    def serves(self, installed: InstalledModel, *, now: float) -> None:
        """Begin to count anew if this is another model than the one before."""
        with self._lock:
            self._serves = installed
            if self._kept.model != installed.id:
                self._kept.model = installed.id
                self._kept.counts = Counts(since=now)
            self._save()

    def predicted(self, prediction: "Prediction", seconds: float) -> None:
        """Count a prediction."""
        label, probability = prediction.label, prediction.probability
        entropy = -sum(p * math.log(p) for p in prediction.probabilities.tolist() if p > 0)
        with self._lock:
            counts = self._kept.counts
            counts.predictions += 1
            counts.confidence += (probability - counts.confidence) / counts.predictions
            counts.entropy += (max(entropy, 0.0) - counts.entropy) / counts.predictions
            counts.latency[sum(seconds > bound for bound in LATENCY_BOUNDS)] += 1
            counts.add_label(label)

    def compares(self, compared: Compared) -> None:
        """Report how a model in the shadow does, from now on."""
        with self._lock:
            self._kept.shadow = compared

    def refused_image(self) -> None:
        """Count an image that could not be read."""
        with self._lock:
            self._kept.counts.image_errors += 1

    def model_failed(self) -> None:
        """Count a prediction that the model failed at."""
        with self._lock:
            self._kept.counts.model_errors += 1

    def report(self, state: State, *, now: float, drift: Drift | None = None) -> bool:
        """Report, if it is time to; return whether it was.

        Args:
            state: What the device knows.
            now: The time, in seconds since 1970.
            drift: What the last window of images showed.

        Raises:
            EdgelineError: the report cannot be signed or filed. The next call tries again.
        """
        active = self._serves
        about = f"{state.active} {state.rejected.digest if state.rejected else None}"
        with self._lock:
            kept = self._kept
            pause = REPORT_SECONDS if about == kept.about else CHANGED_SECONDS
            # A clock that was set back must not silence the device.
            if 0 <= now - kept.reported < pause:
                self._save()
                return False
            report = self._made(state, active, now, drift)
            data = REPORTS.seal(report, self._enrolment, self._signer)
        self._place.put(report.device, data)
        with self._lock:
            kept.sequence, kept.reported, kept.about = report.sequence, now, about
            self._save()
        return True

    def close(self) -> None:
        """Remember that the process ended because it was told to."""
        with self._lock:
            self._kept.running = False
            self._save()

    def _made(
        self, state: State, active: InstalledModel | None, now: float, drift: Drift | None
    ) -> Report:
        return Report(
            device=device_id(self._device.folder.base),
            model=self._device.model,
            channel=self._device.channel,
            # By the clock, so that a folder that was lost does not begin below what was read.
            sequence=max(self._kept.sequence + 1, int(now)),
            time=now,
            software=versions(),
            checked=state.checked,
            error=state.error_kind,
            active=Served(active.version, active.digest, active.variant) if active else None,
            rejected=_rejected(state),
            counts=replace(self._kept.counts),
            shadow=self._kept.shadow,
            drift=drift,
        )

    def _save(self) -> None:
        with self._device.folder.translated():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            save(self._file, self._kept)


def _rejected(state: State) -> Served | None:
    rejected = state.rejected
    if rejected is None:
        return None
    return Served(rejected.version, rejected.digest, reason=without_paths(rejected.reason))


def enrolment_of(device: "Device") -> tuple[bytes, "Signer"]:
    """Return a device's enrolment, and what signs its reports.

    Raises:
        DeviceError: it has none, or `cryptography` is missing.
        RegistryError: the key can't be used.
    """
    path = _enrolment_file(device)
    try:
        data = read_bounded(path, MAX_REPORT)
    except (OSError, ValueError):
        raise DeviceError(
            f"This device is not enrolled: there is no {path}. `edgeline enrol` makes its key and "
            "says what to do"
        ) from None
    return data, _signer(device.folder.base)


def request_enrolment(device: "Device") -> dict[str, Any]:
    """Return what the holder of the model's fleet key has to know; make the key when needed.

    Raises:
        DeviceError: the state folder can't be used, or `cryptography` is missing.
        RegistryError: the key can't be used.
    """
    base = device.folder.base
    with device.folder.translated():
        name = device_id(base)
    if not (base / KEY_FILE).exists():
        _need_cryptography()
        from edgeline.key_files import generate_key

        generate_key(base / KEY_FILE, None)
    key = _signer(base).public_key
    return {"device": name, "model": device.model, "key": {"id": key.keyid, **key.to_dict()}}


def accept_enrolment(device: "Device", data: bytes) -> None:
    """Keep an enrolment, which has to be this device's.

    Raises:
        TrustError: it is another's.
        IntegrityError: it is none.
        DeviceError: the state folder can't be used.
    """
    enrolment = open_enrolment(data, None)
    mine = request_enrolment(device)
    found = (enrolment.device, enrolment.model, enrolment.key.keyval)
    if found != (mine["device"], mine["model"], mine["key"]["keyval"]):
        raise TrustError(
            f"This is the enrolment of device {enrolment.device} for {enrolment.model}; expected "
            f"one of {mine['device']}, with its present key, for {mine['model']}"
        )
    with device.folder.translated():
        write_whole(_enrolment_file(device), data)


def _enrolment_file(device: "Device") -> Path:
    return device.folder.base / f"enrolment.{device.model}.json"


def _signer(base: Path) -> "Signer":
    _need_cryptography()
    from edgeline.key_files import FileSigner

    return FileSigner(base / KEY_FILE)


def _need_cryptography() -> None:
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise DeviceError(
            "Reports are signed, for which `cryptography` is missing: "
            "pip install 'edgeline[reports]'"
        )
