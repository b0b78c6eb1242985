"""Predictions over real examples, bit for bit the plain interpreter's, and models that fail."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from apache_beam.options.pipeline_options import PipelineOptions
from sklearn.preprocessing import normalize

from components.examples import TransformedExamples
from components.predictions import Predictions, load_predictions, mistakes
from components.records import Skimmed, next_record, open_records, skim
from components.tflite_models import ModelFile, TFLiteModelsFolder
from components.tflite_predictor.baseline import Baseline, BaselineError, load_baseline
from components.tflite_predictor.neighbours import nearest_rows
from components.tflite_predictor.predict import PredictorInputs, predict
from components.tflite_predictor.settings import ReleaseReference
from components.trained_model import FEATURES_FILE
from edgeline.drift import image_statistics
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


def in_this_process() -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))


def train_files(workspace: Workspace) -> list[str]:
    folder = workspace.artifact("ImportExampleGen", "examples") / "Split-train"
    return sorted(map(str, folder.iterdir()))


def predicted(
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    output: Path,
    baseline: Baseline | None = None,
) -> Predictions:
    output.mkdir()
    inputs = PredictorInputs(
        files={"train": train_files(workspace), "eval": examples.files},
        split="eval",
        saved_model=str(workspace.artifact("Trainer", "model") / "Format-Serving"),
        kept_features=workspace.artifact("Trainer", "model_run") / FEATURES_FILE,
        models=models,
        baseline=baseline,
    )
    predict(inputs, ["cell_type"], in_this_process, output)
    return load_predictions(output)


@pytest.fixture(scope="module")
def found(
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Predictions:
    """In units of a few images, whose batches are not those of `examples`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.tflite_predictor.predict.UNIT_EXAMPLES", 5)
        patch.setattr("components.tflite_predictor.predict.TIMED_IMAGES", 3)
        patch.setattr("components.tflite_predictor.models.WORKERS", 3)
        folder = tmp_path_factory.mktemp("predictions") / "predictions"
        return predicted(workspace, models, examples, folder)


def test_they_are_those_of_the_plain_interpreter_bit_for_bit(
    found: Predictions, models: TFLiteModelsFolder, examples: TransformedExamples
) -> None:
    pixels = np.concatenate([batch["pixels"].numpy() for batch in examples.batches(8)])
    assert len(pixels) == len(found.label_ids) == len(set(found.image_ids))
    assert {len(seconds) for seconds in found.seconds.values()} == {3}
    for model in models.models:
        interpreter = Interpreter(str(models.path(model)), num_threads=2)
        interpreter.allocate_tensors()
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        for image, said in zip(pixels, found.variants[model.variant], strict=True):
            interpreter.set_tensor(given["index"], image[None])
            interpreter.invoke()
            np.testing.assert_array_equal(interpreter.get_tensor(result["index"])[0], said)


def test_the_float_model_says_what_it_says_of_whole_batches(
    found: Predictions, workspace: Workspace, examples: TransformedExamples
) -> None:
    folder = workspace.artifact("Trainer", "model") / "Format-Serving"
    loaded = tf.saved_model.load(str(folder))
    expected = [
        loaded.signatures["pixels"](pixels=batch["pixels"])["probabilities"].numpy()
        for batch in examples.batches(32)
    ]
    np.testing.assert_allclose(found.float_model, np.concatenate(expected), atol=1e-5)


def test_each_example_keeps_its_label_its_identity_and_its_slices(
    found: Predictions, examples: TransformedExamples
) -> None:
    said = [each for batch in examples.batches(8) for each in batch["label_id"].numpy().tolist()]
    assert found.label_ids.tolist() == said
    for name, values in (
        ("image_id", list(found.image_ids)),
        ("cell_type", found.slices["cell_type"].tolist()),
    ):
        assert values == [raw[name].decode() for raw in examples.skim(name)]


def test_of_every_split_the_images_are_counted(found: Predictions, workspace: Workspace) -> None:
    report = json.loads((workspace.folder / "dataset" / "ingest_report.json").read_text())
    expected = {
        split: [report["counts"][split][label] for label in ("defective", "functional")]
        for split in ("train", "eval")
    }
    assert found.images == expected


