"""A fleet of devices through the package itself: updates, trials, reports, the watcher, and back.

Each device has a state folder, an id, a key, an enrolment and a clock of its own, follows the
channel of a registry in a folder by its signed metadata, tries a release in a process before it
serves it, and files signed reports. `edgeline registry watch-rollout --advance` reads them, twice a
day for two weeks. Made up are the time, and what a device would see: what its predictions say and
how long they take (told to its `Reporter`), the labels that a shadow gives, that its process ends,
and, where it rejects the release, that its trial gets no time. A device that is offline reaches
neither the registry nor the place of the reports.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.fleet import (
    DEVICES,
    HALF_A_DAY,
    HALF_DAYS,
    KINDS,
    PREDICTIONS,
    RULES,
    STEPS,
    YEAR,
    End,
    Fate,
    Kind,
    draw,
    roll_out,
)
from components.verdict import Check, Deployed, VariantVerdict, Verdict
from edgeline import golden
from edgeline.cli import main as edgeline
from edgeline.cli.registry.fleet import HALTED
from edgeline.contract import PreprocessingContract
from edgeline.device.identity import ID_FILE
from edgeline.device.reporting import Reporter, accept_enrolment, request_enrolment
from edgeline.device.update import Device, Limits
from edgeline.device.watch import Watcher
from edgeline.key_files import generate_key
from edgeline.publish.keys import Signers
from edgeline.publish.layout import LayoutWriter
from edgeline.publish.release import VariantFiles, publish
from edgeline.publish.repository import Keys, ModelKeys, Repository, initialize
from edgeline.publish.rollouts import percent
from edgeline.registry.format import ReleaseRef
from edgeline.runtime.classifier import Prediction
from edgeline.telemetry.report import Compared, Enrolment, parse_key, seal_enrolment

MODEL = "cells"
SIDE = 8  # px
LABELS = ("intact", "broken")
CONTRACT = PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=LABELS)
START = 1_800_000_000.0  # seconds since 1970
SETTLING = 8  # half days after the end, in which every device is online at some time
SEED = 0

_ROW = "{:<22} {:<9} {:>5} {:>6} {:>7}  {:<23} {}"
_HEADERS = ("release", "end", "days", "share", "got it", "have it 4 days later", "as simulated")


@contextmanager
def clock_at(seconds: float) -> Iterator[None]:
    """Have a device's, or the watcher's, clock say this."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(seconds, tz)

    with (
        mock.patch("time.time", return_value=seconds),
        mock.patch("edgeline.registry.trust.datetime", Clock),
        mock.patch("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime", Clock),
        mock.patch(
            "edgeline.publish.signatures.now",
            return_value=datetime.fromtimestamp(seconds, timezone.utc),
        ),
    ):
        yield


@dataclass(frozen=True)
class Ready:
    """A folder with a registry, and devices that serve its first release."""

    folder: Path
    root: bytes
    releases: tuple[ReleaseRef, ReleaseRef]  # the one that all have, and the new one

    def device(self, name: str) -> Device:
        """A device of the fleet, which reaches the registry by a link of its own."""
        state = self.folder / "devices" / name
        return Device(str(state / "net" / "registry"), MODEL, root=self.root, state=state)


def prepare(folder: Path, models: Sequence[bytes], names: Sequence[str]) -> Ready:
    """Make a registry with two releases, and devices that serve the first and are enrolled."""
    keys = folder / "keys"
    roles = ("root", "targets", "online", "ci", "release", "fleet", "halt")
    key = {name: generate_key(keys / f"{name}.pem", None) for name in roles}
    signers = Signers.load([str(keys)])
    store = LayoutWriter(folder / "net" / "registry")
    owned = Keys(
        root=(key["root"],),
        root_threshold=1,
        targets=key["targets"],
        online=key["online"],
        models={MODEL: ModelKeys(ci=key["ci"], release=key["release"])},
    )
    with clock_at(START):
        root = initialize(store, owned, signers)
        (folder / "root.json").write_bytes(root)
        repository = Repository(store, root=root, signers=signers)
        repository.add_fleet(MODEL, key["fleet"], key["halt"])
        releases: list[ReleaseRef] = []
        for content, channel in zip(models, ("production", "candidate"), strict=True):
            releases.append(_publish(folder, content, repository, store, channel, releases))
        old, new = releases
        ready = Ready(folder, root, (old, new))
        first = _linked(ready, "first")
        first.update()
        for name in names:
            # Cards are copied before a device has an id.
            shutil.copytree(first.folder.base, folder / "devices" / name, symlinks=True)
            (folder / "devices" / name / ID_FILE).write_text(name)
            _enrol(ready.device(name), signers.for_key(key["fleet"]))
    return ready


