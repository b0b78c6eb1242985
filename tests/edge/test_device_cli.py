"""The device's commands, as their users give them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from edgeline.cli import main
from tests.edge.devices import device, golden_pair, release, signed_days_ago

if TYPE_CHECKING:
    from tests.edge.conftest import Store

Run = Callable[..., "Said"]


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.errors = errors

    @property
    def json(self) -> Any:
        return json.loads(self.output)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.fixture
def environment(store: Store, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that was set up once, so that its commands need no options."""
    (store.files / "root.json").write_bytes(store.root)
    monkeypatch.setenv("EDGELINE_ROOT", str(store.files / "root.json"))
    monkeypatch.setenv("EDGELINE_REGISTRY", store.location)
    monkeypatch.setenv("EDGELINE_MODEL", "pets")
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    monkeypatch.delenv("EDGELINE_STATE", raising=False)


@pytest.fixture
def run(environment: None, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str | Path) -> Said:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    return command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "more/c.webp"):
        Image.new("RGB", (30, 20), "red").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_pull_status_and_rollback(run: Run, store: Store, models: Path, state: Path) -> None:
    for number in (1, 2):
        release(store, models, number)
        said = run("pull")
        assert said.output == f"pets v{number} float32 is served from now on\n"
    assert run("pull").output == "pets v2 float32 is what the channel serves, and installed\n"
    said = run("status")
    assert re.search(r"^active +v2 float32 sha256:", said.output, re.MULTILINE)
    assert re.search(r"^previous +v1 float32 sha256:", said.output, re.MULTILINE)
    assert f"{state / 'pets.production'}, 0.0 MB" in said.output
    assert run("rollback").output == "pets v1 float32 is served until the channel moves\n"
    assert "is held by `edgeline rollback`" in run("pull").output
    assert run("status", "--json").json["held"] is True


def test_everything_as_json(run: Run, store: Store, models: Path) -> None:
    published = release(store, models, 1)
    model = {
        "model": "pets", "version": 1, "tag": "v1", "digest": published.digest,
        "variant": "float32",
    }  # fmt: skip
    assert run("pull", "--json").json == {"action": "updated", **model}
    status = run("status", "--json").json
    assert (status["active"], status["previous"]) == (model, None)
    assert (status["stale"], status["error"], status["rejected"]) == (False, None, None)
    release(store, models, 2)
    run("pull")
    assert run("rollback", "--json").json == model


@pytest.mark.parametrize(
    ("command", "options", "code", "message"),
    [
        ("pull", ["--model", "birds"], 3, "has no release of 'birds' in channel 'production'"),
        ("pull", ["--registry", "/nowhere"], 3, "not a model registry"),
        ("pull", ["--variant", "int4"], 3, "has no variant 'int4'; it has float32"),
        ("pull", ["--variant", "../x"], 3, "A variant is named by"),
        ("pull", ["--root", "/nowhere"], 3, "The trusted root /nowhere cannot be read"),
        ("pull", ["--registry", "oci://127.0.0.1:9/x", "--timeout", "1"], 5, "127.0.0.1:9"),
        ("rollback", [], 3, "There is no model before"),
        ("watch", ["--interval", "0"], 2, "expected 1 to 86400"),
        ("watch", ["--on-update"], 2, "expected a program"),
        ("watch", ["--port", "65536"], 2, "expected 0 to 65535"),
        ("benchmark", ["--threads", "0"], 2, "expected numbers from 1"),
        ("benchmark", ["--variant", "int4"], 3, "has no variant 'int4'"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    command: str, options: list[str], code: int, message: str, run: Run, store: Store, models: Path
) -> None:
    release(store, models, 1)
    said = run(command, *options)
    assert (said.code, said.output) == (code, "")
    assert message in said.errors


def test_status_says_what_is_wrong(run: Run, store: Store, models: Path, state: Path) -> None:
    assert re.search(r"^active +none$", run("status").output, re.MULTILINE)
    release(store, models, 1)
    run("pull")
    release(store, models, 2, ["nan"])
    assert run("pull").code == 3
    assert run("retry").code == 3
    said = run("status")
    assert "rejected    v2: nan: The model gave a probability that is not a finite" in said.output
    assert "last error" in said.output
    pets = device(store, state)
    with pets.folder.locked():
        pets.folder.write(replace(pets.folder.read(), expires=1.0))
    assert "stale: they expired on 1970-01-01" in run("status").output


def test_predict_takes_files_folders_patterns_and_stdin(
    run: Run, store: Store, models: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(store, models, 1)
    every = sorted(str(photos / name) for name in ("a.png", "b.JPG", "more/c.webp"))
    for given in ([photos], every, [photos / "**" / "*.[pJw]*"]):
        said = run("predict", *given)
        assert said.code == 0, said.errors
        assert [line.split("  ")[0].rstrip() for line in said.output.splitlines()] == every
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*every, "missing.png"]) + "\n"))
    said = run("predict", "-", "--json")
    assert [json.loads(line)["path"] for line in said.output.splitlines()] == every
    assert said.code == 1
    assert "Cannot read missing.png" in said.errors
    assert run("predict", photos / "*.gif").code == 1


