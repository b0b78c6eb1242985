"""The rewriter on small real SavedModels: every variant's file, and the record of what failed.

Each conversion is a process that imports TensorFlow, so the files are made once and shared.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain, permutations, product
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils as schema
from litert_quantizer.qtyping import QuantGranularity
from litert_quantizer.quantizer import Quantizer
from numpy.typing import NDArray

from components.feature_names import IMAGE_ID, LABEL
from components.tflite_models import (
    CALIBRATION_FILE,
    FRONTIER_FILE,
    ModelFile,
    TFLiteModelsFolder,
    variant_names,
)
from components.tflite_rewriter.check import CheckError, Op, check, read_ops
from components.tflite_rewriter.choose import first_images
from components.tflite_rewriter.convert import to_float32
from components.tflite_rewriter.flatbuffer import pack, unpack
from components.tflite_rewriter.images import Images, StoredPixels, load_label_ids
from components.tflite_rewriter.layers import layer_errors
from components.tflite_rewriter.metadata import METADATA_IDENTIFIER, METADATA_NAME, read_labels
from components.tflite_rewriter.mixed import (
    Evaluation,
    FoundRecipe,
    Trial,
    Trials,
    frontier,
    in_words,
    search,
)
from components.tflite_rewriter.mixed import answers as search_answers
from components.tflite_rewriter.recipes import (
    Ranges,
    calibrate,
    quantize,
    recipe_manager,
    whole,
)
from components.tflite_rewriter.rewrite import Memory, RewriteError, rewrite
from components.tflite_rewriter.variants import PRESETS, VARIANTS, Recipe, SearchSettings
from edgeline._files import sha256_of
from edgeline.contract import PreprocessingContract
from edgeline.errors import ModelError
from edgeline.runtime.packed import packed_contract

LABELS = ("cat", "dog", "brontosaurus")
SIDE = 16
TIMEOUT = 300

Network = Callable[[tf.Tensor], tf.Tensor]


def save(network: Network, folder: Path, labels: tuple[str, ...], side: int = SIDE) -> Path:
    """Saves a network with the signature and the contract that the rewriter looks for."""
    module = tf.Module()
    module.network = network

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32, "pixels")])
    def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": network(pixels)}

    tf.saved_model.save(module, str(folder), signatures={"pixels": pixels})
    contract = PreprocessingContract(height=side, width=side, max_side=512, labels=labels)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "preprocessing.json").write_bytes(contract.to_json())
    return folder


def random_images(count: int, seed: int) -> NDArray[np.float32]:
    """Noise around a colour of its own each, never quite black or white."""
    generator = np.random.default_rng(seed)
    colours = generator.uniform(0.2, 0.7, (count, 1, 1, 3))
    noise = generator.uniform(-0.1, 0.1, (count, SIDE, SIDE, 3))
    return (colours + noise).astype(np.float32)


def images(saved_model: Path, count: int, seed: int) -> Images:
    """Images that the float model is always right about."""
    pixels = random_images(count, seed)
    label_ids = answers(saved_model, pixels).argmax(axis=1)
    return Images(tuple(f"{index:064x}" for index in range(count)), [(pixels, label_ids)])


def answers(saved_model: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    signature = tf.saved_model.load(str(saved_model)).signatures["pixels"]
    found: NDArray[np.float32] = signature(pixels=tf.constant(pixels))["probabilities"].numpy()
    return found


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras network with what DenseNet has: batch norms that fold, and one that can't."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, name="conv1")(pixels)
    x = layers.ReLU()(layers.BatchNormalization(name="folds1")(x))
    x = layers.Concatenate()([x, layers.Conv2D(8, 1, activation="relu", name="conv2")(x)])
    unfoldable = layers.BatchNormalization(
        beta_initializer=keras.initializers.RandomNormal(stddev=0.1),
        gamma_initializer=keras.initializers.RandomUniform(0.5, 1.5),
        name="cannot_fold",
    )
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(unfoldable(x)))
    x = layers.Dense(64, activation="relu")(x)  # large enough for dynamic range to quantize
    # A megabyte: LiteRT Quantizer keeps the weights of a model so large outside its tables.
    x = layers.Dense(2048, activation="relu")(x)
    x = layers.Dense(128, activation="relu")(x)
    probabilities = layers.Dense(len(LABELS), activation="softmax")(x)
    network = keras.Model(pixels, probabilities)
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save(network, folder, LABELS)


@pytest.fixture(scope="module")
def fragile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Joins a small signal with a large one, whose scale leaves nothing of it in int8."""
    decide = tf.constant([[2000.0, -2000.0], [-2000.0, 2000.0], [0.0, 0.0]])

    def network(pixels: tf.Tensor) -> tf.Tensor:
        colour = tf.reduce_mean(pixels, [1, 2])
        joined = tf.concat([colour[:, :2] * 0.01, colour[:, 2:] * 100.0], axis=1)
        return tf.nn.softmax(joined @ decide)

    folder = tmp_path_factory.mktemp("fragile") / "model"
    return save(network, folder, ("red", "green"))


