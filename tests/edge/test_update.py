"""Updates on a device: what is served is whole, verified and tried, whatever goes wrong."""

from __future__ import annotations

import configparser
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.wheels import PROJECT
from edgeline.device import download
from edgeline.device.update import Device, Limits
from edgeline.errors import (
    DeviceError,
    EdgelineError,
    ExpiredError,
    IntegrityError,
    NotFoundError,
    RejectedError,
    TrustError,
    UnreachableError,
)
from edgeline.registry.format import MAX_HISTORY, Descriptor, ReleaseRef
from edgeline.registry.layout import LayoutStore
from edgeline.runtime import memory
from tests.edge.devices import (
    device,
    golden_pair,
    release,
    serve,
    serving,
    signed_days_ago,
)
from tests.edge.servers import RegistryServer, raw, reset

if TYPE_CHECKING:
    from tests.edge.conftest import Store

DAY = 86_400.0  # seconds
LARGE = b"x" * (4 << 20)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device"


def _installed(state: Path) -> int:
    return len([*(state / "pets.production" / "models").iterdir()])


def _shell(path: Path, script: str) -> str:
    """Make a program to be run in the place of Python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_device_follows_its_channel(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    for number in (1, 2, 3):
        release(store, models, number, golden=golden_pair(models, store))
        assert pets.update().action == "updated"
        assert serving(pets) == number
        assert pets.update().action == "current"
        assert _installed(state) == min(number, 2), "the active and the previous one"
        assert [*pets.folder.downloads.iterdir()] == []


def test_nothing_is_downloaded_twice(store: Store, models: Path, state: Path) -> None:
    said: list[str] = []
    pets = device(store, state, progress=said.append)
    release(store, models, 1)
    pets.update()
    (blob,) = [path for path in store.blob("").iterdir() if path.read_bytes()[4:8] == b"TFL3"]
    content = (models / "float32.tflite").read_bytes() + b"release 1"
    store.publish({"float32": content, "other": b"?"}, model="pets", channel="production")
    blob.unlink()  # so that it can only come from the device itself
    pets.update(["float32"])
    assert serving(pets) == 2


def test_going_back_to_the_previous_release_keeps_both(
    store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    served = store.repository().channel("pets", "production")
    assert served is not None
    store.repository().point("pets", "production", served.history[0])
    assert pets.update().action == "updated"
    assert (serving(pets), _installed(state)) == (1, 2)
    assert pets.rollback().version == 2


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("kill -SEGV $$", "it crashed here (SIGSEGV)"),
        ("echo 'out of luck' >&2; exit 3", "it ended its process here with exit code 3: out of"),
        ("sleep 60", "it hangs here: not ready after 1 seconds"),
        ("kill -KILL $$", "it was killed here, as the kernel does when memory runs out"),
        ("echo nonsense", "it ended its process here with exit code 0"),
    ],
)
def test_a_model_that_breaks_its_process_is_rejected(
    program: str,
    message: str,
    store: Store,
    models: Path,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow this machine is, only what hangs takes longer than it may.
    pets = device(store, state, limits=Limits(trial_seconds=1 if "hangs" in message else 60))
    release(store, models, 1)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", _shell(tmp_path / "python", program))
        with pytest.raises(RejectedError) as raised:
            pets.update()
    assert message in str(raised.value)
    assert "there is no model to go on with" in str(raised.value)


@pytest.mark.parametrize(
    ("variant", "golden", "message"),
    [
        ("garbage", None, "cannot be loaded as TFLite"),
        ("newer", None, "cannot be loaded as TFLite: Didn't find op .* version '99'"),
        ("five_classes", None, "does not fit its preprocessing contract"),
        ("nan", None, "not a finite number"),
        ("float32", b"{}", "golden pair is malformed"),
    ],
)
def test_a_model_that_fails_its_trial_is_rejected(
    variant: str, golden: bytes | None, message: str, store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    release(store, models, 1)
    pets.update()
    release(store, models, 2, [variant], golden=golden)
    for _ in range(2):
        with pytest.raises(RejectedError, match=f"v1 goes on: {variant}: .*{message}"):
            pets.update()
        assert serving(pets) == 1
    remembered = pets.folder.read()
    assert remembered.error is not None
    assert re.search(message, remembered.error)


def test_a_rejected_release_is_left_alone_until_the_channel_moves(
    store: Store, models: Path, state: Path
) -> None:
    said: list[str] = []
    pets = device(store, state, progress=said.append)
    wrong = json.loads(golden_pair(models, store))
    wrong["cases"][0]["probabilities"].reverse()
    release(store, models, 1, golden=json.dumps(wrong).encode())
    for _ in range(3):
        with pytest.raises(RejectedError, match="computes something else here"):
            pets.update()
    assert len([line for line in said if line.startswith("trying")]) == 1
    release(store, models, 2, golden=golden_pair(models, store))
    assert pets.update().installed.version == 2
    assert pets.folder.read().rejected is None


def test_bad_luck_is_tried_again_ever_more_rarely(
    store: Store, models: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = device(store, state)
    release(store, models, 1)

    def rejected_until() -> float:
        with pytest.raises(RejectedError, match=r"It is tried again from .* UTC on, by `edgeline"):
            pets.update()
        rejected = pets.folder.read().rejected
        assert rejected is not None
        assert rejected.until is not None
        return rejected.until - time.time()

    def wait(seconds: float) -> None:
        with pets.folder.locked():
            state = pets.folder.read()
            assert state.rejected is not None
            rejected = replace(state.rejected, until=time.time() - seconds)
            pets.folder.write(replace(state, rejected=rejected))

    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", _shell(tmp_path / "python", "kill -KILL $$"))
        for tries in range(10):
            assert rejected_until() == pytest.approx(min(900 * 2**tries, DAY), abs=60)
            wait(1)
    wait(-60)
    rejected_until()  # it is not its time yet
    wait(-2 * DAY)  # by a clock that was set back
    assert pets.update().installed.version == 1


def test_a_rejected_release_is_tried_again_when_its_user_says_so(
    store: Store, models: Path, state: Path
) -> None:
    said: list[str] = []
    pets = device(store, state, progress=said.append)
    release(store, models, 1, ["nan"])
    for _ in range(2):
        with pytest.raises(RejectedError):
            pets.update()
    pets.retry()
    with pytest.raises(RejectedError):
        pets.update()
    assert len([line for line in said if line.startswith("trying")]) == 2
    rejected = pets.folder.read().rejected
    assert rejected is not None
    assert rejected.until is None, "it is the model's fault"
    for name in ("ai-edge-litert", "numpy", "pillow"):
        assert f"{name} {version(name)}" in rejected.runtime
    assert f"edgeline {PROJECT['project']['version']}" in rejected.runtime


def test_what_rotted_on_the_card_is_not_used_for_another_release(
    store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    release(store, models, 1)
    pets.update()
    (file,) = state.rglob("model.tflite")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    release(store, models, 1, ["float32", "int8_io"])
    assert pets.update(["float32"]).action == "updated"
    assert serving(pets) == 2


def test_a_damaged_state_is_made_anew_of_what_is_there(
    store: Store, models: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    file = pets.folder.path / "state.json"
    file.write_bytes(file.read_bytes().replace(b'"failed":0.0', b'"failed":9.0'))
    assert serving(pets) == 2
    assert "state.json is damaged" in caplog.text
    assert pets.update().action == "current"
    file.write_bytes(b" " * (2 << 20))
    assert serving(pets) == 2
    assert pets.update().action == "current"
    caplog.clear()
    assert pets.rollback().version == 1
    assert caplog.text == ""
    file.write_bytes(b"")
    pets.folder.file(str(pets.folder.read().active), "model.tflite").write_bytes(b"")
    assert serving(pets) == 1, "the one that is whole"


def test_another_variant_or_runtime_is_another_chance(
    store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    release(store, models, 1, ["float32", "nan"])
    with pytest.raises(RejectedError):
        pets.update(["nan"])
    rejected = pets.folder.read().rejected
    assert rejected is not None
    with pets.folder.locked():
        pets.folder.write(
            replace(pets.folder.read(), rejected=replace(rejected, runtime="an older one"))
        )
    with pytest.raises(RejectedError, match="finite"):
        pets.update(["nan"])
    assert pets.folder.read().rejected == rejected
    assert pets.update(["float32"]).installed.variant == "float32"


def test_the_first_of_its_publisher_that_works_is_run(
    store: Store, models: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    pets = device(store, state, progress=said.append)
    release(store, models, 1, ["nan", "garbage", "newer", "int8_io", "float32"])
    assert pets.update().installed.variant == "int8_io"
    tried = [line.split()[-1] for line in said if line.startswith("trying")]
    assert tried == ["nan", "garbage", "newer", "int8_io"]
    (newer,) = (message for message in caplog.messages if message.startswith("pets v1 newer: "))
    assert "Didn't find op for builtin opcode" in newer
    assert not any("float32" in line for line in said), "it is not even downloaded"
    release(store, models, 2, ["float32", "int8_io"])
    assert pets.update().installed.variant == "float32"


def test_a_preference_is_heeded_and_remembered(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    release(store, models, 1, ["float32", "int8_io"])
    assert pets.update(["int4", "int8_io", "float32"]).installed.variant == "int8_io"
    release(store, models, 2, ["float32", "int8_io"])
    assert pets.update().installed.variant == "int8_io"
    outcome = pets.update(["float32"])
    assert (outcome.action, outcome.installed.variant) == ("updated", "float32")
    assert pets.update(["float32", "int8_io"]).action == "current"
    with pytest.raises(NotFoundError, match="no variant 'int4'; it has float32, int8_io"):
        pets.update(["int4"])
    assert pets.folder.read().preference == ("float32", "int8_io")


def test_a_local_rollback_holds_until_the_channel_moves(
    store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    with pytest.raises(NotFoundError, match="no model before"):
        pets.rollback()
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    assert pets.rollback().version == 1
    assert pets.update().action == "held"
    assert serving(pets) == 1
    release(store, models, 3)
    assert pets.update().action == "updated"
    assert serving(pets) == 3


def test_a_withdrawn_release_does_not_come_back(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    store.repository().rollback("pets", "production")
    assert pets.update().installed.version == 1
    with pytest.raises(NotFoundError, match="no model before"):
        pets.rollback()
    release(store, models, 3)
    assert pets.update().installed.version == 3
    assert pets.rollback().version == 1


def test_a_release_that_is_withdrawn_while_another_is_served_does_not_come_back(
    store: Store, models: Path, state: Path
) -> None:
    """The device went from v2 to v3, and the channel by way of v1."""
    pets = device(store, state)
    release(store, models, 1)
    release(store, models, 2)
    pets.update()
    store.repository().rollback("pets", "production")
    release(store, models, 3)
    pets.update()
    assert serving(pets) == 3
    with pytest.raises(NotFoundError, match="no model before"):
        pets.rollback()


def test_what_its_user_went_back_from_does_not_come_back_once_it_is_withdrawn(
    store: Store, models: Path, state: Path
) -> None:
    """The device serves v1 before and after, so that it switches to nothing."""
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    assert pets.rollback().version == 1
    store.repository().rollback("pets", "production")
    assert pets.update().action == "current"
    with pytest.raises(NotFoundError, match="no model before"):
        pets.rollback()


def test_a_release_that_is_older_than_the_history_may_be_gone_back_to(
    store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    release(store, models, 1)
    pets.update()
    last = store.repository().channel("pets", "production")
    assert last is not None
    for number in range(2, MAX_HISTORY + 3):
        index = replace(last.release.index, digest=f"sha256:{number:064x}")
        store.repository().point("pets", "production", ReleaseRef(number, index))
    release(store, models, 99)
    pets.update()
    assert pets.rollback().version == 1


def test_a_full_disk_is_noticed_first(
    store: Store, models: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = device(store, state)
    release(store, models, 1)
    pets.update()
    release(store, models, 2)
    monkeypatch.setattr(download, "SPARE", 1 << 60)
    with pytest.raises(DeviceError, match="Free some space"):
        pets.update()
    assert serving(pets) == 1
    monkeypatch.undo()
    assert pets.update().installed.version == 2


def test_a_model_that_does_not_fit_into_memory_is_not_tried(
    store: Store, models: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = device(store, state)
    release(store, models, 1)
    monkeypatch.setattr("edgeline.device.update.available_memory", lambda: 1 << 20)
    with pytest.raises(DeviceError, match=r"about 34 MB of memory, and 1 MB are available"):
        pets.update()


def test_an_up_to_date_check_is_one_request(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    with RegistryServer() as server:
        serve(store, server)
        pets = Device(server.location, "pets", root=store.root, state=state)
        pets.update()
        server.log.clear()
        assert pets.update().action == "current"
        assert [seen.path.rpartition("/")[2] for seen in server.log] == ["tuf"]
        assert server.log[0].headers["user-agent"] == f"edgeline/{PROJECT['project']['version']}"


def _large(store: Store, models: Path, number: int) -> None:
    content = (models / "float32.tflite").read_bytes() + LARGE + b"%d" % number
    store.publish({"float32": content}, model="pets", channel="production")


def test_a_broken_download_goes_on_where_it_broke_off(
    store: Store, models: Path, state: Path
) -> None:
    _large(store, models, 1)
    with RegistryServer() as server:
        serve(store, server)
        pets = Device(server.location, "pets", root=store.root, state=state)
        (blob,) = [data for data in server.repository.blobs.values() if len(data) > len(LARGE)]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(blob)
        large = f"/blobs/{_digest_of(server, blob)}"
        server.fault("GET", large, raw(head + blob[: 3 << 20]), times=1)
        server.fault("GET", large, reset(), times=1000)
        with pytest.raises(UnreachableError):
            pets.update()
        (part,) = pets.folder.downloads.glob("*.part")
        assert part.read_bytes() == blob[: part.stat().st_size]
        assert part.stat().st_size >= 2 << 20
        kept = part.stat().st_size
        server._faults.clear()
        server.log.clear()
        assert pets.update().action == "updated"
        (request,) = server.asked("GET", large)
        assert request.headers["range"] == f"bytes={kept}-"


def test_a_server_that_breaks_off_again_and_again_is_left_in_peace(
    store: Store, models: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte at each try is progress, and no reason to ask at once again."""
    _large(store, models, 1)
    pauses: list[float] = []
    monkeypatch.setattr("edgeline.device.download.time.sleep", pauses.append)
    monkeypatch.setattr("edgeline.device.download.random.uniform", lambda _, longest: longest)
    pets = device(store, state)

    def a_byte(_: object, blob: Descriptor, *, offset: int = 0) -> Iterator[bytes]:
        yield b"x"
        if len(pauses) < 10:
            raise UnreachableError("it broke off")
        raise IntegrityError("enough")

    monkeypatch.setattr(LayoutStore, "stream_blob", a_byte)
    with pytest.raises(IntegrityError, match="enough"):
        pets.update()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_here_is_not_said_to_be_downloaded(store: Store, models: Path, state: Path) -> None:
    said: list[str] = []
    pets = device(store, state, progress=said.append)
    release(store, models, 1)
    pets.update()
    assert any("downloading" in line for line in said)
    said.clear()
    release(store, models, 1, ["float32", "int8_io"])
    assert pets.update(["float32"]).action == "updated"
    assert [line for line in said if "download" in line] == []


