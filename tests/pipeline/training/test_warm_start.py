"""Going on from an earlier model: what fits is taken over whole, what does not is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.config import TrainerConfig
from pipeline.data import preprocessing
from pipeline.errors import UserError
from pipeline.training import warm_start
from pipeline.training.model import Statistics, build_base, build_head, join
from pipeline.training.trainer import save
from tests.pipeline.training.conftest import LABELS, SIDE

PIXELS = np.random.default_rng(0).random((4, SIDE, SIDE, 3), np.float32)


@pytest.fixture(scope="module")
def earlier() -> keras.Model:
    keras.utils.set_random_seed(3)
    base = build_base(SIDE, SIDE, "random")
    statistics = Statistics.of(np.random.default_rng(0).random((4, 1024), np.float32))
    return join(base, build_head("pool", base.output_shape[1:], 2, 0.2, statistics))


@pytest.fixture(scope="module")
def saved(earlier: keras.Model, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier") / "Format-Serving"
    contract = preprocessing.contract(SIDE, SIDE, 512, LABELS)
    save(earlier, tft.TFTransformOutput(str(graph)), contract, folder)
    return folder


def loaded(path: Path, labels: tuple[str, ...] = LABELS, **settings: Any) -> keras.Model:
    config = TrainerConfig(warm_start=str(path), **settings)
    base = build_base(SIDE, SIDE, "random")
    return join(base, warm_start.load(base, config, labels))


def read_saved_model(folder: Path) -> saved_model_pb2.SavedModel:
    content = (folder / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content)


def test_a_saved_model_is_taken_over_whole(saved: Path, earlier: keras.Model) -> None:
    np.testing.assert_array_equal(loaded(saved)(PIXELS), earlier(PIXELS))


def test_a_saved_model_holds_the_network_once(saved: Path) -> None:
    # Every copy is loaded by each step that opens the model, and takes seconds there.
    functions = read_saved_model(saved).meta_graphs[0].graph_def.library.function
    convolutions = [
        sum(node.op == "Conv2D" for node in function.node_def)
        for function in functions
        if not function.signature.name.startswith("__inference__traced")
    ]
    assert [count for count in convolutions if count] == [120]


def test_a_saved_model_of_an_earlier_version_is_taken_over(
    saved: Path, earlier: keras.Model, tmp_path: Path
) -> None:
    folder = tmp_path / "Format-Serving"
    shutil.copytree(saved, folder)
    tf.train.Checkpoint(_model=earlier).write(str(folder / "variables" / "variables"))
    np.testing.assert_array_equal(loaded(folder)(PIXELS), earlier(PIXELS))


def test_a_weights_file_is_taken_over_whole(earlier: keras.Model, tmp_path: Path) -> None:
    file = tmp_path / "model.weights.h5"
    earlier.save_weights(file)
    np.testing.assert_array_equal(loaded(file)(PIXELS), earlier(PIXELS))


def test_other_classes_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"classes dark, spotted; expected .*: spotted, d"):
        loaded(saved, labels=("spotted", "dark"))


def test_another_head_is_refused_in_one_line(
    saved: Path, earlier: keras.Model, tmp_path: Path
) -> None:
    file = tmp_path / "model.weights.h5"
    earlier.save_weights(file)
    for path in (saved, file):
        with pytest.raises(UserError, match="does not hold a DenseNet121 with a 'flatten'") as no:
            loaded(path, head="flatten")
        assert len(str(no.value).splitlines()) == 1


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither the folder of a SavedModel"):
        loaded(tmp_path / "none")
    with pytest.raises(UserError, match="is not a SavedModel of a Trainer"):
        loaded(tmp_path)
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(UserError, match="is not a SavedModel of a Trainer"):
        loaded(tmp_path / "other")
