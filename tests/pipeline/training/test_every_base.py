"""Every base through a whole run, from photos to files that passed; its own target, `test-bases`.

The weights are random, and the batch norms' statistics those of the photos: without them, what an
untrained MobileNetV3 says is below 1e-9, of which integers leave nothing. Such features tell a dark
picture from a bright one, more or less. How much of that is left in fewer bits says nothing of a
base: a network that has learned nothing answers a small change of its weights with any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from components.examples import TransformedExamples
from components.tflite_models import TFLiteModelsFolder
from components.trained_model import FEATURES_FILE, HISTORY_FILE, recipe_path, serving_model
from components.verdict import Verdict
from edgeline import Classifier
from pipeline.config import TrainerConfig
from pipeline.training.bases import BASES, Base
from pipeline.training.features import LabelledExamples
from pipeline.training.frontier import first_trained
from pipeline.training.inputs import Job
from pipeline.training.model import build_base, normalization
from pipeline.training.phases import train
from pipeline.training.trainer import train_network
from pipeline.training.tuner import Search
from pipeline.training.warm_start import load_model
from tests.conftest import Workspace, command
from tests.pipeline.training.conftest import SIDE, MakeJob, untrained

pytestmark = pytest.mark.bases

LABELS = ("bright", "dark")
DARKEST = {"bright": 200, "dark": 0}
GREY_LEVELS = 12  # that the pixels of a class differ by
IMAGES = 80  # of a class
TRAIN_IMAGES = 96  # of both
VARIANTS = ("float32", "float16", "dynamic", "int8", "weight_int4")
CONFIG = """\
name = "cells"

[ingest]
train = 0.6
eval = 0.2
test = 0.2
near_duplicates = "ignore"

[data]
path = "dataset"

[image]
height = 32
width = 32

[trainer]
base = "{base}"
base_weights = "{weights}"
epochs = 30
learning_rate = 0.01
fine_tune_epochs = 2
fine_tune_from = "{start}"
fine_tune_learning_rate = 1e-4
batch_size = 16

[rewriter]
variants = {variants}
calibration_images = 20

[gate]
min_accuracy = 0.55
max_drop = 0.2
require = ["float32", "float16"]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label, darkest in DARKEST.items():
        (folder / label).mkdir()
        for number in range(IMAGES):
            coarse = generator.integers(darkest, darkest + GREY_LEVELS, (4, 4, 3), np.uint8)
            photo = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            photo.save(folder / label / f"{number}.png")
    return folder


def read(files: Sequence[Path]) -> NDArray[np.float32]:
    """Their pixels in [0, 1], `[files, SIDE, SIDE, 3]`.

    Noise would be of another kind than what the statistics are of, which a random network answers
    with numbers so large that rounding decides.
    """
    return np.stack([np.asarray(Image.open(file), np.float32) / 255 for file in files])


@pytest.fixture(scope="module", params=BASES.values(), ids=list(BASES))
def base(request: pytest.FixtureRequest) -> Iterator[Base]:
    yield request.param
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def network(base: Base, photos: Path) -> keras.Model:
    """The base with random weights, and with the statistics of the photos."""
    made = untrained(0, base.name)
    made.trainable = True
    for layer in made.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the next batch's statistics, and nothing of those before
    made(normalization(made)(read(sorted(photos.glob("*/*.png")))), training=True)
    made.trainable = False
    return made