def test_others_find_the_active_model_at_one_path(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
        loaded = pets.folder.load_active()
        assert (pets.folder.current / "model.tflite").read_bytes() == loaded.content
        assert (pets.folder.current / "contract.json").read_bytes() == loaded.contract
        pets.folder.current.unlink()  # as if the power had failed just before
        pets.update()
    shutil.copytree(pets.folder.path, copy := state.with_name("copy"))  # which follows links
    shutil.rmtree(pets.folder.path)
    copy.rename(pets.folder.path)
    assert pets.rollback().version == 1
    loaded = pets.folder.load_active()
    assert (pets.folder.current / "model.tflite").read_bytes() == loaded.content


def test_memory_that_the_kernel_can_take_back_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "cgroup/a/b/memory.max": "3000000\n",
        "cgroup/a/b/memory.current": "2900000\n",
        "cgroup/a/b/memory.stat": "anon 1\ninactive_file 1000000\nactive_file 500000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.available_memory() == 1_600_000


def test_a_child_is_the_first_to_go_when_memory_runs_out() -> None:
    code = (
        "from edgeline.device.child import answer_parent\n"
        "import resource\n"
        "from pathlib import Path\n"
        "answer_parent(lambda _: {'score': Path('/proc/self/oom_score_adj').read_text().strip(),"
        " 'core': resource.getrlimit(resource.RLIMIT_CORE)[0],"
        " 'data': resource.getrlimit(resource.RLIMIT_DATA)[0]})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"seconds": 60}', text=True, env=environment,
        capture_output=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert (answer["score"], answer["core"]) == ("1000", 0)
    assert 0 < answer["data"] < 1 << 50


def test_the_service_goes_on_when_the_kernel_ended_a_trial() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.read(Path(__file__).parents[2] / "edge" / "systemd" / "edgeline-watch.service")
    assert unit["Service"]["OOMPolicy"] == "continue"


def test_a_part_that_was_damaged_does_not_count(store: Store, models: Path, state: Path) -> None:
    _large(store, models, 1)
    pets = device(store, state)
    (blob,) = [path for path in store.blob("").iterdir() if path.stat().st_size > len(LARGE)]
    pets.folder.downloads.mkdir(parents=True)
    (pets.folder.downloads / f"{blob.name}.part").write_bytes(b"something else")
    with pytest.raises(IntegrityError, match="on its way here"):
        pets.update()
    assert pets.update().action == "updated"


def test_a_check_ends_when_its_time_is_over_and_keeps_what_has_come(
    store: Store, models: Path, state: Path
) -> None:
    _large(store, models, 1)
    pets = device(store, state, limits=Limits(download_seconds=0))
    sizes = [0]
    for _ in range(3):
        with pytest.raises(UnreachableError, match="the next check goes on there"):
            pets.update()
        (part,) = pets.folder.downloads.glob("*.part")
        sizes.append(part.stat().st_size)
    assert sizes == sorted(set(sizes)), "each check got further"
    assert device(store, state).update().action == "updated"


def test_a_device_without_a_registry_goes_on(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    pets = device(store, state)
    pets.update()
    store.path.rename(store.path.with_name("away"))
    with pytest.raises(NotFoundError, match="not a model registry"):
        pets.update()
    assert serving(pets) == 1
    remembered = pets.folder.read()
    assert remembered.failed >= remembered.checked > 0
    store.path.with_name("away").rename(store.path)
    pets.update()
    assert pets.folder.read().error is None


def test_expired_signatures_stop_updates_and_nothing_else(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1)
    pets = device(store, state)
    pets.update()
    with signed_days_ago(31):
        release(store, models, 2)
    with pytest.raises(ExpiredError, match="too old to be trusted: timestamp expired"):
        pets.update()
    assert serving(pets) == 1
    store.repository().refresh()
    assert pets.update().installed.version == 2


def test_a_clock_that_went_back_does_not_make_old_signatures_new(
    store: Store, models: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with signed_days_ago(10):
        release(store, models, 1)
    pets = device(store, state)
    pets.update()
    floor = pets.folder.read().floor
    with pets.folder.locked():
        pets.folder.write(replace(pets.folder.read(), floor=floor + 15 * DAY))
    with caplog.at_level(logging.WARNING):
        pets.update()  # it is still good then
    assert "this device's clock says" in caplog.text
    with pets.folder.locked():
        pets.folder.write(replace(pets.folder.read(), floor=floor + 25 * DAY))
    with pytest.raises(ExpiredError, match=r"though it was .* before. Set the clock; and"):
        pets.update()
    assert pets.folder.read().floor == floor + 25 * DAY
    assert serving(pets) == 1


def test_a_floor_comes_from_when_root_was_signed_and_falls_with_the_next_root(
    store: Store, models: Path, state: Path
) -> None:
    with signed_days_ago(-3):
        release(store, models, 1)
    pets = device(store, state)
    pets.update()
    remembered = pets.folder.read()
    assert remembered.floor == remembered.checked, "the online key raises no floor"
    with signed_days_ago(-2):
        store.repository().rotate("root")
    pets.update()
    remembered = pets.folder.read()
    assert remembered.floor - remembered.checked == pytest.approx(2 * DAY, abs=DAY / 10)
    with pets.folder.locked():
        pets.folder.write(replace(remembered, floor=remembered.floor + 400 * DAY))
    with pytest.raises(ExpiredError, match="root expired on"):
        pets.update()
    store.repository().rotate("root")
    pets.update()
    assert pets.folder.read().floor == pytest.approx(remembered.checked, abs=DAY / 10)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "no release.json"])
def test_a_damaged_model_is_not_served_and_repaired(
    damage: str, store: Store, models: Path, state: Path
) -> None:
    pets = device(store, state)
    for number in (1, 2):
        release(store, models, number)
        pets.update()
    active = pets.folder.read().active
    assert active is not None
    file = pets.folder.file(active, "model.tflite")
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "no release.json":
        file.with_name("release.json").unlink()
    else:
        content[100] ^= 1
        file.write_bytes(content if damage == "flipped" else content[:50])
    assert serving(pets) == 1, "the previous one"
    pets.repair()
    assert pets.update().action == "updated"
    assert serving(pets) == 2


def test_a_model_trusted_by_another_root_is_not_served(
    store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1)
    device(store, state).update()
    stranger = Device(store.location, "pets", root=b"another", state=state)
    with pytest.raises(TrustError, match="by trust in another root"):
        stranger.folder.load_active()


def test_one_update_at_a_time(store: Store, models: Path, state: Path) -> None:
    release(store, models, 1)
    outcomes: list[str] = []
    devices = [device(store, state) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda each=each: outcomes.append(each.update().action))
        for each in devices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["current", "current", "updated"]
    impatient = device(store, state, limits=Limits(lock_seconds=0))
    with devices[0].folder.locked(), pytest.raises(DeviceError, match="Another process"):
        impatient.update()


@pytest.mark.parametrize("change", ["unwritable", "a file"])
def test_a_state_folder_that_cannot_be_used_is_told(
    change: str, store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1)
    state.parent.mkdir(exist_ok=True)
    if change == "a file":
        state.write_bytes(b"")
    else:
        # Not even root can write there.
        state = Path("/proc/edgeline")
    with pytest.raises(EdgelineError, match="cannot be used"):
        device(store, state).update()


def _digest_of(server: RegistryServer, content: bytes) -> str:
    blobs: dict[str, Any] = server.repository.blobs
    return next(digest for digest, data in blobs.items() if data == content)
