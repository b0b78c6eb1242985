"""A model's file that brings its contract along, as the pipeline makes it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeline import Classifier
from edgeline.contract import PreprocessingContract
from edgeline.errors import ContractError


def packed_model(model: bytes, files: dict[str, bytes]) -> bytes:
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def model(models: Path) -> bytes:
    return (models / "float32.tflite").read_bytes()


def test_a_file_says_by_itself_how_images_are_prepared(
    model: bytes, models: Path, contract: PreprocessingContract, tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(
        packed_model(model, {"labels.txt": b"", "preprocessing.json": contract.to_json()})
    )
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    with (
        Classifier.from_file(path) as packed,
        Classifier.from_file(models / "float32.tflite", contract) as plain,
    ):
        assert packed.contract == contract
        expected = plain.predict(image).probabilities
        np.testing.assert_array_equal(packed.predict(image).probabilities, expected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(None, "brings no preprocessing contract along", id="no archive"),
        pytest.param({"labels.txt": b"a"}, "brings no preprocessing", id="somebody else's labels"),
        pytest.param({"preprocessing.json": b"{}"}, "has version None", id="another contract"),
        pytest.param({"preprocessing.json": b"\0" * (2 << 20)}, "at most", id="a bomb"),
    ],
)
def test_a_file_without_a_contract_is_refused(
    files: dict[str, bytes] | None, message: str, model: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(model if files is None else packed_model(model, files))
    with pytest.raises(ContractError, match=message):
        Classifier.from_file(path)


def test_a_damaged_archive_is_refused(
    model: bytes, contract: PreprocessingContract, tmp_path: Path
) -> None:
    whole = packed_model(model, {"preprocessing.json": contract.to_json()})
    path = tmp_path / "model.tflite"
    for position in range(len(model), len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = Classifier.from_file(path).contract
        except ContractError:
            continue
        assert found == contract, "what is not refused is unharmed"
