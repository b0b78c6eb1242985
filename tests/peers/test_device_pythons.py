"""The device package alone, in a clean environment of every Python that it supports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.tflite_models import TFLiteModelsFolder
from edgeline.contract import PreprocessingContract
from tests.conftest import make_registry, publish_release
from tests.edge.judged import judged

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
# With what `pip install` finds; and with the oldest that the package takes.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "3.10": ("3.10",),
    "3.11": ("3.11",),
    "3.12": ("3.12",),
    "3.13": ("3.13",),
    "oldest": (
        "3.10", "ai-edge-litert==1.2.0", "numpy==1.23.5", "pillow==10.3.0", "urllib3==2.2.0",
    ),
}  # fmt: skip
CONTRACT = PreprocessingContract(height=2, width=2, max_side=512, labels=("red", "green"))
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0)}


def interpreter(version: str) -> str:
    """Find a Python, in pyenv's folder first: its shims need not be set to it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    python = found[-1] if found else shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    return python


def make_environment(
    folder: Path, version: str, *others: str, extras: str = "", part: str = "edge"
) -> None:
    """Does `pip install ./edge` with a version of Python, in an environment in `folder`."""
    subprocess.run([interpreter(version), "-m", "venv", str(folder)], check=True)
    # A copy: a build in the checkout would leave files there.
    shutil.copytree(ROOT / "edge", folder / "edge", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{folder / part}{extras}", *others], check=True)


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `pip install ./edge` in it, and nothing else."""
    folder = tmp_path_factory.mktemp("python")
    make_environment(folder, *ENVIRONMENTS[request.param])
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry, and with the keys that it is trusted by."""
    folder = tmp_path_factory.mktemp("published")
    make_registry(folder, "colours")
    variants = {"float32": colours_model()}
    publish_release(folder, "colours", variants, CONTRACT, verdict=judged(variants))
    return folder


def colours_model() -> bytes:
    """A TFLite model that tells red from green."""
    module = tf.Module()
    module.weights = tf.Variable(np.eye(12, 2, dtype=np.float32))
    pixels = tf.TensorSpec([1, 2, 2, 3], tf.float32, "pixels")

    def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(tf.reshape(pixels, [1, 12]) @ module.weights)}

    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    model: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    return model


def run_in(device: Path, *arguments: str) -> str:
    """Runs a command of an environment; returns what it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(device / "bin" / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        cwd=device,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_pulls_predicts_and_is_in_order(device: Path, registry: Path, tmp_path: Path) -> None:
    where = [
        "--registry", str(registry / "registry"), "--model", "colours", "--channel", "candidate",
        "--root", str(registry / "keys" / "root.json"), "--state", str(tmp_path / "state"),
    ]  # fmt: skip
    assert "is served from now on" in run_in(device, "edgeline", "pull", *where)
    for name, colour in COLOURS.items():
        image = tmp_path / f"{name}.jpg"
        Image.new("RGB", (20, 10), colour).save(image)
        said: dict[str, Any] = json.loads(
            run_in(device, "edgeline", "predict", str(image), *where, "--json", "--update", "never")
        )
        assert said["label"] == name
    assert "problem" not in run_in(device, "edgeline", "doctor", *where)
    assert "float32" in run_in(device, "edgeline", "benchmark", *where, "--runs", "3")


# Prints the label it finds for each image, a line a model.
CLASSIFY = """\
import json, pathlib, sys
from edgeline import Classifier
from edgeline.contract import PreprocessingContract

contract = PreprocessingContract.from_json(pathlib.Path(sys.argv[1]).read_bytes())
for model in json.loads(sys.argv[2]):
    with Classifier.from_file(model, contract) as classifier:
        print(json.dumps([classifier.predict(i).label for i in json.loads(sys.argv[3])]))
"""


def test_every_variant_names_the_class_that_it_names_here(
    device: Path, models: TFLiteModelsFolder, classified: dict[Path, str], tmp_path: Path
) -> None:
    contract = tmp_path / "contract.json"
    contract.write_bytes(models.contract.to_json())
    files = [str(models.path(model)) for model in models.models]
    photos = json.dumps([*map(str, classified)])
    said = run_in(device, "python", "-c", CLASSIFY, str(contract), json.dumps(files), photos)
    for file, line in zip(files, said.splitlines(), strict=True):
        assert json.loads(line) == [*classified.values()], file


def test_nothing_heavy_comes_along(device: Path) -> None:
    installed = json.loads(run_in(device, "python", "-m", "pip", "list", "--format=json"))
    names = {package["name"].lower() for package in installed}
    assert "edgeline" in names
    assert not names & {"cryptography", "cffi", "oras", "requests", "scipy", "pandas"}
    assert not {name for name in names if name.startswith(("tensorflow", "tfx", "keras", "apache"))}


def test_a_laptop_promotes_without_what_predicts(registry: Path, tmp_path: Path) -> None:
    laptop = tmp_path / "laptop"
    make_environment(laptop, "3.11", part="edge/registry")
    installed = json.loads(run_in(laptop, "python", "-m", "pip", "list", "--format=json"))
    assert not {"ai-edge-litert", "numpy", "pillow"} & {each["name"].lower() for each in installed}
    shutil.copytree(registry, tmp_path / "published")
    store, keys = tmp_path / "published" / "registry", tmp_path / "published" / "keys"
    signing = ["--root", str(keys / "root.json"), "--key", str(keys), "--yes"]
    move = ["--from", "candidate", "--to", "production"]
    said = run_in(laptop, "edgeline", "registry", "promote", str(store), "colours", *move, *signing)
    assert "colours/production serves v1" in said
    assert re.fullmatch(r"edgeline [0-9.]+\n", run_in(laptop, "edgeline", "--version"))
