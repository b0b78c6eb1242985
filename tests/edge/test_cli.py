"""The command line, run as users run it: predictions, and what importing costs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from benchmarks.wheels import PROJECT
from tests.edge.test_packed import packed_model

if TYPE_CHECKING:
    from edgeline.contract import PreprocessingContract
    from tests.edge.conftest import Store

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def root(pets: "Store") -> Path:
    """The file that a device trusts the registry by."""
    path = pets.files / "root.json"
    path.write_bytes(pets.root)
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images to predict, and a home for what is remembered of registries."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("EDGELINE_ROOT", raising=False)
    monkeypatch.delenv("EDGELINE_STATE", raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"red": "red", "a longer name": "blue"}.items():
        Image.new("RGB", (20, 30), colour).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_importing_edgeline_loads_nothing_heavy(python: Python) -> None:
    heavy = "{'numpy', 'PIL', 'ai_edge_litert', 'tensorflow'} & {*sys.modules}"
    done = python("-c", f"import sys, edgeline, edgeline.cli; print({heavy})")
    assert done.stdout == "set()\n"


WITHOUT_DEVICE_LIBRARIES = (
    "import sys; sys.modules |= dict.fromkeys(('PIL', 'ai_edge_litert', 'numpy'));"
    "from edgeline.cli import main; sys.exit(main(sys.argv[1:]))"
)


def test_predicting_says_what_is_missing_where_only_a_registry_is_looked_after(
    python: Python, pets: "Store", root: Path, photos: Path
) -> None:
    arguments = ("--registry", pets.path, "--model", "pets", "--root", root)
    done = python("-c", WITHOUT_DEVICE_LIBRARIES, "predict", photos / "red.png", *arguments)
    assert done.returncode == 3
    assert "pip install 'edgeline-registry[device]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_looking_after_a_registry_needs_neither_numpy_nor_pillow_nor_litert(
    python: Python,
) -> None:
    publish = "publish.release, edgeline.publish.channels, edgeline.publish.verify"
    fleet = "fleet.gather, edgeline.fleet.halting, edgeline.fleet.page, edgeline.telemetry.places"
    code = f"import sys, edgeline.{publish}, edgeline.{fleet}; "
    done = python("-c", code + "print({'PIL', 'ai_edge_litert', 'numpy'} & {*sys.modules})")
    assert done.stdout == "set()\n", done.stderr


def test_help_loads_nothing_that_it_does_not_need(python: Python) -> None:
    code = (
        "import sys; from edgeline.cli import main\n"
        "try: main(['registry', 'promote', '--help'])\n"
        "finally: print({'tuf', 'cryptography', 'urllib3', 'numpy'} & {*sys.modules})"
    )
    done = python("-c", code)
    assert done.stdout.endswith("\nset()\n")


def test_a_start_loads_no_commands_of_a_group_that_it_does_not_ask_for(python: Python) -> None:
    code = (
        "import sys; from edgeline.cli import main\n"
        "try: main(['predict', '--help'])\n"
        "finally: print([name for name in sys.modules if 'edgeline.cli.registry.' in name])"
    )
    assert python("-c", code).stdout.endswith("\n[]\n")


def test_the_package_offers_its_public_names_and_no_others(python: Python) -> None:
    code = "import edgeline; [getattr(edgeline, n) for n in dir(edgeline)]; edgeline.Clasifier"
    done = python("-c", code)
    assert "module 'edgeline' has no attribute 'Clasifier'" in done.stderr


def test_predicting_does_not_need_tensorflow(
    python: Python, pets: "Store", root: Path, photos: Path
) -> None:
    code = (
        "import sys; from edgeline.cli import main; code = main(sys.argv[1:]); "
        "print('tensorflow' in sys.modules); sys.exit(code)"
    )
    arguments = ("--registry", pets.path, "--model", "pets", "--root", root)
    done = python("-c", code, "predict", photos / "red.png", *arguments)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == "False"


def test_predictions_are_aligned(python: Python, pets: "Store", root: Path, photos: Path) -> None:
    paths = [photos / "red.png", photos / "a longer name.png"]
    options = ("--registry", pets.path, "--root", root, "--model", "pets", "--top", "2")
    done = python("-m", "edgeline", "predict", *paths, *options)
    assert done.returncode == 0, done.stderr
    width = len(str(paths[1]))
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        assert line[: width + 2] == f"{path!s:<{width}}  "
        label, probability, second, _ = line[width:].split()
        assert {label, second} < {"cat", "dog", "bird"}
        assert 1 / 3 <= float(probability) <= 1


def test_json_says_everything(python: Python, pets: "Store", root: Path, photos: Path) -> None:
    options = ("--registry", pets.path, "--root", root, "--model", "pets")
    output = ("--variant", "float32", "--json")
    done = python("-m", "edgeline", "predict", photos / "red.png", *options, *output)
    (line,) = done.stdout.splitlines()
    document = json.loads(line)
    probabilities = document.pop("probabilities")
    assert [*probabilities] == ["cat", "dog", "bird"]
    assert np.isclose(sum(probabilities.values()), 1)
    assert document.pop("probability") == max(probabilities.values())
    assert document.pop("label") == max(probabilities, key=lambda label: probabilities[label])
    assert document.pop("digest").startswith("sha256:")
    assert document == {
        "path": str(photos / "red.png"),
        "model": "pets",
        "version": 1,
        "variant": "float32",
    }


def test_a_damaged_image_does_not_stop_the_others(
    python: Python, pets: "Store", root: Path, photos: Path
) -> None:
    paths = [photos / "broken.jpg", photos / "red.png", photos / "missing.png"]
    options = ("--registry", pets.path, "--root", root, "--model", "pets")
    done = python("-m", "edgeline", "predict", *paths, *options)
    assert done.returncode == 1
    assert done.stdout.startswith(str(photos / "red.png"))
    assert len(done.stdout.splitlines()) == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("edgeline: ")]
    assert len(errors) == 2
    assert "broken.jpg" in errors[0]
    assert "missing.png" in errors[1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        pytest.param(["--model", "birds"], 3, "edgeline: ", id="an unknown model"),
        pytest.param(["--model", "../x"], 3, "is named by", id="a malformed model"),
        pytest.param(["--channel", "canary"], 3, "it has pets/candidate", id="an empty channel"),
        pytest.param(["--variant", "int4"], 3, "it has float32, int8_io", id="no such variant"),
        pytest.param(["--registry", "/nowhere"], 3, "not a model registry", id="no registry"),
        pytest.param(["--registry", "oci://"], 3, "oci://", id="a malformed location"),
        pytest.param(["--root", "/nowhere"], 3, "cannot be read", id="no root"),
        pytest.param(["--root", __file__], 4, "is not the root metadata", id="something else"),
        pytest.param(["--top", "0"], 2, "expected at least 1", id="no labels wanted"),
        pytest.param(["--threads", "many"], 2, "invalid", id="threads that are no number"),
        pytest.param(["--top", "2", "--json"], 2, "not allowed with", id="two kinds of output"),
    ],
)
def test_a_mistake_is_told_in_one_line_about(
    changes: list[str],
    code: int,
    message: str,
    python: Python,
    pets: "Store",
    root: Path,
    photos: Path,
) -> None:
    options = ("--registry", pets.path, "--root", root, "--model", "pets", *changes)
    done = python("-m", "edgeline", "predict", photos / "red.png", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_registry_is_trusted_by_a_root_that_has_to_be_given(
    python: Python, pets: "Store", root: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("-m", "edgeline", "predict", photos / "red.png", "--model", "pets")
    done = python(*command, "--registry", pets.path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "edgeline: No trusted root: expected --root FILE, or EDGELINE_ROO"
    )
    assert "get it from whoever keeps the registry" in done.stderr
    monkeypatch.setenv("EDGELINE_ROOT", str(root))
    assert python(*command, "--registry", pets.path).returncode == 0


@pytest.mark.parametrize("given", ["--state", "EDGELINE_STATE", ""])
def test_what_was_seen_is_remembered(
    given: str,
    python: Python,
    pets: "Store",
    root: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, options = tmp_path / "remembered", ["--root", root]
    if given == "--state":
        options += ["--state", state]
    elif given:
        monkeypatch.setenv(given, str(state))
    else:
        state = tmp_path / "state" / "edgeline"
    older = (pets.path / "index.json").read_bytes()
    pets.publish(channel="canary")
    command = ("-m", "edgeline", "predict", photos / "red.png", "--model", "pets")
    assert python(*command, "--registry", pets.path, *options).returncode == 0
    assert [*state.rglob("trusted.json")]
    (pets.path / "index.json").write_bytes(older)
    done = python(*command, "--registry", pets.path, *options)
    assert "cannot be trusted" in done.stderr


@pytest.mark.parametrize("command", [[], ["predict"], ["registry", "list"]])
def test_help_shows_the_exit_codes(command: list[str], python: Python) -> None:
    done = python("-m", "edgeline", *command, "--help")
    assert done.returncode == 0
    assert "exit codes:" in done.stdout


def test_a_reader_that_has_enough_is_no_error(python: Python, pets: "Store", root: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "sys.exit(subprocess.run([sys.executable, '-m', 'edgeline', *sys.argv[1:]], "
        "stdout=writer).returncode)"
    )
    done = python("-c", code, "registry", "list", pets.path, "--root", root)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_model_file_predicts_without_a_registry(
    python: Python, photos: Path, models: Path, contract: "PreprocessingContract", tmp_path: Path
) -> None:
    packed = tmp_path / "model.tflite"
    packed.write_bytes(
        packed_model(
            (models / "float32.tflite").read_bytes(), {"preprocessing.json": contract.to_json()}
        )
    )
    done = python("-m", "edgeline", "predict", packed, photos / "red.png")
    assert (done.returncode, done.stderr) == (0, ""), "LiteRT says nothing of XNNPACK"
    assert done.stdout.split()[1] in contract.labels
    done = python("-m", "edgeline", "predict", packed, "x.png", "--registry", "somewhere")
    assert (done.returncode, "--registry does not apply" in done.stderr) == (2, True)
    done = python("-m", "edgeline", "predict", packed)
    assert (done.returncode, "Expected images after" in done.stderr) == (2, True)
    done = python("-m", "edgeline", "predict", "x.png")
    assert (done.returncode, "with --registry, or in $EDGELINE" in done.stderr) == (2, True)


def test_the_version_is_told(python: Python) -> None:
    done = python("-m", "edgeline", "--version")
    assert done.stdout == f"edgeline {PROJECT['project']['version']}\n"


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 3, "edgeline: The output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_streams_that_take_nothing_are_no_bug(
    redirection: str, code: int, message: str, python: Python, pets: "Store", root: Path
) -> None:
    command = f'exec "$0" -m edgeline registry list "$1" --root "$2" {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, pets.path, root],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, message)