def test_predict_goes_on_when_the_registry_is_away(
    run: Run, store: Store, models: Path, photos: Path
) -> None:
    release(store, models, 1)
    image = photos / "a.png"
    said = run("predict", image, "--update", "never")
    assert (said.code, said.output) == (3, "")
    assert "Get one with `edgeline pull`" in said.errors
    usual = run("predict", image)
    assert usual.code == 0
    store.path.rename(store.path.with_name("away"))
    said = run("predict", image)
    assert (said.code, said.output) == (0, usual.output)
    assert said.errors.startswith("edgeline: ")
    assert "v1 goes on" in said.errors
    assert run("predict", image, "--update", "require").code == 3
    quiet = run("predict", image, "--update", "never")
    assert (quiet.code, quiet.output, quiet.errors) == (0, usual.output, "")
    assert "float32" in run("predict", image, "--update", "never", "--variant", "int8").errors


def test_benchmark_measures_every_variant(
    run: Run, store: Store, models: Path, state: Path
) -> None:
    release(store, models, 1, ["float32", "int8_io", "nan"])
    shown = run("benchmark", "--threads", "1,2", "--runs", "1", "--variant", "int8_io")
    assert shown.code == 0
    assert [line.split()[:2] for line in shown.output.splitlines()[2:]] == [
        ["int8_io", "1"],
        ["int8_io", "2"],
    ]
    said = run("benchmark", "--threads", "1", "--runs", "5", "--json")
    assert said.code == 3, "one of them fails"
    assert "nan: The model gave a probability that is not a finite number" in said.errors
    document = json.loads(said.output)
    assert document["model"] == "pets"
    assert [each["variant"] for each in document["figures"]] == ["float32", "int8_io", "nan"]
    for each in document["figures"]:
        if each["error"] is None:
            assert 0 < each["p50"] <= each["p95"] <= each["p99"]
            assert min(each["first"], each["load"]) > 0
            assert 0 < each["memory"] <= each["peak"]
    assert [*(state / "pets.production" / "downloads").iterdir()] == []


def test_a_device_in_order_is_told_so(run: Run, store: Store, models: Path) -> None:
    release(store, models, 1, golden=golden_pair(models, store))
    run("pull")
    said = run("doctor")
    assert said.code == 0
    levels = {line.split()[1]: line.split()[0] for line in said.output.splitlines()}
    parts = (
        "runtime", "state", "clock", "model", "disk", "memory", "registry", "signatures", "channel",
    )  # fmt: skip
    assert levels == dict.fromkeys(parts, "ok")


def _away(store: Store, models: Path, state: Path) -> None:
    store.path.rename(store.path.with_name("away"))


def _moved(store: Store, models: Path, state: Path) -> None:
    release(store, models, 2)


def _floor(store: Store, models: Path, state: Path) -> None:
    pets = device(store, state)
    with pets.folder.locked():
        pets.folder.write(replace(pets.folder.read(), floor=time.time() + 7_200))


def _flip(store: Store, models: Path, state: Path) -> None:
    (file,) = state.rglob("model.tflite")
    file.write_bytes(file.read_bytes()[:-1])


def _break_state(store: Store, models: Path, state: Path) -> None:
    (state / "pets.production" / "state.json").write_bytes(b"{}")


def _reject(store: Store, models: Path, state: Path) -> None:
    release(store, models, 2, ["nan"])
    main(["pull"])


def _expiring(store: Store, models: Path, state: Path) -> None:
    with signed_days_ago(25):
        release(store, models, 1)
        store.repository().refresh()


def _expired(store: Store, models: Path, state: Path) -> None:
    with signed_days_ago(40):
        store.repository().refresh()


def _signed_for_too_long(store: Store, models: Path, state: Path) -> None:
    with signed_days_ago(-400):
        store.repository().refresh()


