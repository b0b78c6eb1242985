"""Predictions with real TFLite models: right numbers, and a clear refusal of what does not fit."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeline import Classifier, Prediction, PreprocessingContract
from edgeline.errors import (
    ContractError,
    ImageError,
    IntegrityError,
    ModelError,
    NotFoundError,
    RegistryError,
    TrustError,
)
from edgeline.key_files import generate_key
from edgeline.preprocessing import preprocess
from edgeline.publish.keys import Signers
from edgeline.publish.repository import initialize
from edgeline.publish.store import open_for_writing

if TYPE_CHECKING:
    from tests.edge.conftest import Authority, Store

LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (30, 20, 3), dtype=np.uint8) for _ in range(20)]


def _with_tensorflow(model: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    import tensorflow as tf

    runner = tf.lite.Interpreter(str(model)).get_signature_runner()
    return np.asarray(runner(pixels=pixels[None])["probabilities"][0])


def test_predicts_what_tensorflow_lite_predicts(
    models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    path = models / "float32.tflite"
    with Classifier.from_file(path, contract) as classifier:
        for image in images:
            expected = _with_tensorflow(path, preprocess(contract, image))
            prediction = classifier.predict(image)
            np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)
            assert prediction.label == LABELS[int(expected.argmax())]


def test_a_variant_with_integer_io_is_used_like_any_other(
    models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    exact = Classifier.from_file(models / "float32.tflite", contract)
    quantized = Classifier.from_file(models / "int8_io.tflite", contract)
    for image in images:
        expected = exact.predict(image).probabilities
        np.testing.assert_allclose(quantized.predict(image).probabilities, expected, atol=0.03)


def test_a_prediction_ranks_its_labels() -> None:
    prediction = Prediction(LABELS, np.array([0.25, 0.5, 0.25], np.float32))
    assert (prediction.label, prediction.probability) == ("dog", 0.5)
    assert prediction.top(2) == [("dog", 0.5), ("cat", 0.25)]
    assert len(prediction.top(99)) == 3


def _from_registry(store: "Store", channel: str = "production", **options: Any) -> Classifier:
    given = {"root": store.root, "state": store.files / "state", **options}
    return Classifier.from_registry(store.path, "pets", channel, **given)


def test_a_classifier_knows_where_its_model_comes_from(pets: "Store", models: Path) -> None:
    classifier = _from_registry(pets, "candidate", variant="float32")
    assert (classifier.model, classifier.version, classifier.tag) == ("pets", 1, "v1")
    assert classifier.variant == "float32"
    assert classifier.digest is not None
    assert classifier.digest.startswith("sha256:")
    assert classifier.labels == LABELS

    plain = Classifier.from_file(models / "float32.tflite", pets.contract)
    origin = (plain.model, plain.version, plain.tag, plain.digest, plain.variant)
    assert origin == (None,) * 5


def test_the_default_is_a_variant_of_what_production_serves(pets: "Store") -> None:
    pets.publish({"other": b"no model"}, channel="candidate")
    classifier = _from_registry(pets)
    assert classifier.version == 1
    assert classifier.variant in ("float32", "int8_io")


def test_a_contract_may_come_from_a_file(
    models: Path, contract: PreprocessingContract, tmp_path: Path
) -> None:
    path = tmp_path / "preprocessing.json"
    path.write_bytes(contract.to_json())
    classifier = Classifier.from_file(str(models / "float32.tflite"), str(path))
    assert classifier.contract == contract
    with pytest.raises(ContractError, match="No such file"):
        Classifier.from_file(models / "float32.tflite", tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("five_classes", r"expected probabilities of shape \[1, 3\], got \[1, 5\]"),
        ("other_names", "no signature pixels -> probabilities"),
        ("garbage", "cannot be loaded as TFLite"),
        ("missing", "No such file"),
    ],
)
def test_refuses_a_model_that_does_not_fit(
    name: str, message: str, models: Path, contract: PreprocessingContract
) -> None:
    with pytest.raises(ModelError, match=message):
        Classifier.from_file(models / f"{name}.tflite", contract)


def test_refuses_a_model_of_another_input_size(models: Path) -> None:
    contract = PreprocessingContract(height=8, width=9, max_side=512, labels=LABELS)
    with pytest.raises(ModelError, match=r"expected pixels of shape \[1, 8, 9, 3\]"):
        Classifier.from_file(models / "float32.tflite", contract)


def test_refuses_a_prediction_that_is_not_a_number(
    models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    classifier = Classifier.from_file(models / "nan.tflite", contract)
    with pytest.raises(ModelError, match="not a finite number"):
        classifier.predict(images[0])


def test_a_tampered_model_does_not_reach_the_interpreter(pets: "Store") -> None:
    good = _from_registry(pets, variant="float32")
    for blob in (pets.path / "blobs" / "sha256").iterdir():
        data = bytearray(blob.read_bytes())
        if data[4:8] == b"TFL3":
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        _from_registry(pets, variant="float32", state=pets.files / "another device")
    assert good.predict(np.zeros((4, 4, 3), np.uint8)).label in LABELS


def test_a_variant_that_is_not_there_is_named(pets: "Store") -> None:
    with pytest.raises(NotFoundError, match="has no variant 'int4'; it has float32, int8_io"):
        _from_registry(pets, variant="int4")


def test_the_root_may_come_from_a_file(
    pets: "Store", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    root = tmp_path / "root.json"
    root.write_bytes(pets.root)
    assert Classifier.from_registry(str(pets.path), "pets", root=str(root)).version == 1
    assert (tmp_path / "home" / "edgeline").is_dir()
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        Classifier.from_registry(pets.path, "pets", root=tmp_path / "missing.json")


def test_what_other_keys_have_signed_is_not_loaded(
    pets: "Store", tmp_path: Path, authority: "Authority"
) -> None:
    keys = replace(authority.keys, online=generate_key(tmp_path / "online.pem", None))
    signers = Signers.load([str(authority.files), str(tmp_path / "online.pem")])
    root = initialize(open_for_writing(str(tmp_path / "other")), keys, signers)
    with pytest.raises(TrustError):
        Classifier.from_registry(pets.path, "pets", root=root, state=tmp_path / "state")


def test_a_batch_is_predicted_in_order(
    models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", contract)
    predictions = list(classifier.predict_batch(images))
    for image, prediction in zip(images, predictions, strict=True):
        expected = classifier.predict(image).probabilities
        assert isinstance(prediction, Prediction)
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("bad", [b"no image", None, "a\0path", 7], ids=repr)
def test_an_image_that_cannot_be_read_does_not_end_a_batch(
    bad: Any, models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", contract)
    first, second, third = classifier.predict_batch([images[0], bad, images[1]])
    assert isinstance(first, Prediction)
    assert isinstance(second, ImageError)
    assert isinstance(third, Prediction)


@pytest.mark.parametrize(
    "one",
    [
        np.zeros((300, 300, 3), np.uint8),
        np.zeros((300, 300), np.uint8),
        Image.new("RGB", (9, 9)),
        "photo.jpg",
        Path("photo.jpg"),
        b"bytes",
    ],
    ids=lambda one: type(one).__name__,
)
def test_one_image_is_no_batch(one: Any, models: Path, contract: PreprocessingContract) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", contract)
    with pytest.raises(TypeError, match="this is one: a list of them"):
        classifier.predict_batch(one)


def test_an_array_of_images_is_a_batch(models: Path, contract: PreprocessingContract) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", contract)
    assert len(list(classifier.predict_batch(np.zeros((2, 30, 30, 3), np.uint8)))) == 2


def test_threads_may_share_a_classifier(
    models: Path, contract: PreprocessingContract, images: list[NDArray[np.uint8]]
) -> None:
    classifier = Classifier.from_file(models / "float32.tflite", contract, num_threads=1)
    expected = [classifier.predict(image).probabilities for image in images]
    different: list[int] = []

    def work() -> None:
        for _ in range(10):
            for number, image in enumerate(images):
                got = classifier.predict(image).probabilities
                if not np.array_equal(got, expected[number]):
                    different.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert different == []


def test_a_closed_classifier_says_so(models: Path, contract: PreprocessingContract) -> None:
    with Classifier.from_file(models / "float32.tflite", contract) as classifier:
        image = Image.new("RGB", (5, 5))
        classifier.predict(image)
    classifier.close()
    with pytest.raises(ModelError, match="is closed"):
        classifier.predict(image)