@pytest.fixture(scope="module")
def models(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TFLiteModelsFolder:
    return made(saved_model, tmp_path_factory.mktemp("rewritten"), list(VARIANTS))


SEARCH = SearchSettings("smallest", max_drop=0.05, max_size_mb=None, trials=12, minutes=5)


def made(
    saved_model: Path, output: Path, variants: list[str], search: SearchSettings = SEARCH
) -> TFLiteModelsFolder:
    rewrite(
        saved_model,
        output,
        variants,
        calibration=images(saved_model, 40, seed=1),
        evaluation=images(saved_model, 100, seed=2),
        search=search,
        timeout=TIMEOUT,
    )
    return TFLiteModelsFolder.load(output)


def content(models: TFLiteModelsFolder, variant: str) -> bytes:
    (model,) = [model for model in models.models if model.variant == variant]
    return models.path(model).read_bytes()


PRIVATE_TO_TENSORFLOW = (
    "tensorflow.lite",
    "tensorflow.python",
    "tf.lite.experimental",
    "_experimental_calibrate_only",
    "mlir_quantize",
    "QuantizationDebugger",
)


def test_nothing_is_used_that_is_private_to_tensorflow() -> None:
    folder = Path(__file__).parents[2] / "components"
    code = {file: file.read_text() for file in folder.rglob("*.py")}
    assert len(code) > 50
    used = [
        (file.name, name)
        for file, text in code.items()
        for name in PRIVATE_TO_TENSORFLOW
        if name in text
    ]
    assert used == []
    assert [file.name for file, text in code.items() if "tf.lite" in text] == ["convert.py"]


def test_presets_name_variants_that_exist() -> None:
    for variants in PRESETS.values():
        assert set(variants) <= set(VARIANTS)


def test_every_variant_is_made(models: TFLiteModelsFolder) -> None:
    assert [model.error for model in models.models] == [None] * len(VARIANTS)
    assert variant_names(models.models) == list(VARIANTS)


def test_the_facts_are_on_record(models: TFLiteModelsFolder) -> None:
    sizes = {model.variant: model.bytes or 0 for model in models.models}
    assert sizes["float16"] < 0.75 * sizes["float32"]
    assert max(sizes["dynamic"], sizes["int8"]) < 0.75 * sizes["float16"]
    for model in models.models:
        assert model.sha256 == sha256_of(models.path(model))
        quantizer = f", litert-quantizer {version('litert-quantizer')}"
        by_quantizer = quantizer if model.variant != "float32" else ""
        assert model.converter == f"tensorflow {tf.__version__}{by_quantizer}"
    assert models.contract.labels == LABELS


def test_parity_with_the_float_model_is_on_record(models: TFLiteModelsFolder) -> None:
    most = {"float32": 1e-5, "float16": 1e-3, "int16x8": 0.01}
    for model in models.models:
        assert model.parity is not None
        assert model.parity.images == 32
        assert model.parity.mean_difference <= model.parity.max_difference
        assert model.parity.max_difference <= most.get(model.variant, 0.05)


def test_the_layers_that_bring_a_difference_are_on_record(models: TFLiteModelsFolder) -> None:
    layers = {model.variant: model.layers for model in models.models}
    assert layers.pop("float32") == ()
    for found in layers.values():
        growth = [layer.error - layer.before for layer in found]
        assert growth == sorted(growth, reverse=True)
        assert min(growth) > 0
    assert layers["dynamic_int4"][0].error > layers["dynamic"][0].error


@pytest.mark.parametrize("number", [1, 2])
def test_the_layer_that_was_quantized_is_the_one_that_is_blamed(
    number: int, models: TFLiteModelsFolder
) -> None:
    float32 = content(models, "float32")
    kernels = [op.name for op in read_ops(float32) if op.kind == "FULLY_CONNECTED"]
    recipe = Recipe("float32", {kernels[number]: "weight_int4"})
    pixels = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    first, *_ = layer_errors(float32, quantize(float32, recipe, {}), pixels)
    assert first.name == kernels[number]
    assert first.before < 0.01 < first.error


def test_the_images_calibrated_with_are_on_record(models: TFLiteModelsFolder) -> None:
    recorded = json.loads((models.folder / CALIBRATION_FILE).read_text())
    assert recorded == {"split": "train", "image_ids": [f"{index:064x}" for index in range(40)]}


def test_integer_variants_compute_in_integers_only(models: TFLiteModelsFolder) -> None:
    for variant in ("int8", "int8_io", "int16x8"):
        ops = read_ops(content(models, variant))
        kinds = {op.kind for op in ops}
        assert {"CONV_2D", "MUL", "FULLY_CONNECTED", "SOFTMAX"} <= kinds
        in_float = [op.kind for op in ops if op.types & {"FLOAT32", "FLOAT16"}]
        assert in_float == ([] if variant == "int8_io" else ["QUANTIZE", "DEQUANTIZE"])


def test_integer_variants_have_the_types_they_are_named_for(models: TFLiteModelsFolder) -> None:
    for variant, activations in {"int8": "INT8", "int8_io": "INT8", "int16x8": "INT16"}.items():
        convolutions = [op for op in read_ops(content(models, variant)) if op.kind == "CONV_2D"]
        for op in convolutions:
            assert "INT8" in op.weights
            assert activations in op.types


def test_raw_pixels_pass_into_the_uint8_input(models: TFLiteModelsFolder) -> None:
    runner = Interpreter(model_content=content(models, "int8_io")).get_signature_runner()
    given, result = runner.get_input_details()["pixels"], runner.get_output_details()
    assert given["dtype"] == result["probabilities"]["dtype"] == np.uint8
    assert given["quantization"] == (pytest.approx(1 / 255), 0)


def test_mixed_has_four_bits_everywhere_where_that_is_good_enough(
    models: TFLiteModelsFolder,
) -> None:
    mixed = record_of(models, "mixed")
    assert content(models, "mixed") == content(models, "dynamic_int4")
    assert mixed.note.startswith("the smallest within a drop of 0.05 of ")
    (smallest,) = [point for point in mixed.frontier if "smallest" in point.answers]
    assert smallest.name == "dynamic_int4, 1 layer dynamic"


def test_the_frontier_is_on_record(models: TFLiteModelsFolder) -> None:
    frontier = record_of(models, "mixed").frontier
    assert [point.bytes for point in frontier] == sorted(point.bytes for point in frontier)
    trials = json.loads((models.folder / "mixed" / FRONTIER_FILE).read_text())
    answers = {in_words(Recipe(**t["recipe"])): t["answers"] for t in trials if t["answers"]}
    assert answers == {p.name: list(p.answers) for p in frontier if p.answers}
    assert sorted(chain.from_iterable(answers.values())) == ["fastest", "smallest"]


def test_answers_are_on_the_frontier_also_where_figures_tie() -> None:
    figures = list(product((1, 2), (0.0, 0.01), (0.1, 0.2), (5.0, 6.0)))
    trials = [
        Trial(Recipe(f"{number}"), size, 0.8, drop, divergence, (latency, latency, latency))
        for number, (size, drop, divergence, latency) in enumerate(figures)
    ]
    settings = SearchSettings("smallest", 0.05, max_size_mb=1e-6, trials=9, minutes=1)
    for some in permutations(trials, 2):
        for answer in search_answers(some, settings).values():
            assert answer in frontier(some)


@dataclass(frozen=True)
class Searched:
    """What a search is given."""

    float32: bytes
    ranges: Ranges
    evaluation: Evaluation

    def search(self, settings: SearchSettings) -> FoundRecipe:
        self.said.clear()
        return search(self.float32, self.ranges, self.evaluation, settings, self.said.append)

    said: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def searched(
    models: TFLiteModelsFolder, saved_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Searched:
    folder = tmp_path_factory.mktemp("evaluation") / "images"
    images(saved_model, 20, seed=2).save(folder)
    pixels = StoredPixels(folder)
    expected = answers(saved_model, pixels.read(0, len(pixels)))
    evaluation = Evaluation(pixels, load_label_ids(folder), expected)
    float32 = content(models, "float32")
    return Searched(float32, calibrate(float32, pixels), evaluation)


def test_each_trial_comes_again_from_its_recipe(searched: Searched) -> None:
    found = searched.search(SEARCH)
    trials = [(Recipe(**trial["recipe"]), trial["bytes"]) for trial in found.trials]
    between = [(recipe, size) for recipe, size in trials if recipe.layers]
    assert len(between) >= 2
    for recipe, size in between:
        made = quantize(searched.float32, recipe, {})
        assert len(made) == size
        check_kernels(made, recipe.layers)
    assert searched.search(SEARCH).model == found.model


def check_kernels(model: bytes, layers: Mapping[str, str]) -> None:
    kernels = {op.name: op.kernel for op in read_ops(model) if op.kernel}
    assert {name for name, kernel in kernels.items() if kernel == "INT8"} == set(layers)
    assert "INT4" in kernels.values()


def record_of(models: TFLiteModelsFolder, variant: str) -> ModelFile:
    (model,) = [model for model in models.models if model.variant == variant]
    return model


def test_the_most_accurate_is_within_its_size(searched: Searched) -> None:
    layers = read_ops(searched.float32)
    rungs = [whole(variant, layers) for variant in ("dynamic_int4", "dynamic")]
    below, above = (len(quantize(searched.float32, recipe, {})) for recipe in rungs)
    limit = (below + above) / 2e6
    settings = SearchSettings("most_accurate", 0.05, max_size_mb=limit, trials=12, minutes=5)
    found = searched.search(settings)
    assert found.note.startswith(f"the most accurate within {limit:g} MB of ")
    # Layers were lifted as far as the size allows, and what is nearest to the float model is taken.
    within = [trial for trial in found.trials if trial["bytes"] <= limit * 1e6]
    assert below < max(trial["bytes"] for trial in within)
    nearest = min(within, key=lambda trial: (max(trial["drop"], 0), trial["divergence"]))
    assert Recipe(**nearest["recipe"]) == found.recipe

    with pytest.raises(CheckError, match=r"expected a recipe within .* raise gate.max_size_mb"):
        searched.search(replace(settings, max_size_mb=below / 2e6))


def test_a_search_keeps_to_its_budget_and_says_how_far_it_is(searched: Searched) -> None:
    # The five that every layer is alike in, and one of those between.
    found = searched.search(replace(SEARCH, trials=6))
    assert len(found.trials) == 6
    counted = [line for line in searched.said if line.startswith("trial ")]
    assert [line.split(",")[0] for line in counted] == [
        f"trial {n} of at most 6" for n in range(1, 7)
    ]
    assert "the time was up" not in found.note

    found = searched.search(replace(SEARCH, minutes=0))
    assert len(found.trials) == 5
    assert "; the time was up before the search was done" in found.note


def test_the_harm_of_each_kernel_that_may_have_four_bits_is_measured(searched: Searched) -> None:
    trials = Trials(searched.float32, {}, searched.evaluation, SEARCH, searched.said.append)
    harms = trials.harms("dynamic_int4")
    *others, _answering = [op.name for op in read_ops(searched.float32) if op.kernel]
    assert list(harms) == others
    assert all(0 <= harm < 1 for harm in harms.values())


def test_each_file_carries_metadata_and_labels(models: TFLiteModelsFolder) -> None:
    for variant in VARIANTS:
        model = content(models, variant)
        assert read_labels(model) == LABELS
        assert packed_contract(model, variant).labels == LABELS
        table = schema.ModelT.InitFromPackedBuf(model)
        (entry,) = [m for m in table.metadata if m.name == METADATA_NAME]
        metadata = bytes(table.buffers[entry.buffer].data)
        assert metadata[4:8] == METADATA_IDENTIFIER
        assert b"labels.txt" in metadata


def test_weights_stay_aligned_to_16_bytes(models: TFLiteModelsFolder) -> None:
    for variant in VARIANTS:
        table = schema.Model.GetRootAs(content(models, variant), 0)
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
    again = made(saved_model, tmp_path, list(VARIANTS))
    assert [model.sha256 for model in again.models] == [model.sha256 for model in models.models]


def test_mixed_keeps_in_float_what_integers_break_while_other_variants_are_killed(
    fragile_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "components")
    signals = {"float32": signal.SIGABRT, "dynamic": signal.SIGKILL}
    with ThreadPoolExecutor(3) as pool:
        search = replace(SEARCH, aim="fastest", trials=24)
        rewriting = pool.submit(made, fragile_model, tmp_path, ["mixed", *signals], search)
        # In whichever order they start: that is a matter of memory.
        killing = [pool.submit(kill, variant, number) for variant, number in signals.items()]
        for each in killing:
            each.result()
        mixed, aborted, killed = rewriting.result().models

    for model, number in ((aborted, 6), (killed, 9)):
        assert model.error is not None
        assert model.error.startswith(f"the conversion ended with signal {number}")
        assert model.file is None
        assert not (tmp_path / model.variant).exists()

    assert mixed.error is None
    trials = json.loads((tmp_path / "mixed" / FRONTIER_FILE).read_text())
    drops = {in_words(Recipe(**trial["recipe"])): trial["drop"] for trial in trials}
    assert min(drops["int8"], drops["dynamic"]) > 0.3
    # It is enough to lift some layers, and the layer that joins the signals is among them.
    lifted = [t["recipe"]["layers"] for t in trials if t["drop"] <= 0.05]
    fewest = min(filter(None, lifted), key=len)
    assert len(fewest) <= 2
    assert any("concat" in layer for layer in fewest)
    # It said how far it was.
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("mixed: trial 1 of at most 24, ")]
    assert [
        line for line in said if line.startswith("mixed: the harm of int8 to each layer: 0 of ")
    ]


def test_a_calibration_that_is_killed_leaves_the_variants_that_need_none(
    saved_model: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as pool:
        rewriting = pool.submit(made, saved_model, tmp_path, ["int8", "float32", "int8_io"])
        worker_of("calibrate").send_signal(signal.SIGABRT)
        int8, float32, int8_io = rewriting.result().models
    for model in (int8, int8_io):
        assert model.error is not None
        assert model.error.startswith("the conversion ended with signal 6")
    assert float32.error is None


def test_work_waits_for_memory() -> None:
    memory = Memory(4)
    inside = {size: threading.Event() for size in (2, 9)}

    def work(size: int) -> None:
        with memory.hold(size):
            inside[size].set()

    with ThreadPoolExecutor(2) as pool:
        with memory.hold(1):
            pool.submit(work, 2)
            assert inside[2].wait(TIMEOUT)
            pool.submit(work, 9)
            assert not inside[9].wait(0.1)
        # What is larger than all there is goes alone.
        assert inside[9].wait(TIMEOUT)


def kill(variant: str, number: signal.Signals) -> None:
    worker_of(variant).send_signal(number)


def worker_of(variant: str) -> psutil.Process:
    """Waits for the process that makes a variant, or does what is done before."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for process in psutil.Process().children():
            # One that has just ended has no command line any more.
            with suppress(psutil.NoSuchProcess):
                if variant in process.cmdline():
                    return process
        time.sleep(0.05)
    raise AssertionError(f"no process converted {variant}")


def test_a_file_that_is_not_what_it_claims_is_refused(
    models: TFLiteModelsFolder, saved_model: Path
) -> None:
    pixels = random_images(2, seed=3)
    expected = answers(saved_model, pixels)
    others = r"expected operations as the recipe has them, \d+ of \d+ are not: "
    cases = {
        ("float32", "float16"): rf"{others}.*\(expected float16 weights, .*; it has FLOAT32\)",
        ("float16", "dynamic"): rf"{others}.*\(expected int8 weights, .*; it has FLOAT16\)",
        ("dynamic", "float32"): rf"{others}.*\(expected none: .*; it has INT8\)",
        ("dynamic", "weight_int8"): rf"{others}.*\(expected int8 weights, .*; it has INT8\)",
        ("weight_int8", "weight_int4"): rf"{others}.*\(expected int4 weights, .*; it has INT8\)",
        ("dynamic_int4", "dynamic"): rf"{others}.*\(expected int8 weights, .*; it has INT4\)",
        ("dynamic", "int8"): rf"{others}.*\(expected int8 throughout, ",
        ("int8_io", "int8"): r"to be float32 \[1, 16, 16, 3\], it is uint8",
        ("int8", "int8_io"): r"to be uint8 \[1, 16, 16, 3\], it is float32",
    }
    for (is_, claims), message in cases.items():
        with pytest.raises(CheckError, match=message):
            check(content(models, is_), claims, len(LABELS), pixels, expected)
    float32 = content(models, "float32")
    for left, where in (("float32", "dynamic"), ("dynamic", "dynamic_int4")):
        kernel = next(op.name for op in read_ops(float32) if op.kernel)
        model = quantize(float32, Recipe(where, {kernel: left}), {})
        with pytest.raises(CheckError, match=r"as the recipe has them, 1 of \d+ are not: "):
            check(model, "mixed", len(LABELS), pixels, expected, Recipe(where))
    with pytest.raises(CheckError, match=r"to be float32 \[1, 2\], it is float32 \[1, 3\]"):
        check(content(models, "float32"), "float32", 2, pixels, expected[:, :2])
    with pytest.raises(CheckError, match=r"within 0\.001 of the SavedModel's"):
        check(content(models, "float32"), "float32", len(LABELS), pixels, expected[::-1])


def test_a_kernel_that_a_recipe_left_in_float_is_found(
    models: TFLiteModelsFolder, saved_model: Path
) -> None:
    pixels = random_images(2, seed=3)
    expected = answers(saved_model, pixels)
    float32 = content(models, "float32")
    left = next(op.name for op in read_ops(float32) if op.kind == "CONV_2D")
    for variant in ("float16", "weight_int8", "weight_int4", "dynamic", "dynamic_int4"):
        recipe = whole(variant, read_ops(float32))
        model = quantize(float32, replace(recipe, layers={**recipe.layers, left: "float32"}), {})
        with pytest.raises(CheckError, match=rf"1 of \d+ are not: {re.escape(left)} .* FLOAT32"):
            check(model, variant, len(LABELS), pixels, expected, recipe)


def test_convolutions_that_blocks_of_four_bits_leave_in_float_are_found(
    models: TFLiteModelsFolder, saved_model: Path
) -> None:
    pixels = random_images(2, seed=3)
    expected = answers(saved_model, pixels)
    recipe, float32 = Recipe("dynamic_int4"), content(models, "float32")
    manager = recipe_manager(recipe)
    manager.add_dynamic_config(".*", "*", 4, QuantGranularity.BLOCKWISE_32)
    manager.add_dynamic_config(".*", "FULLY_CONNECTED", 4)
    quantizer = Quantizer(float32, manager.get_quantization_recipe())
    made = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
    model = pack(unpack(bytes(made.quantized_model)))
    with pytest.raises(CheckError, match=r"2 of \d+ are not: .*it has FLOAT32.*it has FLOAT32"):
        check(model, "dynamic_int4", len(LABELS), pixels, expected, recipe)


@pytest.mark.parametrize("variant", ["weight_int4", "dynamic_int4"])
def test_four_bits_are_everywhere_but_in_the_layer_that_answers(
    variant: str, models: TFLiteModelsFolder
) -> None:
    *others, answers = [op.kernel for op in read_ops(content(models, variant)) if op.kernel]
    assert set(others) == {"INT4"}
    assert answers == "INT8"


def test_a_layer_of_many_answers_has_four_bits_too() -> None:
    def op(kind: str, values: int) -> Op:
        return Op(f"{kind} {values}", (), kind, False, frozenset(), frozenset(), "FLOAT32", values)

    base = [op("CONV_2D", 1000), op("FULLY_CONNECTED", 10)]
    assert whole("weight_int4", [*base, op("FULLY_CONNECTED", 53)]).layers == {
        "FULLY_CONNECTED 53": "weight_int8"
    }
    assert whole("weight_int4", [*base, op("FULLY_CONNECTED", 54)]).layers == {}


@pytest.mark.parametrize("variant", ["weight_int4", "dynamic_int4"])
def test_a_layer_without_a_four_bit_kernel_has_eight_bits(variant: str, tmp_path: Path) -> None:
    layers = keras.layers
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.ReLU()(layers.Conv2D(32, 3, name="conv")(pixels))
    x = layers.ReLU()(layers.DepthwiseConv2D(5, name="depthwise")(x))
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(pixels, layers.Dense(len(LABELS), activation="softmax")(x))
    folder = save(network, tmp_path / "model", LABELS)
    float32 = to_float32(tf.saved_model.load(str(folder)), tmp_path / "single")
    tried = random_images(4, 0)
    recipe = whole(variant, read_ops(float32))
    model = quantize(float32, recipe, {})
    check(model, variant, len(LABELS), tried, answers(folder, tried), recipe)
    kernels = {op.kind: op.kernel for op in read_ops(model) if op.kernel}
    assert kernels == {"CONV_2D": "INT4", "DEPTHWISE_CONV_2D": "INT8", "FULLY_CONNECTED": "INT4"}


@pytest.mark.parametrize(("side", "classes"), [(200, 10_000), (224, 3)])
def test_one_image_is_enough_to_calibrate_with_whatever_size_and_classes(
    side: int, classes: int, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    pixels = keras.Input((side, side, 3))
    x = layers.Conv2D(4, 3, strides=8, activation="relu")(pixels)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(pixels, layers.Dense(classes, activation="softmax")(x))
    labels = tuple(f"class {number}" for number in range(classes))
    saved = save(network, tmp_path / "saved", labels, side)
    image = np.random.default_rng(1).uniform(0.2, 0.7, (1, side, side, 3)).astype(np.float32)
    calibration = Images(("0" * 64,), [(image, np.zeros(1, np.int64))])
    rewrite(saved, tmp_path / "out", ["int8"], calibration=calibration, timeout=TIMEOUT)
    models = TFLiteModelsFolder.load(tmp_path / "out")
    (int8,) = models.models
    assert int8.error is None
    assert int8.parity is not None
    assert int8.parity.images == 1
    assert int8.parity.max_difference < 0.02
    assert read_labels(content(models, "int8")) == labels


def test_a_model_that_is_broken_is_an_error_that_says_so(tmp_path: Path) -> None:
    saved = save(lambda pixels: pixels[:, 0, 0, :2] * np.nan, tmp_path / "saved", LABELS[:2])
    calibration = Images(("0" * 64,), [(random_images(1, seed=1), np.zeros(1, np.int64))])
    with pytest.raises(
        RewriteError, match=r"^no TFLite.*:\nfloat32: expected prob.*train it anew$"
    ):
        rewrite(saved, tmp_path / "out", ["float32"], calibration=calibration, timeout=TIMEOUT)


def test_a_model_without_a_signature_is_told_what_is_expected(
    saved_model: Path, tmp_path: Path
) -> None:
    """One that makes no pixels, of images that are yet to be decoded; and one that takes none."""
    example = {IMAGE_ID: b"0", LABEL: LABELS[0].encode()}
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in example.items()
    }
    record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    with tf.io.TFRecordWriter(str(tmp_path / "examples")) as writer:
        writer.write(record)
    chosen = first_images([str(tmp_path / "examples")], 1)
    with pytest.raises(RewriteError, match=r"signature transform_features, .*; it has pixels$"):
        rewrite(saved_model, tmp_path / "out", ["int8"], calibration=chosen, timeout=TIMEOUT)
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="the signature pixels, as the Trainer saves it; it has n"):
        to_float32(tf.saved_model.load(str(tmp_path / "empty")), tmp_path / "single")


def test_a_conversion_that_takes_too_long_is_an_error_on_record(
    saved_model: Path, tmp_path: Path
) -> None:
    calibration = images(saved_model, 2, seed=1)
    with pytest.raises(RewriteError, match=r"float32: the conversion did not end within 0\.1 s"):
        rewrite(saved_model, tmp_path, ["float32"], calibration=calibration, timeout=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_says_how_it_ended(saved_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "assets.extra").mkdir(parents=True)
    contract = saved_model / "assets.extra" / "preprocessing.json"
    (broken / "assets.extra" / "preprocessing.json").write_bytes(contract.read_bytes())
    (broken / "saved_model.pb").write_bytes(b"this is no model")
    calibration = images(saved_model, 2, seed=1)
    with pytest.raises(RewriteError, match=r"(?s)float32: .* exit code 1: .*Error: \S"):
        rewrite(broken, tmp_path / "output", ["float32"], calibration=calibration, timeout=TIMEOUT)
