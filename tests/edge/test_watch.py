"""Watching a channel: through fifty releases and every kind of fault, without losing anything."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeline.device.health import MAX_PREDICTIONS, HealthServer
from edgeline.device.state import InstalledModel
from edgeline.device.update import Device
from edgeline.device.watch import Watcher
from edgeline.errors import EdgelineError, ImageError
from tests.edge.devices import device, golden_pair, release, serve, serving
from tests.edge.servers import RegistryServer, answer, raw, reset

if TYPE_CHECKING:
    from tests.edge.conftest import Store

RELEASES = 50
IMAGE = np.full((20, 30, 3), 128, np.uint8)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device"


def _unanswered(server: RegistryServer) -> None:
    server.fault("GET", "/manifests/", answer(404), times=1)


def _reset_blobs(server: RegistryServer) -> None:
    server.fault("GET", "/blobs/", reset(), times=20)


def _truncated_blobs(server: RegistryServer) -> None:
    server.fault(
        "GET", "/blobs/", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc"), times=3
    )


def _wrong_blobs(server: RegistryServer) -> None:
    server.fault("GET", "/blobs/", answer(200, b"something else"), times=3)


def _nonsense(server: RegistryServer) -> None:
    server.fault("GET", "", raw(b"\0\1\2 nonsense\r\n\r\n"), times=2)


FAULTS: list[Callable[[RegistryServer], None]] = [
    _unanswered, _reset_blobs, _truncated_blobs, _wrong_blobs, _nonsense,
]  # fmt: skip


@contextmanager
def _watching(
    location: str, root: Path, state: Path, temporary: Path
) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process that watches and predicts; yields what has it check, and says what came of it."""
    arguments = [location, "pets", str(root), str(state)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge.watching", *arguments],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asked, said = process.stdin, process.stdout
        assert asked is not None
        assert said is not None

        def check() -> dict[str, Any]:
            print("check", file=asked, flush=True)
            found: dict[str, Any] = json.loads(said.readline())
            return found

        yield check
        asked.close()
        assert process.wait(60) == 0


def test_a_day_of_fifty_releases(store: Store, models: Path, state: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    root = tmp_path / "root.json"
    root.write_bytes(store.root)
    golden = golden_pair(models, store)
    faults = random.Random(1)
    good = 0
    sizes, used = [], []
    with RegistryServer() as server:
        pets = Device(server.location, "pets", root=store.root, state=state)
        with _watching(server.location, root, state, temporary) as check:
            for number in range(1, RELEASES + 1):
                bad = number % 10 == 7
                release(store, models, number, ["nan" if bad else "float32"],
                        golden=None if bad else golden)  # fmt: skip
                serve(store, server)
                good = good if bad else number
                for _ in range(faults.randint(0, 2)):
                    faults.choice(FAULTS)(server)
                    found = check()
                    assert good == 0 or serving(pets) in (good, *found["told"][-1:])
                server._faults.clear()
                server.log.clear()
                found = check()
                assert serving(pets) == good
                sizes.append(pets.folder.size())
                used.append(found)
    assert found["wrong"] == []
    assert found["told"] == [number for number in range(1, RELEASES + 1) if number % 10 != 7]
    assert f"edgeline_model_version {RELEASES}" in found["metrics"]
    assert "edgeline_last_check_failed 0" in found["metrics"]
    assert max(sizes[10:]) < 1.1 * max(sizes[:10])
    descriptors = [found["descriptors"] for found in used]
    assert max(descriptors[10:]) <= max(descriptors[:10]) + 2
    assert used[-1]["memory"] - used[10]["memory"] < 30 << 20
    assert [*temporary.iterdir()] == [], "nothing is left in the folder for temporary files"


def test_predictions_follow_the_channel(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    told: list[InstalledModel] = []
    switched = threading.Semaphore(0)

    def note(installed: InstalledModel) -> None:
        told.append(installed)
        switched.release()

    with Watcher(device(store, state), on_update=note) as watcher:
        assert watcher.predict(IMAGE).label in store.contract.labels
        with pytest.raises(ImageError):
            watcher.predict(b"no image")
        release(store, models, 2)
        watcher.wake()
        for _ in range(2):
            assert switched.acquire(timeout=60)
        classifier, _ = watcher.classify(IMAGE)
        assert classifier.version == 2
    assert [each.version for each in told] == [1, 2]


def test_a_watcher_starts_offline_with_what_is_installed(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1)
    device(store, state).update()
    store.path.rename(store.path.with_name("away"))
    with Watcher(device(store, state)) as watcher:
        assert watcher.classify(IMAGE)[0].version == 1
        assert watcher.unhealthy() is None


def test_a_rollback_from_outside_is_followed(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    watcher = Watcher(pets)
    for number in (1, 2):
        release(store, models, number)
        watcher.check()
    pets.rollback()
    watcher.check()
    assert watcher.classify(IMAGE)[0].version == 1
    assert 'edgeline_checks_total{result="held"} 1' in watcher.render_metrics()


def test_a_hook_runs_though_the_process_ended_before_it(
    store: Store, models: Path, state: Path
) -> None:
    """The switch was the last thing that an earlier process did."""
    release(store, models, 1)
    device(store, state).update()
    told: list[int] = []
    for _ in range(2):
        watcher = Watcher(device(store, state), on_update=lambda each: told.append(each.version))
        watcher.check()
        assert told == [1]


@contextmanager
def _predicting(watcher: Watcher, count: int) -> Iterator[int]:
    """Serve a watcher whose predictions do not end, and let so many begin; gives the port."""
    begun, end = threading.Semaphore(0), threading.Event()

    def classify(_: object) -> None:
        begun.release()
        end.wait(60)
        raise ImageError("enough")

    watcher.classify = classify  # type: ignore[assignment, method-assign]
    server = HealthServer(watcher, 0)
    clients = [
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(count)
    ]
    try:
        for client in clients:
            client.request("POST", "/predict", b"x")
        assert begun.acquire(timeout=60)
        yield server.port
    finally:
        end.set()
        for client in clients:
            client.getresponse().read()
            client.close()
        server.close()


def test_health_is_told_while_all_predictions_run(store: Store, state: Path) -> None:
    with _predicting(Watcher(device(store, state)), MAX_PREDICTIONS) as port:
        end = time.monotonic() + 60
        while True:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            client.request("GET", "/healthz")
            assert client.getresponse().status == 503, "there is no model"
            client.request("POST", "/predict", b"x", {"Host": "localhost"})
            answer = client.getresponse()
            if b"other predictions are waiting" in answer.read():
                break
            assert time.monotonic() < end


def test_a_bug_of_ours_in_a_request_is_logged(
    store: Store, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(device(store, state))
    watcher.render_metrics = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    server = HealthServer(watcher, 0)
    try:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("GET", "/metrics")
        with pytest.raises((http.client.HTTPException, OSError)):
            client.getresponse()
    finally:
        server.close()
    assert "ZeroDivisionError" in caplog.text


def test_a_hook_that_fails_ends_nothing(store: Store, models: Path, state: Path) -> None:
    def fail(_: InstalledModel) -> None:
        raise RuntimeError("out of luck")

    watcher = Watcher(device(store, state), on_update=fail)
    release(store, models, 1)
    watcher.check()
    assert "edgeline_hook_failures_total 1" in watcher.render_metrics()
    assert watcher.classify(IMAGE)[0].version == 1


def test_failures_are_followed_by_longer_pauses_and_rejections_are_not(
    store: Store, models: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(device(store, state), interval=1000)
    pauses = [watcher.check() for _ in range(20)]
    assert 1600 <= pauses[0] <= 2400
    assert 2880 <= min(pauses[1:]) < max(pauses[1:]) <= 4320, "an hour, give or take a fifth"
    monkeypatch.setattr("edgeline.device.watch._JITTER", 0.0)
    assert watcher.check() == 3600
    release(store, models, 1)
    assert watcher.check() == 1000
    release(store, models, 2, ["nan"])
    assert [watcher.check() for _ in range(2)] == [1000, 1000]
    rare = Watcher(device(store, state / "other"), interval=7200)
    assert rare.check() == 7200


def test_a_damaged_model_is_replaced_while_watching(
    store: Store, models: Path, state: Path
) -> None:
    for number in (1, 2):
        release(store, models, number)
        device(store, state).update()
    active = device(store, state).folder.read().active
    assert active is not None
    device(store, state).folder.file(active, "model.tflite").write_bytes(b"")
    with Watcher(device(store, state), interval=3600) as watcher:
        end = time.monotonic() + 60
        while watcher.classify(IMAGE)[0].version != 2:
            assert time.monotonic() < end, "it was not repaired"
            time.sleep(0.02)


def test_what_rots_while_watching_is_replaced(
    store: Store, models: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeline.device.watch.LOOK_SECONDS", 0.0)
    release(store, models, 1)
    watcher = Watcher(device(store, state))
    watcher.check()
    (file,) = state.rglob("model.tflite")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    watcher.check()
    assert file.read_bytes() == whole
    assert watcher.classify(IMAGE)[0].version == 1


def test_an_interval_of_nothing_is_refused(store: Store, state: Path) -> None:
    with pytest.raises(ValueError, match="expected more than 0 seconds"):
        Watcher(device(store, state), interval=0)


def test_without_predictions_no_model_is_loaded(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    watcher = Watcher(device(store, state), predicts=False)
    watcher.check()
    assert 'version="v1"' in watcher.render_metrics()
    with pytest.raises(EdgelineError, match="loaded"):
        watcher.predict(IMAGE)
