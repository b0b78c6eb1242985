"""The rewriter on small real SavedModels: every variant's file, and the record of what failed.

Each conversion is a process that imports TensorFlow, so the files are made once and shared.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils as schema
from numpy.typing import NDArray

from components.tflite_models import (
    CALIBRATION_FILE,
    ModelFile,
    TFLiteModelsFolder,
    sha256_of,
    variant_names,
)
from components.tflite_rewriter.check import CheckError, check, read_ops
from components.tflite_rewriter.images import Images
from components.tflite_rewriter.metadata import METADATA_IDENTIFIER, METADATA_NAME, read_labels
from components.tflite_rewriter.recipes import quantize
from components.tflite_rewriter.rewrite import Memory, RewriteError, rewrite
from components.tflite_rewriter.variants import PRESETS, VARIANTS
from edgeline.contract import PreprocessingContract
from edgeline.runtime.packed import packed_contract

LABELS = ("cat", "dog", "brontosaurus")
SIDE = 16
TIMEOUT = 300

Network = Callable[[tf.Tensor], tf.Tensor]


def save(network: Network, folder: Path, labels: tuple[str, ...]) -> Path:
    """Saves a network with the signature and the contract that the rewriter looks for."""
    module = tf.Module()
    module.network = network

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, "pixels")])
    def pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": network(pixels)}

    tf.saved_model.save(module, str(folder), signatures={"pixels": pixels})
    contract = PreprocessingContract(height=SIDE, width=SIDE, max_side=512, labels=labels)
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


def made(saved_model: Path, output: Path, variants: list[str]) -> TFLiteModelsFolder:
    rewrite(
        saved_model,
        output,
        variants,
        calibration=images(saved_model, 40, seed=1),
        evaluation=images(saved_model, 100, seed=2),
        max_drop=0.05,
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


def test_the_images_calibrated_with_are_on_record(models: TFLiteModelsFolder) -> None:
    recorded = json.loads((models.folder / CALIBRATION_FILE).read_text())
    assert recorded == {"split": "train", "image_ids": [f"{index:064x}" for index in range(40)]}


def test_integer_variants_compute_in_integers_only(models: TFLiteModelsFolder) -> None:
    for variant in ("int8", "int8_io", "int16x8", "int8_selective"):
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


def test_int8_selective_is_int8_where_int8_is_good_enough(models: TFLiteModelsFolder) -> None:
    (selective,) = [model for model in models.models if model.variant == "int8_selective"]
    assert content(models, "int8_selective") == content(models, "int8")
    assert selective.kept_float == ()
    assert selective.note.startswith("the same as int8, whose drop is 0.0")


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


def test_int8_selective_keeps_in_float_what_int8_breaks_while_other_variants_are_killed(
    fragile_model: Path, tmp_path: Path
) -> None:
    signals = {"float32": signal.SIGABRT, "dynamic": signal.SIGKILL}
    with ThreadPoolExecutor(3) as pool:
        rewriting = pool.submit(made, fragile_model, tmp_path, ["int8_selective", *signals])
        # In whichever order they start: that is a matter of memory.
        killing = [pool.submit(kill, variant, number) for variant, number in signals.items()]
        for each in killing:
            each.result()
        selective, aborted, killed = rewriting.result().models

    for model, number in ((aborted, 6), (killed, 9)):
        assert model.error is not None
        assert model.error.startswith(f"the conversion ended with signal {number}")
        assert model.file is None
        assert not (tmp_path / model.variant).exists()

    assert selective.error is None
    kept = {layer.op for layer in selective.kept_float}
    assert kept == {"CONCATENATION", "FULLY_CONNECTED"}
    ops = read_ops((tmp_path / "int8_selective" / "model.tflite").read_bytes())
    assert {op.kind for op in ops if op.computes_in_float} == kept
    before, after = (float(number) for number in drops(selective))
    assert before > 0.3
    assert after <= 0.05


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


def drops(model: ModelFile) -> tuple[str, str]:
    before, after = model.note.split("drops ")[1].split(" ")[0], model.note.split(" ")[-1]
    return before, after


def test_a_file_that_is_not_what_it_claims_is_refused(
    models: TFLiteModelsFolder, saved_model: Path
) -> None:
    pixels = random_images(2, seed=3)
    expected = answers(saved_model, pixels)
    cases = {
        ("float32", "float16"): "expected float16 weights",
        ("float16", "dynamic"): "expected int8 weights",
        ("dynamic", "float32"): "expected float32 weights only, the file has INT8",
        ("weight_int8", "weight_int4"): "expected int4 weights, no operation has any",
        ("dynamic_int4", "dynamic"): "expected int8 weights, no operation has any",
        ("dynamic", "int8"): r"expected integer operations, \d+ of \d+ compute in float",
        ("int8_io", "int8"): r"to be float32 \[1, 16, 16, 3\], it is uint8",
        ("int8", "int8_io"): r"to be uint8 \[1, 16, 16, 3\], it is float32",
    }
    for (is_, claims), message in cases.items():
        with pytest.raises(CheckError, match=message):
            check(content(models, is_), claims, len(LABELS), pixels, expected)
    with pytest.raises(CheckError, match="expected to be kept in float, but are not: no_such"):
        check(content(models, "int8"), "int8_selective", len(LABELS), pixels, expected, ["no_such"])
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
        model = quantize(float32, VARIANTS[variant], {}, [left])
        with pytest.raises(CheckError, match="weights, 1 operations have others: "):
            check(model, variant, len(LABELS), pixels, expected)


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