def _linked(ready: Ready, name: str) -> Device:
    state = ready.folder / "devices" / name
    state.mkdir(parents=True)
    (state / "net").symlink_to("../../net")
    return ready.device(name)


def _enrol(device: Device, signer: Any) -> None:
    request = request_enrolment(device)
    key = parse_key(request["key"])
    accept_enrolment(
        device,
        seal_enrolment(Enrolment(request["device"], MODEL, key, START + 10 * YEAR), signer),
    )


def _publish(
    folder: Path,
    content: bytes,
    repository: Repository,
    store: LayoutWriter,
    channel: str,
    before: Sequence[ReleaseRef],
) -> ReleaseRef:
    """Publish a release whose verdict promises an agreement with the one before."""
    file = folder / "model.tflite"
    file.write_bytes(content)
    checks: tuple[Check, ...] = (Check("accuracy", "overall", 0.9, 0.8),)
    deployed = None
    if before:
        deployed = Deployed(f"v{before[0].version}", before[0].index.digest)
        least = RULES.min_agreement
        assert least is not None
        name = f"agreement with {deployed.tag} float32"
        checks += (Check(name, "overall", 0.97, interval=(least, 0.98)),)
    judged = VariantVerdict("float32", checks, sha256=sha256(content).hexdigest())
    float_model = VariantVerdict("float", checks[:1])
    is_model = content[4:8] == b"TFL3"  # a test's bytes are none
    pair = golden.make(content, CONTRACT).to_json() if is_model else None
    published = publish(
        repository,
        model=MODEL,
        channel=channel,
        variants=[VariantFiles("float32", file, pair)],
        preprocessing=CONTRACT,
        verdict=Verdict("test", 394, float_model, (judged,), deployed=deployed).to_json(),
    )
    return ReleaseRef(published.version, published.index)


class _Device:
    """A device, and what it lives through."""

    def __init__(self, device: Device, fate: Fate, kind: Kind, new: ReleaseRef) -> None:
        self._device = device
        self._fate = fate
        self._kind = kind
        self._new = new.index.digest
        self._net = device.folder.base / "net"
        self._reports = self._net / "reports"
        self.got_it = False
        if fate.rejects:
            device.limits = replace(Limits(), trial_seconds=0.001)
        self._start()

    def _start(self) -> None:
        """Begin a process; the one before was not told to end."""
        self._reporter = Reporter(self._device, str(self._reports))
        self._watcher = Watcher(self._device, predicts=False, reporter=self._reporter)

    def live(self, now: float, *, online: bool) -> None:
        """Predict for half a day, then check and report."""
        if self.serves_new:
            self._use()
        self._net.unlink()
        self._net.symlink_to("../../net" if online else "nowhere")
        with clock_at(now + self._fate.skew):
            self._watcher.check()
        rejected = self._device.folder.read().rejected
        self.got_it |= self.serves_new or (rejected is not None and rejected.digest == self._new)

    def _use(self) -> None:
        if self._fate.crashes:
            self._start()
        labels = (np.array([0.9, 0.1], np.float32), np.array([0.1, 0.9], np.float32))
        said, other = (Prediction(LABELS, each) for each in labels)
        compared = Compared(self._new)
        for number in range(PREDICTIONS):
            self._reporter.predicted(said, self._kind.seconds)
            before = said if number < self._fate.agreed else other
            compared.add(said, self._kind.seconds, before, 0.02)
        self._reporter.compares(compared)

    @property
    def serves_new(self) -> bool:
        """Whether it serves the new release."""
        folder = self._device.folder
        active = folder.read().active
        return active is not None and folder.describe(active).digest == self._new


@dataclass(frozen=True)
class Outcome:
    """What became of a rollout, and of the devices after it."""

    end: End
    serving: int  # devices that have the new release some days later
    able: int  # devices that it runs on, and whose clocks are not ahead