def test_a_split_is_looked_through_once(
    workspace: Workspace,
    models: TFLiteModelsFolder,
    examples: TransformedExamples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[str] = []

    def counted(file: str, names: Collection[str]) -> Iterator[Skimmed]:
        looked_at.append(file)
        return skim(file, names)

    for module in ("example_index", "neighbours"):
        monkeypatch.setattr(f"components.tflite_predictor.{module}.skim", counted)
    found = predicted(workspace, models, examples, tmp_path / "predictions")
    assert any(found.nearest.values())
    assert sorted(looked_at) == sorted([*train_files(workspace), *examples.files])


def test_beside_a_mistake_are_the_training_images_nearest_to_it(
    found: Predictions, workspace: Workspace, models: TFLiteModelsFolder
) -> None:
    """By features that the saved model makes of the train split anew."""
    wrong = mistakes(found.label_ids, found.float_model, limit=100)
    assert set(found.nearest) == set(wrong) != set()
    examples = {
        split: TransformedExamples(
            [str(workspace.artifact("ImportExampleGen", "examples") / f"Split-{split}" / "*")],
            workspace.artifact("Transform", "transform_graph"),
        )
        for split in ("train", "eval")
    }
    saved = tf.saved_model.load(str(workspace.artifact("Trainer", "model") / "Format-Serving"))
    features = {
        split: np.concatenate(
            [
                saved.signatures["features"](pixels=batch["pixels"])["features"].numpy()
                for batch in each.batches(32)
            ]
        )
        for split, each in examples.items()
    }
    unit = {split: normalize(each) for split, each in features.items()}
    ids = [raw["image_id"].decode() for raw in examples["train"].skim("image_id")]
    for index in wrong:
        similar = unit["train"] @ unit["eval"][index]
        best = similar[[ids.index(near.image_id) for near in found.nearest[index]]]
        # Features are kept as float16: of two that are as near, either may come first.
        np.testing.assert_allclose(best, np.sort(similar)[::-1][: len(best)], atol=1e-3)
        assert all(near.label in models.contract.labels for near in found.nearest[index])


def test_without_kept_features_there_are_no_neighbours(tmp_path: Path) -> None:
    assert nearest_rows(tmp_path / "missing.npz", {3: np.ones(4, np.float32)}) == {}


def test_probabilities_are_mapped_and_not_loaded(found: Predictions) -> None:
    assert isinstance(found.float_model, np.memmap)
    assert all(isinstance(each, np.memmap) for each in found.variants.values())


def test_the_statistics_are_those_of_what_the_models_take(
    found: Predictions, examples: TransformedExamples
) -> None:
    pixels = [image for batch in examples.batches(8) for image in batch["pixels"].numpy()]
    expected = np.array([image_statistics(image) for image in pixels], np.float32)
    np.testing.assert_array_equal(found.statistics, expected)


def test_of_the_units_nothing_is_left(workspace: Workspace) -> None:
    folder = workspace.artifact("TFLitePredictor", "predictions")
    table = json.loads((folder / "predictions.json").read_text())
    names = ("predictions.json", "examples.npz", "statistics.npy")
    expected = {*names, *(model["file"] for model in table["models"])}
    assert {path.name for path in folder.iterdir()} - {"thumbnails", "nearest"} == expected


def test_a_damaged_record_is_found_and_named(
    workspace: Workspace, examples: TransformedExamples, tmp_path: Path
) -> None:
    content = bytearray(Path(examples.files[0]).read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "damaged").write_bytes(content)
    with (
        open_records(str(tmp_path / "damaged")) as opened,
        pytest.raises(ValueError, match="damaged: the record at byte 0 is damaged"),
    ):
        next_record(opened, str(tmp_path / "damaged"))


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
    assert (baseline.release.tag, baseline.release.counterpart("int8")) == ("v1", "float32")
    found = predicted(
        workspace, replace(models, models=()), examples, tmp_path / "predictions", baseline
    )
    assert found.deployed_release == baseline.release
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


def loaded(folder: Path, digest: str, labels: Sequence[str]) -> Baseline:
    deployed = ReleaseReference(str(folder / "registry"), Connection(), digest)
    return load_baseline(deployed, labels)


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
    bad = ModelFile("int8", "int8", "tensorflow", 1.0, "int8/model.tflite", "aa", 8)
    good = replace(models.models[0], file=str(models.path(models.models[0])))
    folder = replace(models, folder=tmp_path, models=(good, bad))
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "model.tflite").write_bytes(model())
    found = predicted(workspace, folder, examples, tmp_path / "predictions")
    assert set(found.variants) == {"float32"}
    assert message in found.errors["int8"]
