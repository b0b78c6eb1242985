"""The rewriter on a small real SavedModel: files, metadata, determinism, recorded errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from components.tflite_models import TFLiteModelsFolder, sha256_of
from components.tflite_rewriter.metadata import METADATA_IDENTIFIER, METADATA_NAME, read_labels
from components.tflite_rewriter.rewrite import RewriteError, rewrite
from edgeline.contract import PreprocessingContract

LABELS = ("cat", "dog", "brontosaurus")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    module = tf.Module()
    weights = np.random.default_rng(0).normal(size=(16 * 16 * 3, len(LABELS))).astype(np.float32)
    module.weights = tf.Variable(weights / 20)

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, "pixels")])
    def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        flat = tf.reshape(pixels, [-1, 16 * 16 * 3])
        return {"probabilities": tf.nn.softmax(flat @ module.weights)}

    module.pixels = pixels
    tf.saved_model.save(module, str(folder), signatures={"pixels": pixels})
    contract = PreprocessingContract(height=16, width=16, max_side=512, labels=LABELS)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "preprocessing.json").write_bytes(contract.to_json())
    return folder


@pytest.fixture(scope="module")
def models(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TFLiteModelsFolder:
    output = tmp_path_factory.mktemp("rewritten")
    rewrite(saved_model, output, ["float32", "float16"], timeout=300)
    return TFLiteModelsFolder.load(output)


def test_every_variant_predicts_what_the_saved_model_does(
    models: TFLiteModelsFolder, saved_model: Path
) -> None:
    image = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    signature = tf.saved_model.load(str(saved_model)).signatures["pixels"]
    expected = signature(pixels=image)["probabilities"].numpy()
    for model in models.models:
        runner = Interpreter(str(models.path(model))).get_signature_runner()
        np.testing.assert_allclose(runner(pixels=image)["probabilities"], expected, atol=1e-3)


def test_the_facts_are_on_record(models: TFLiteModelsFolder) -> None:
    float32, float16 = models.models
    assert float32.bytes is not None
    assert float16.bytes is not None
    assert float16.bytes < float32.bytes * 0.75
    for model in models.models:
        assert model.sha256 == sha256_of(models.path(model))
        assert model.converter == f"tensorflow {tf.__version__}"
        assert model.error is None
    assert models.contract.labels == LABELS


def test_each_file_carries_metadata_and_labels(models: TFLiteModelsFolder) -> None:
    for model in models.models:
        content = models.path(model).read_bytes()
        assert read_labels(content) == LABELS
        table = schema.ModelT.InitFromPackedBuf(content)
        (entry,) = [m for m in table.metadata if m.name == METADATA_NAME]
        metadata = bytes(table.buffers[entry.buffer].data)
        assert metadata[4:8] == METADATA_IDENTIFIER
        assert b"labels.txt" in metadata


def test_weights_stay_aligned_to_16_bytes(models: TFLiteModelsFolder) -> None:
    for model in models.models:
        table = schema.Model.GetRootAs(models.path(model).read_bytes(), 0)
        buffers = [table.Buffers(index) for index in range(table.BuffersLength())]
        data_field = 4  # offset of the first field in a table's vtable
        starts = [
            buffer._tab.Vector(buffer._tab.Offset(data_field))
            for buffer in buffers
            if not buffer.DataIsNone()
        ]
        assert starts
        assert {start % 16 for start in starts} == {0}


def test_the_same_model_gives_the_same_bytes(
    models: TFLiteModelsFolder, saved_model: Path, tmp_path: Path
) -> None:
    again = rewrite(saved_model, tmp_path, ["float16"], timeout=300)
    assert again.models[0].sha256 == models.models[1].sha256


def test_a_conversion_that_takes_too_long_is_an_error_on_record(
    saved_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(RewriteError, match=r"float32: the conversion did not end within 0\.1 s"):
        rewrite(saved_model, tmp_path, ["float32"], timeout=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_says_how_it_ended(saved_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "assets.extra").mkdir(parents=True)
    contract = saved_model / "assets.extra" / "preprocessing.json"
    (broken / "assets.extra" / "preprocessing.json").write_bytes(contract.read_bytes())
    (broken / "saved_model.pb").write_bytes(b"this is no model")
    with pytest.raises(RewriteError, match=r"(?s)float32: .* exit code 1: .*Error: \S"):
        rewrite(broken, tmp_path / "output", ["float32"], timeout=300)