def roll_out_whole(
    ready: Ready, kind: Kind, fates: Sequence[Fate], steps: Sequence[int] = STEPS
) -> Outcome:
    """Roll the second release out to devices that have the first, and watch what they report."""
    fleet = [_Device(ready.device(fate.id), fate, kind, ready.releases[1]) for fate in fates]
    with clock_at(START):
        _edgeline(
            ready, "promote", "--from", "candidate", "--to", "production",
            "--share", percent(steps[0]), "--yes",
        )  # fmt: skip
    largest, state = steps[0], "active"
    for half_day in range(HALF_DAYS):
        now = START + (half_day + 1) * HALF_A_DAY
        for device, fate in zip(fleet, fates, strict=True):
            device.live(now, online=fate.online[half_day])
        with clock_at(now):
            told = _edgeline(
                ready, "watch-rollout", "--reports", str(ready.folder / "net" / "reports"),
                "--memory", str(ready.folder / "seen.json"), "--advance",
                "--steps", ",".join(map(percent, steps)),
                "--max-latency-ms", f"{(RULES.max_latency or 0) * 1000:g}",
            )  # fmt: skip
        if told["action"] == "advanced":
            largest = round(told["share"] * 10_000)
        if told["action"] == "halted" or largest == steps[-1]:
            state = "halted" if told["action"] == "halted" else "complete"
            break
    end = End(state, sum(each.got_it for each in fleet), largest, (half_day + 1) / 2)
    # Where it was halted, the others have nothing to go back from.
    concerned = [each for each in fleet if each.got_it or state == "complete"]
    for later in range(SETTLING):
        for number, device in enumerate(concerned):
            device.live(now + (later + 1) * HALF_A_DAY, online=(number + later) % 5 > 0)
    return Outcome(
        end,
        serving=sum(each.serves_new for each in fleet),
        able=sum(fate.skew <= 0 and not fate.rejects for fate in fates),
    )


def _edgeline(ready: Ready, command: str, *arguments: str) -> Mapping[str, Any]:
    """Give a command to the registry with its owner's keys, and return what it says."""
    registry, out = ready.folder / "net" / "registry", StringIO()
    trust = ["--root", str(ready.folder / "root.json"), "--key", str(ready.folder / "keys")]
    with redirect_stdout(out):
        code = edgeline(["registry", command, str(registry), MODEL, *arguments, *trust, "--json"])
    if code not in (0, HALTED):
        raise RuntimeError(f"edgeline registry {command} ended with {code}: {out.getvalue()}")
    found: Mapping[str, Any] = json.loads(out.getvalue())
    return found


def main() -> bool:
    """Roll out to a fleet with each kind of release, and print a table.

    Returns:
        Whether each came to the end of its simulation.
    """
    as_simulated = True
    logging.getLogger("edgeline").setLevel(logging.ERROR)  # devices complain of being offline
    print(f"a fleet of {DEVICES} devices through the package, for each release", flush=True)
    print(_ROW.format(*_HEADERS), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _model()
        names = [fate.id for fate in draw(KINDS[0], SEED)]
        made = prepare(folder / "made", (model, model + b"another"), names)
        for number, kind in enumerate(KINDS):
            ready = replace(made, folder=folder / str(number))
            shutil.copytree(made.folder, ready.folder, symlinks=True)
            outcome = roll_out_whole(ready, kind, draw(kind, SEED))
            same = outcome.end == roll_out(kind, SEED, releases=made.releases)
            as_simulated &= same
            print(_row(kind, outcome, same), flush=True)
            shutil.rmtree(ready.folder)
    return as_simulated


def _row(kind: Kind, outcome: Outcome, same: bool) -> str:
    end = outcome.end
    have = f"{outcome.serving} of {outcome.able} that can"
    days, share = f"{end.days:g}", percent(end.largest)
    return _ROW.format(kind.name, end.state, days, share, end.got, have, str(same))


def _model() -> bytes:
    """Return a small classifier."""
    import tensorflow as tf

    module = tf.Module()
    drawn = np.random.default_rng(0).normal(size=[SIDE * SIDE * 3, len(LABELS)])
    module.weights = tf.Variable(drawn.astype(np.float32))

    def classify(pixels: Any) -> dict[str, Any]:
        return {"probabilities": tf.nn.softmax(tf.reshape(pixels, [1, -1]) @ module.weights / 8.0)}

    pixels = tf.TensorSpec([1, SIDE, SIDE, 3], tf.float32, name="pixels")
    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    return bytes(converter.convert())
