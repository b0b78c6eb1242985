"""Small sets of images that training can tell apart, with the graph that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.examples import png, write_examples, write_transform_graph
from components.examples import TransformedExamples
from pipeline.config import TrainerConfig
from pipeline.training.features import LabelledExamples
from pipeline.training.inputs import Job
from pipeline.training.model import build_base

SIDE = 32
# It has half of the layers that the default has, and trains in half of the time.
BASE = "resnet50v2"
LABELS = ("dark", "spotted")

MakeJob = Callable[..., Job]


def image(generator: np.random.Generator, spotted: bool, contrast: int = 60) -> NDArray[np.uint8]:
    """Noise; with a brighter spot somewhere, if spotted."""
    pixels = generator.integers(0, 120, (40, 40, 3), np.uint8)
    if spotted:
        top, left = generator.integers(4, 24, 2)
        pixels[top : top + 12, left : left + 12] += np.uint8(contrast)
    return pixels


def images(seed: int, dark: int, spotted: int, contrast: int = 60) -> Iterator[tuple[bytes, str]]:
    """Encoded images and labels, mixed."""
    generator = np.random.default_rng(seed)
    kinds = generator.permutation([False] * dark + [True] * spotted)
    for kind in kinds:
        yield png(image(generator, bool(kind), contrast)), LABELS[int(kind)]


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transform_graph(tmp_path_factory.mktemp("transform"), SIDE, LABELS)


@pytest.fixture(scope="session")
def splits(
    tmp_path_factory: pytest.TempPathFactory, graph: Path
) -> tuple[LabelledExamples, LabelledExamples]:
    """A train split of 75 and an eval split of 20 images."""
    folder = tmp_path_factory.mktemp("examples")
    train = write_examples(folder / "train.gz", images(0, 40, 35))
    evaluation = write_examples(folder / "eval.gz", images(1, 10, 10))
    return read(train, graph), read(evaluation, graph)


def read(files: list[str], graph: Path) -> LabelledExamples:
    return LabelledExamples.read(TransformedExamples(files, graph))


@pytest.fixture
def make_job(
    splits: tuple[LabelledExamples, LabelledExamples], tmp_path: Path
) -> Callable[..., Job]:
    """Makes a training of few epochs on an untrained base; settings by keyword.

    Jobs with the same `state` are runs and reruns of one training.
    """

    def make(state: str = "state", **settings: Any) -> Job:
        few = {"base": BASE, "base_weights": "random", "epochs": 2, "learning_rate": 1e-3}
        config = TrainerConfig(**{**few, **settings})
        (tmp_path / state).mkdir(exist_ok=True)
        return Job(config, LABELS, *splits, tmp_path / "log", tmp_path / state)

    return make


@pytest.fixture
def base() -> keras.Model:
    return untrained(seed=0)


def untrained(seed: int, base: str = BASE) -> keras.Model:
    """A base, the same for each seed."""
    keras.utils.set_random_seed(seed)
    return build_base(SIDE, SIDE, "random", base)
