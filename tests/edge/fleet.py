"""Devices that report: keys, enrolments and reports as real devices make them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer

from edgeline.device.shadow import Shadow
from edgeline.publish.keys import Signers
from edgeline.telemetry.report import REPORTS, Counts, Enrolment, Report, Served, seal_enrolment
from tests.edge.devices import MODEL

NOW = 1_800_000_000.0  # seconds since 1970
DAY = 86_400.0
YEAR = 365 * DAY

OLD, NEW = (f"sha256:{number:064x}" for number in (1, 2))


@dataclass
class Reporting:
    """A device with a key of its own, and its enrolment."""

    id: str
    fleet: Signer
    key: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    def enrolment(self, **changes: Any) -> bytes:
        """What the holder of the fleet key signed for it."""
        enrolment = Enrolment(self.id, MODEL, self.key.public_key, NOW + YEAR)
        return seal_enrolment(replace(enrolment, **changes), self.fleet)

    def report(self, enrolment: bytes | None = None, **changes: Any) -> bytes:
        """A report of a device that does well."""
        return REPORTS.seal(
            replace(well(self.id), **changes), enrolment or self.enrolment(), self.key
        )


def signer_of(file: Path) -> Signer:
    """The key in a file."""
    signers = Signers.load([str(file)])
    signer = signers.for_key(signers.public_keys[0])
    assert signer is not None
    return signer


def well(device: str, digest: str = NEW) -> Report:
    """What a device says that has served a release for two days."""
    return Report(
        device=device,
        model=MODEL,
        channel="production",
        sequence=10,
        time=NOW,
        software="edgeline 0.1.0",
        checked=NOW - 60,
        error=None,
        active=Served(2, digest, "int8"),
        rejected=None,
        counts=Counts(since=NOW - 2 * DAY, predictions=1000, latency=[1000, *[0] * 13]),
    )


def settled(shadow: Shadow | None, tried: int) -> None:
    """Wait until the shadow has looked at so many images."""
    assert shadow is not None
    for _ in range(3000):
        if shadow.compared.predictions + shadow.compared.errors == tried:
            return
        time.sleep(0.01)
    raise AssertionError(f"the shadow has looked at {shadow.compared}")
