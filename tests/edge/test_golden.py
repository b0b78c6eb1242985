"""Golden pairs: made where a model is published, checked where it runs."""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeline import golden as golden_module
from edgeline.contract import PreprocessingContract
from edgeline.errors import ModelError
from edgeline.golden import MIN_TOLERANCE, Golden, GoldenCase, check, make
from edgeline.preprocessing import load_image
from edgeline.runtime.interpreter import PixelModel

VARIANTS = ("float32", "int8_io")


def loaded(content: bytes, contract: PreprocessingContract, xnnpack: bool = True) -> PixelModel:
    return PixelModel(
        content,
        height=contract.height,
        width=contract.width,
        classes=len(contract.labels),
        num_threads=2,
        xnnpack=xnnpack,
    )


@pytest.fixture(params=VARIANTS)
def content(request: pytest.FixtureRequest, models: Path) -> bytes:
    return (models / f"{request.param}.tflite").read_bytes()


@pytest.fixture
def golden(models: Path, contract: PreprocessingContract) -> Golden:
    return make((models / "float32.tflite").read_bytes(), contract)


def test_a_model_passes_the_check_it_was_published_with(
    content: bytes, contract: PreprocessingContract
) -> None:
    golden = Golden.from_json(make(content, contract).to_json())
    check(loaded(content, contract), contract, golden)


def test_a_correct_implementation_of_other_make_passes_too(
    content: bytes, contract: PreprocessingContract
) -> None:
    golden = make(content, contract)
    assert golden.tolerance >= MIN_TOLERANCE
    check(loaded(content, contract, xnnpack=False), contract, golden)


def test_the_same_model_gives_the_same_bytes(
    content: bytes, contract: PreprocessingContract
) -> None:
    assert make(content, contract).to_json() == make(content, contract).to_json()


def test_the_model_tells_the_images_apart_by_more_than_the_tolerance(
    content: bytes, contract: PreprocessingContract
) -> None:
    golden = make(content, contract)
    said = np.array([case.probabilities for case in golden.cases])
    assert np.ptp(said, axis=0).max() > 2 * golden.tolerance


def test_the_images_have_to_be_resized(golden: Golden, contract: PreprocessingContract) -> None:
    for case in golden.cases:
        height, width, _ = load_image(case.image).shape
        assert height / contract.height != width / contract.width


WRONG_DEVICES: dict[str, Callable[[Any], Any]] = {
    "colours in another order": lambda pixels: pixels[..., ::-1],
    "rows upside down": lambda pixels: pixels[::-1],
    "another range": lambda pixels: pixels * 2 - 1,
}


@pytest.mark.parametrize("distort", WRONG_DEVICES.values(), ids=WRONG_DEVICES)
def test_a_device_that_computes_something_else_is_found_out(
    distort: Callable[[Any], Any], golden: Golden, models: Path, contract: PreprocessingContract
) -> None:
    model = loaded((models / "float32.tflite").read_bytes(), contract)

    class Distorted(PixelModel):
        def __init__(self) -> None:
            pass

        def __call__(self, pixels: Any) -> Any:
            return model(np.ascontiguousarray(distort(pixels)))

    with pytest.raises(ModelError, match=r"golden image \d it says '\w+' with a .*expected 0\.\d+"):
        check(Distorted(), contract, golden)


def test_another_model_does_not_pass(
    golden: Golden, models: Path, contract: PreprocessingContract
) -> None:
    cases = tuple(replace(c, probabilities=c.probabilities[::-1]) for c in golden.cases)
    model = loaded((models / "float32.tflite").read_bytes(), contract)
    with pytest.raises(ModelError, match="computes something else here"):
        check(model, contract, replace(golden, cases=cases))


def test_a_pair_for_other_labels_is_refused(
    golden: Golden, models: Path, contract: PreprocessingContract
) -> None:
    cases = (GoldenCase(golden.cases[0].image, (0.2, 0.8)),)
    model = loaded((models / "float32.tflite").read_bytes(), contract)
    with pytest.raises(ModelError, match="expected 3 probabilities, one a label, got 2"):
        check(model, contract, replace(golden, cases=cases))


def test_no_pair_is_made_of_a_model_that_gives_no_numbers(
    models: Path, contract: PreprocessingContract
) -> None:
    with pytest.raises(ModelError, match="not a finite number"):
        make((models / "nan.tflite").read_bytes(), contract)


