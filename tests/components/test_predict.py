"""Predictions over real examples, bit for bit the plain interpreter's, and models that fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from components.examples import TransformedExamples
from components.tflite_evaluator.baseline import Baseline, BaselineError, load_baseline
from components.tflite_evaluator.predict import Predictions, predict
from components.tflite_models import TFLiteModelsFolder
from edgeline.registry.store import Connection
from tests.conftest import Workspace, make_registry, publish_release


@pytest.fixture(scope="module")
def models(workspace: Workspace) -> TFLiteModelsFolder:
    return TFLiteModelsFolder.load(workspace.artifact("TFLiteRewriter", "tflite_models"))


@pytest.fixture(scope="module")
def examples(workspace: Workspace) -> TransformedExamples:
    folder = workspace.artifact("ImportExampleGen", "examples") / "Split-eval"
    graph = workspace.artifact("Transform", "transform_graph")
    return TransformedExamples([str(folder / "*")], graph)


def predicted(
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    variants: Mapping[str, Path],
    baseline: Baseline | None = None,
) -> Predictions:
    saved_model = workspace.artifact("Trainer", "model") / "Format-Serving"
    return predict(examples, saved_model, variants, models.contract, ["cell_type"], baseline)


def test_they_are_those_of_the_plain_interpreter_bit_for_bit(
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that there are timed images and images of every worker.
    monkeypatch.setattr("components.tflite_evaluator.predict.TIMED_IMAGES", 3)
    monkeypatch.setattr("components.tflite_evaluator.predict.WORKERS", 3)
    paths = {model.variant: models.path(model) for model in models.models}
    found = predicted(workspace, models, examples, paths)
    pixels = np.concatenate([batch["pixels"].numpy() for batch in examples.batches(8)])
    assert len(pixels) == len(found.label_ids) == len(set(found.image_ids))
    assert {len(seconds) for seconds in found.seconds.values()} == {3}
    for variant, path in paths.items():
        interpreter = Interpreter(str(path), num_threads=2)
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        for image, said in zip(pixels, found.variants[variant], strict=True):
            interpreter.set_tensor(given["index"], image[None])
            interpreter.invoke()
            np.testing.assert_array_equal(interpreter.get_tensor(result["index"])[0], said)


def test_a_deployed_release_preprocesses_by_its_own_contract(
    workspace: Workspace, models: TFLiteModelsFolder, examples: TransformedExamples, tmp_path: Path
) -> None:
    """The same model with its classes in another order says the same, column by column."""
    reversed_labels = tuple(reversed(models.contract.labels))
    contract = replace(models.contract, labels=reversed_labels)
    make_registry(tmp_path, "cells")
    variants = {"float32": _with_swapped_outputs(models)}
    published = publish_release(tmp_path, "cells", variants, contract)
    baseline = loaded(tmp_path, published.digest, models.contract.labels)
    assert baseline is not None
    assert (baseline.tag, baseline.counterpart("int8")) == ("v1", "float32")
    found = predicted(workspace, models, examples, {}, baseline)
    np.testing.assert_allclose(found.deployed["float32"], found.float_model, atol=1e-4)


def test_a_deployed_release_of_other_classes_is_not_compared_with(
    models: TFLiteModelsFolder, tmp_path: Path
) -> None:
    contract = replace(models.contract, labels=("cat", "dog"))
    make_registry(tmp_path, "cells")
    variants = {"float32": models.path(models.models[0]).read_bytes()}
    published = publish_release(tmp_path, "cells", variants, contract)
    with pytest.raises(BaselineError, match="has the classes cat, dog, the new model defective"):
        loaded(tmp_path, published.digest, models.contract.labels)


def test_without_a_digest_there_is_no_baseline(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", ("cat", "dog")) is None


def loaded(folder: Path, digest: str, labels: Sequence[str]) -> Baseline | None:
    return load_baseline(str(folder / "registry"), Connection(), digest, labels)


def _small_model(output: Any, classes: int = 2) -> bytes:
    pixels = tf.TensorSpec([1, 32, 32, 3], tf.float32, "pixels")

    def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.reduce_mean(pixels, axis=[1, 2])[:, :1] * tf.ones([1, classes])
        return {"probabilities": output(tf.nn.softmax(logits))}

    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    module = tf.Module()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert())


def _with_swapped_outputs(models: TFLiteModelsFolder) -> bytes:
    (artifact,) = (models.folder.parents[2] / "Trainer" / "model").glob("*")
    loaded = tf.saved_model.load(str(artifact / "Format-Serving"))
    signature = loaded.signatures["pixels"]
    pixels = tf.TensorSpec([1, 32, 32, 3], tf.float32, "pixels")

    def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.reverse(signature(pixels=pixels)["probabilities"], [1])}

    function = tf.function(classify, input_signature=[pixels]).get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], loaded).convert())


FAILING = {
    "a corrupted file": (lambda: b"this is no model", "cannot be loaded as TFLite"),
    "another number of classes": (lambda: _small_model(lambda p: p, classes=5), "of shape [1, 2]"),
    "a model that returns NaN": (
        lambda: _small_model(lambda p: p * float("nan")),
        "not a finite number",
    ),
}


@pytest.mark.parametrize(("model", "message"), FAILING.values(), ids=FAILING)
def test_a_variant_that_fails_is_an_error_of_that_variant(
    model: Any,
    message: str,
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.tflite").write_bytes(model())
    good = models.path(models.models[0])
    found = predicted(
        workspace, models, examples, {"float32": good, "int8": tmp_path / "bad.tflite"}
    )
    assert set(found.variants) == {"float32"}
    assert message in found.errors["int8"]
