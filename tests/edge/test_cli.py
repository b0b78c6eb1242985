"""The command line, run as users run it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.edge.conftest import Store

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
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


def test_publishing_needs_no_numpy(python: Python) -> None:
    done = python("-c", "import sys, edgeline.registry.writer; print('numpy' in sys.modules)")
    assert done.stdout == "False\n"


def test_the_package_offers_its_public_names_and_no_others(python: Python) -> None:
    code = "import edgeline; [getattr(edgeline, n) for n in dir(edgeline)]; edgeline.Clasifier"
    done = python("-c", code)
    assert "module 'edgeline' has no attribute 'Clasifier'" in done.stderr


def test_predicting_does_not_need_tensorflow(python: Python, pets: "Store", photos: Path) -> None:
    code = (
        "import sys; from edgeline.cli import main; code = main(sys.argv[1:]); "
        "print('tensorflow' in sys.modules); sys.exit(code)"
    )
    arguments = ("--registry", pets.path, "--model", "pets")
    done = python("-c", code, "predict", photos / "red.png", *arguments)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == "False"


def test_predictions_are_aligned(python: Python, pets: "Store", photos: Path) -> None:
    paths = [photos / "red.png", photos / "a longer name.png"]
    options = ("--registry", pets.path, "--model", "pets", "--top", "2")
    done = python("-m", "edgeline", "predict", *paths, *options)
    assert done.returncode == 0, done.stderr
    width = len(str(paths[1]))
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        assert line[: width + 2] == f"{path!s:<{width}}  "
        label, probability, second, _ = line[width:].split()
        assert {label, second} < {"cat", "dog", "bird"}
        assert 1 / 3 <= float(probability) <= 1


def test_json_says_everything(python: Python, pets: "Store", photos: Path) -> None:
    options = ("--registry", pets.path, "--model", "pets", "--variant", "float32", "--json")
    done = python("-m", "edgeline", "predict", photos / "red.png", *options)
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
    python: Python, pets: "Store", photos: Path
) -> None:
    paths = [photos / "broken.jpg", photos / "red.png", photos / "missing.png"]
    options = ("--registry", pets.path, "--model", "pets")
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
        pytest.param(["--channel", "canary"], 3, "it has pets.candidate", id="an empty channel"),
        pytest.param(["--variant", "int4"], 3, "it has float32, int8_io", id="no such variant"),
        pytest.param(["--registry", "/nowhere"], 3, "not a model registry", id="no registry"),
        pytest.param(["--top", "0"], 2, "expected at least 1", id="no labels wanted"),
        pytest.param(["--threads", "many"], 2, "invalid", id="threads that are no number"),
        pytest.param(["--top", "2", "--json"], 2, "not allowed with", id="two kinds of output"),
    ],
)
def test_a_mistake_is_told_in_one_line_about(
    changes: list[str], code: int, message: str, python: Python, pets: "Store", photos: Path
) -> None:
    options = ("--registry", pets.path, "--model", "pets", *changes)
    done = python("-m", "edgeline", "predict", photos / "red.png", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_releases_are_listed(python: Python, pets: "Store") -> None:
    pets.publish({"float32": b"x" * 7_340_000}, model="birds")
    done = python("-m", "edgeline", "registry", "list", pets.path)
    header, first, second = done.stdout.splitlines()
    assert header.split() == ["RELEASE", "MODEL", "CHANNELS", "VARIANTS"]
    assert first.startswith("v1       pets   candidate, production  float32 (")
    assert second == "v2       birds  candidate              float32 (7.3 MB)"

    done = python("-m", "edgeline", "registry", "list", pets.path, "--json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["tag"] for document in documents] == ["v1", "v2"]
    assert documents[1]["variants"] == {"float32": 7_340_000}
    assert documents[0]["channels"] == ["candidate", "production"]


def test_a_folder_without_a_registry_is_told_so(python: Python, tmp_path: Path) -> None:
    done = python("-m", "edgeline", "registry", "list", tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(f"edgeline: {tmp_path} is not a model registry")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["predict"], ["registry", "list"]])
def test_help_shows_the_exit_codes(command: list[str], python: Python) -> None:
    done = python("-m", "edgeline", *command, "--help")
    assert done.returncode == 0
    assert "exit codes:" in done.stdout