@pytest.fixture(scope="module")
def weights(base: Base, network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp(f"{base.name}-weights") / "base.weights.h5"
    network.save_weights(file)
    return file


@pytest.fixture(scope="module")
def ran(
    base: Base, weights: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A run of this base, by the command line."""
    folder = tmp_path_factory.mktemp(base.name)
    config = CONFIG.format(
        base=base.name, weights=weights, start=base.blocks[-1], variants=json.dumps(VARIANTS)
    )
    (folder / "cells.toml").write_text(config)
    ingested = command(folder, "ingest", str(photos), "dataset", "--config", "cells.toml")
    return Workspace(folder, ingested, command(folder, "run", "--config", "cells.toml"))


@pytest.fixture(scope="module")
def saved_model(ran: Workspace) -> Path:
    return serving_model(ran.artifact("Trainer", "model"))


def test_every_variant_is_made_and_judged(ran: Workspace) -> None:
    assert ran.first.returncode == 0, ran.first.stdout + ran.first.stderr
    made = TFLiteModelsFolder.load(ran.artifact("TFLiteRewriter", "tflite_models"))
    assert {model.variant: model.error for model in made.models} == dict.fromkeys(VARIANTS)
    assert all(model.parity for model in made.models)
    verdict = Verdict.load(ran.artifact("TFLiteEvaluator", "verdict"))
    assert {each.variant for each in verdict.variants if each.checks} == set(VARIANTS)
    assert all(each.error is None and each.latency_ms for each in verdict.variants)
    assert {"float32", "float16"} <= set(verdict.publishable)


def test_the_head_learns_from_features_that_are_kept_once(
    network: keras.Model, ran: Workspace
) -> None:
    log = ran.artifact("Trainer", "model_run")
    curves = json.loads((log / HISTORY_FILE).read_text())
    assert min(curves["head/loss"]) < 0.8 * curves["head/loss"][0]
    assert len(curves["fine_tune/val_cross_entropy"]) == 2
    # Without a cache, no features are kept.
    kept = np.load(log / FEATURES_FILE)["features"]
    assert kept.shape == (TRAIN_IMAGES, network.output_shape[-1])
    assert np.isfinite(kept).all()
    assert kept.std() > 0


def test_fine_tuning_changes_what_follows_its_frontier_and_nothing_before(
    base: Base, network: keras.Model, weights: Path, make_job: MakeJob
) -> None:
    """Without a head phase, than whose outcome it might be no better."""
    settings = {"epochs": 0, "fine_tune_epochs": 1, "fine_tune_learning_rate": 1e-3}
    job = make_job(base=base.name, fine_tune_from=base.blocks[-1], **settings)
    tuned = build_base(SIDE, SIDE, str(weights), base.name)
    _, curves = train(tuned, job)
    assert all(map(math.isfinite, chain.from_iterable(curves.values())))
    changed = [
        any(not np.array_equal(*pair) for pair in zip(*pairs, strict=True))
        for pairs in zip(
            (layer.get_weights() for layer in network.layers),
            (layer.get_weights() for layer in tuned.layers),
            strict=True,
        )
    ]
    first = first_trained(network, base.blocks[-1], 0)
    assert not any(changed[:first])
    assert any(changed[first:])


def test_the_saved_model_is_loaded_and_gone_on_with(
    saved_model: Path, ran: Workspace, photos: Path, tmp_path: Path
) -> None:
    pixels = read(sorted(photos.glob("*/1*.png")))
    said = tf.saved_model.load(str(saved_model)).signatures["pixels"](pixels=pixels)
    found = load_model(saved_model)(pixels).numpy()
    np.testing.assert_allclose(found, said["probabilities"].numpy(), atol=1e-4)

    job = going_on(saved_model, ran, tmp_path)
    _, curves = train_network(SIDE, SIDE, job)
    history = json.loads((ran.artifact("Trainer", "model_run") / HISTORY_FILE).read_text())
    before = min(min(history[f"{phase}/val_cross_entropy"]) for phase in ("head", "fine_tune"))
    assert curves["head/val_cross_entropy"] == [pytest.approx(before, abs=1e-3)]


def going_on(saved_model: Path, ran: Workspace, folder: Path) -> Job:
    """A training that sets out from a model, and hardly moves."""
    recipe = json.loads(recipe_path(saved_model).read_text())
    still = {"epochs": 1, "fine_tune_epochs": 0, "learning_rate": 1e-9}
    config = TrainerConfig(**{**recipe, **still, "warm_start": str(saved_model)})
    examples = ran.artifact("ImportExampleGen", "examples")
    graph = ran.artifact("Transform", "transform_graph")
    train, evaluation = (
        LabelledExamples.read(TransformedExamples([str(examples / split / "*")], graph))
        for split in ("Split-train", "Split-eval")
    )
    return Job(config, LABELS, train, evaluation, folder / "log", folder)


def test_a_search_tries_where_to_fine_tune_from(
    base: Base, weights: Path, make_job: MakeJob
) -> None:
    job = make_job(base=base.name, epochs=0, fine_tune_epochs=1)
    search = Search(build_base(SIDE, SIDE, str(weights), base.name), job, trials=2)
    search.search()
    trials = search.oracle.get_best_trials(2)
    assert {each.hyperparameters.get("fine_tune_from") for each in trials} <= set(base.tuned_starts)
    assert all(math.isfinite(trial.score) for trial in trials)


def test_a_device_says_what_the_model_says(ran: Workspace, saved_model: Path, photos: Path) -> None:
    files = sorted(photos.glob("*/1*.png"))
    exported = Classifier.from_file(ran.folder / "runs" / "cells" / "export" / "float32.tflite")
    said = np.stack([exported.predict(file).probabilities for file in files])
    pixels = np.stack([exported.prepare(file) for file in files])
    np.testing.assert_allclose(said, load_model(saved_model)(pixels).numpy(), atol=1e-3)
