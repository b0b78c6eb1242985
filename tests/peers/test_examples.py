"""The examples in other languages give a model what the Python package gives it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeline.contract import PreprocessingContract
from edgeline.preprocessing import load_image, load_pixels

pytestmark = pytest.mark.peers

EXAMPLES = Path(__file__).parents[2] / "edge" / "examples"
CONTRACT = PreprocessingContract(height=96, width=80, max_side=512, labels=("red", "green"))


def picture(height: int, width: int, channels: int = 3) -> Image.Image:
    """Smooth and noisy at once, so that each step of resizing shows."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(y / (7 + c)) + np.cos(x / (5 + c)) for c in range(channels)], axis=2)
    noisy = waves * 50 + 127 + generator.normal(0, 20, waves.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8).squeeze())


def save_sideways(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(700, 900).save(file, quality=90, exif=exif)


# By file, how it is made: smaller than the model's input, larger, and beyond the contract's limit.
PICTURES: dict[str, Callable[[Path], None]] = {
    "small.png": picture(31, 47).save,
    "middling.png": picture(300, 401).save,
    "large.png": picture(1203, 897).save,
    "ribbon.png": picture(1200, 9).save,
    "gray.png": picture(300, 300, channels=1).save,
    "clear.png": picture(300, 300, channels=4).save,
    "sideways.jpg": save_sideways,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for name, save in PICTURES.items():
        save(folder / name)
    return {name: folder / name for name in PICTURES}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, built as their first lines say."""
    folder = tmp_path_factory.mktemp("examples") / "examples"
    shutil.copytree(EXAMPLES, folder)
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        check=True,
    )
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["g++", *flags, "-o", "preprocess", "preprocess.cc"], cwd=folder, check=True)
    (folder / "contract.json").write_bytes(CONTRACT.to_json())
    return folder


def in_node(examples: Path, picture: Path) -> NDArray[np.float32]:
    command = ["node", "preprocess.mjs", "contract.json", str(picture)]
    return as_pixels(subprocess.run(command, cwd=examples, capture_output=True, check=True).stdout)


def in_cpp(examples: Path, picture: Path) -> NDArray[np.float32]:
    """From what Python decodes: the example has no decoder."""
    decoded = load_image(picture)
    ppm = b"P6 %d %d 255\n" % (decoded.shape[1], decoded.shape[0]) + decoded.tobytes()
    sides = map(str, (CONTRACT.height, CONTRACT.width, CONTRACT.max_side))
    command = [str(examples / "preprocess"), *sides]
    return as_pixels(subprocess.run(command, input=ppm, capture_output=True, check=True).stdout)


def as_pixels(raw: bytes) -> NDArray[np.float32]:
    return np.frombuffer(raw, "<f4").reshape(CONTRACT.height, CONTRACT.width, 3)


@pytest.mark.parametrize("name", PICTURES)
def test_cpp_computes_the_same_to_the_last_bit(
    name: str, examples: Path, pictures: dict[str, Path]
) -> None:
    expected = load_pixels(CONTRACT, pictures[name])
    assert in_cpp(examples, pictures[name]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", PICTURES)
def test_node_computes_the_same_but_for_rounding_under_transparency(
    name: str, examples: Path, pictures: dict[str, Path]
) -> None:
    expected = load_pixels(CONTRACT, pictures[name])
    found = in_node(examples, pictures[name])
    if name == "clear.png":
        assert np.abs(found - expected).max() <= np.float32(1.01 / 255)
    else:
        assert found.tobytes() == expected.tobytes()