def _damage_trust(store: Store, models: Path, state: Path) -> None:
    (state / "trusted.json").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("change", "level", "part", "message"),
    [
        (_away, "problem", "registry", "not a model registry"),
        (_moved, "warning", "channel", "`edgeline pull` installs it"),
        (_floor, "problem", "clock", "Set it"),
        (_flip, "problem", "model", "missing or damaged"),
        (_break_state, "ok", "state", "pets.production"),
        (_reject, "problem", "channel", "v2 failed its trial here: nan"),
        (_expiring, "warning", "signatures", "they expire soon: timestamp on"),
        (_expired, "problem", "registry", "too old to be trusted"),
        (_signed_for_too_long, "problem", "signatures", "than root lets them: timestamp until"),
        (_damage_trust, "problem", "registry", "trusted.json is damaged"),
    ],
)
def test_the_doctor_finds(
    change: Callable[[Store, Path, Path], None],
    level: str,
    part: str,
    message: str,
    run: Run,
    store: Store,
    models: Path,
    state: Path,
) -> None:
    release(store, models, 1)
    run("pull")
    change(store, models, state)
    said = run("doctor", "--json")
    findings = [json.loads(line) for line in said.output.splitlines()]
    (found,) = [each for each in findings if each["part"] == part]
    assert (found["level"], said.code) == (level, 3 if level == "problem" else 0)
    assert message in found["text"]


def test_the_doctor_finds_both_distributions_in_one_environment(
    run: Run, store: Store, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(store, models, 1)
    run("pull")
    for name in ("edgeline", "edgeline-registry"):
        folder = tmp_path / f"{name.replace('-', '_')}-9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = run("doctor")
    assert said.code == 3
    assert "pip uninstall edgeline edgeline-registry, and install one" in said.output


@contextmanager
def _watching(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeline", "watch", *arguments],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _lines(process: subprocess.Popen[str], end: str) -> list[str]:
    """Read what a process says, up to a line with `end` in it."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if end in line:
            return said
    raise AssertionError(f"it ended before it said {end!r}: {said}")


def _get(port: int, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_watch_serves_follows_and_ends(
    environment: None, store: Store, models: Path, tmp_path: Path, photos: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$EDGELINE_MODEL $EDGELINE_VERSION $1" >> {tmp_path}/told\n')
    hook.chmod(0o755)
    release(store, models, 1)
    with _watching("--port", "0", "--interval", "600", "--on-update", str(hook), "x;y") as process:
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)", _lines(process, "listening")[-1])
        _lines(process, "serving pets v1")
        assert _get(int(port), "/healthz") == (200, "ok\n")
        status, text = _get(int(port), "/predict", (photos / "a.png").read_bytes())
        assert status == 200
        said = json.loads(text)
        assert (said["version"], said["label"] in store.contract.labels) == (1, True)
        assert _get(int(port), "/predict", b"no image")[0] == 422
        metrics = _get(int(port), "/metrics")[1]
        assert f'edgeline_predictions_total{{label="{said["label"]}"}} 1' in metrics
        assert "edgeline_image_errors_total 1" in metrics
        assert 'version="v1"' in metrics
        release(store, models, 2)
        process.send_signal(signal.SIGHUP)
        _lines(process, "serving pets v2")
        # The hook comes after the switch, and the next answer after the hook.
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.returncode == 0
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0] == "pets v1 x;y"


def test_the_health_server_is_careful(environment: None, store: Store, models: Path) -> None:
    with _watching("--port", "0") as process:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", _lines(process, "listening")[-1])[0])
        _lines(process, "has no release of 'pets'")
        status, text = _get(port, "/healthz")
        assert (status, "has no release of 'pets'" in text) == (503, True)
        assert _get(port, "/predict", b"x")[0] == 503
        assert _get(port, "/")[0] == 404
        assert _get(port, "/elsewhere", b"x")[0] == 404
        assert _get(port, "/metrics", Host="evil.example")[0] == 403
        assert _get(port, "/predict", b"x", Origin="http://evil.example")[0] == 403
        assert 'edgeline_last_error_info{kind="NotFoundError"} 1' in _get(port, "/metrics")[1]
        for head, code in (
            (b"Content-Length: 99999999999", b"413"),
            (b"Content-Length: -1", b"411"),
            (b"Transfer-Encoding: chunked", b"411"),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(
                    b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n"
                )
                assert client.recv(1000).split()[1] == code


def test_a_taken_port_is_told(run: Run, store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = run("watch", "--port", str(taken.getsockname()[1]))
    assert said.code == 3
    assert "cannot be listened on" in said.errors