def _saying(said: Any, otherwise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have XNNPACK and TFLite's own kernels say other things of the images."""
    answers = {True: np.array(said, np.float32), False: np.array(otherwise, np.float32)}
    monkeypatch.setattr(golden_module, "_answers", lambda *_, xnnpack: answers[xnnpack])


def test_no_pair_is_made_where_nothing_is_sure(
    contract: PreprocessingContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tolerance of twice the disagreement, it would let anything pass."""
    _saying([[0.9, 0.05, 0.05]] * 16, [[0.4, 0.3, 0.3]] * 16, monkeypatch)
    with pytest.raises(ModelError, match=r"differ by 0\.500 or more .* Leave this variant out"):
        make(b"", contract)


def test_only_images_on_which_implementations_agree_are_kept(
    contract: PreprocessingContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [[0.9, 0.05, 0.05]] * 2 + [[0.1, 0.8, 0.1]] * 14
    _saying(said, said[:2] + [[0.8, 0.1, 0.1]] * 14, monkeypatch)
    made = make(b"", contract)
    assert [case.probabilities for case in made.cases] == [(0.9, 0.05, 0.05)] * 2
    assert made.tolerance == MIN_TOLERANCE


def test_the_pair_of_an_undecided_model_does_not_let_pass_what_decides_nothing(
    contract: PreprocessingContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [[0.336, 0.332, 0.332]] * 16
    _saying(said, said, monkeypatch)
    assert make(b"", contract).tolerance == pytest.approx(0.0027 / 2, abs=1e-4)
    _saying([[1 / 3] * 3] * 16, [[1 / 3] * 3] * 16, monkeypatch)
    with pytest.raises(ModelError, match="equally probable"):
        make(b"", contract)


def png_of(width: int, height: int) -> str:
    """A PNG that breaks off where its pixels would begin."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    chunk += struct.pack(">I", 1000) + b"IDAT"
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


ONE = {"image": png_of(8, 8), "probabilities": [0.1, 0.2, 0.7]}
MALFORMED: dict[str, tuple[object, str]] = {
    "not an object": ([], "expected a JSON object"),
    "of a later version": ({"version": 2}, "has version 2, and this edgeline reads 1"),
    "a field too many": (
        {"version": 1, "tolerance": 0.04, "cases": [ONE], "x": 1},
        "expected tolerance, cases and nothing else",
    ),
    "no case": ({"version": 1, "tolerance": 0.04, "cases": []}, "expected 1 to 16 cases, got 0"),
    "too many cases": ({"version": 1, "tolerance": 0.04, "cases": [ONE] * 17}, "16 cases, got 17"),
    "cases that are none": (
        {"version": 1, "tolerance": 0.04, "cases": {}},
        "cases: expected a list",
    ),
    "a case that is none": (
        {"version": 1, "tolerance": 0.04, "cases": [1]},
        "cases: 0: expected an object",
    ),
    "no tolerance at all": ({"version": 1, "tolerance": 0, "cases": [ONE]}, "tolerance above 0"),
    "a tolerance for anything": ({"version": 1, "tolerance": 0.05, "cases": [ONE]}, "at most 0.04"),
    "a tolerance in words": ({"version": 1, "tolerance": "1", "cases": [ONE]}, "got '1'"),
    "no probability": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "probabilities": []}]},
        "probabilities from 0 to 1",
    ),
    "a tolerance within which any answer is": (
        {
            "version": 1,
            "tolerance": 0.02,
            "cases": [{**ONE, "probabilities": [0.32, 0.33, 0.35]}] * 2,
        },
        "let pass a model that finds all labels equally probable",
    ),
    "a probability of two": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "probabilities": [2]}]},
        "probabilities from 0 to 1",
    ),
    "an image that is no base64": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "image": "!"}]},
        "image: expected base64",
    ),
    "an image that is no PNG": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "image": "AAAA"}]},
        "no PNG",
    ),
    "an image that unpacks to megabytes": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "image": png_of(8, 9000)}]},
        "got 41 bytes and 8 x 9000",
    ),
    "an image that unpacks to gigabytes": (
        {"version": 1, "tolerance": 0.04, "cases": [{**ONE, "image": png_of(99_999, 99_999)}]},
        "or a huge one",
    ),
}


@pytest.mark.parametrize(("document", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_pair_is_refused(document: object, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        Golden.from_json(json.dumps(document).encode())
    assert message in str(caught.value)


def test_an_image_without_its_pixels_is_refused(models: Path) -> None:
    contract = PreprocessingContract(height=8, width=8, max_side=512, labels=("a", "b", "c"))
    golden = Golden.from_json(
        json.dumps({"version": 1, "tolerance": 0.04, "cases": [ONE]}).encode()
    )
    model = loaded((models / "float32.tflite").read_bytes(), contract)
    with pytest.raises(ModelError, match=r"malformed: image 1: .*cannot be decoded"):
        check(model, contract, golden)
