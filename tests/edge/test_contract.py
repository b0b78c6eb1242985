"""The preprocessing contract: what is written is read back, and nothing else is."""

import json
from typing import Any

import pytest

from edgeline.contract import MAX_BYTES, PreprocessingContract
from edgeline.errors import ContractError

VALID: dict[str, Any] = {
    "version": 1,
    "height": 150,
    "width": 200,
    "max_side": 512,
    "color": "RGB",
    "value_range": [0.0, 1.0],
    "resize": "bilinear",
    "exif_orientation": "apply",
    "labels": ["functional", "défectueux"],
}


def test_a_contract_survives_the_way_to_json_and_back() -> None:
    contract = PreprocessingContract(
        height=150, width=200, max_side=512, labels=("functional", "défectueux")
    )
    assert json.loads(contract.to_json()) == VALID
    assert PreprocessingContract.from_json(contract.to_json()) == contract


def test_equal_contracts_give_equal_bytes() -> None:
    shuffled = json.dumps(dict(reversed(VALID.items())), indent=2).encode()
    contract = PreprocessingContract.from_json(shuffled)
    assert contract.to_json() == PreprocessingContract.from_json(contract.to_json()).to_json()
    assert contract.to_json().startswith(b'{"color":"RGB",')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"version": 2}, "Update edgeline", id="a later version"),
        pytest.param({"version": True}, "version True", id="a version that only equals 1"),
        pytest.param({"version": None}, "version None", id="no version"),
        pytest.param({"crop": 0.8}, r"unknown \['crop'\]", id="an unknown field"),
        pytest.param({"height": 0}, "'height'", id="a height of nothing"),
        pytest.param({"width": 4097}, "'width'", id="a width beyond the limit"),
        pytest.param({"max_side": 0}, "'max_side'", id="an image side of nothing"),
        pytest.param({"width": 150.0}, "'width'", id="a width with a fraction"),
        pytest.param({"height": True}, "'height'", id="a height that is a boolean"),
        pytest.param({"height": "150"}, "'height'", id="a height in a string"),
        pytest.param({"color": "BGR"}, "'color'", id="another colour order"),
        pytest.param({"value_range": [-1.0, 1.0]}, "'value_range'", id="another range"),
        pytest.param({"value_range": 1.0}, "'value_range'", id="a range that is a number"),
        pytest.param({"resize": "area"}, "'resize'", id="another resize method"),
        pytest.param({"exif_orientation": "ignore"}, "'exif_orientation'", id="EXIF ignored"),
        pytest.param({"labels": "ab"}, "'labels'", id="labels that are a string"),
        pytest.param({"labels": ["one"]}, "'labels'", id="a single label"),
        pytest.param({"labels": ["a", "a"]}, "each name once", id="a label twice"),
        pytest.param({"labels": ["a", 1]}, "'labels'", id="a label that is a number"),
        pytest.param({"labels": ["a", ""]}, "'labels'", id="an empty label"),
        pytest.param({"labels": ["a", "b "]}, "'labels'", id="a label ending in space"),
        pytest.param({"labels": ["a", "\x1b[2J"]}, "'labels'", id="a label that clears screens"),
        pytest.param({"labels": ["a", "\ud800"]}, "'labels'", id="a label that is not Unicode"),
        pytest.param({"labels": ["a", "b" * 201]}, "'labels'", id="a label without end"),
        pytest.param({"labels": [f"{n}" for n in range(10_001)]}, "'labels'", id="many labels"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        PreprocessingContract.from_json(json.dumps({**VALID, **change}).encode())


@pytest.mark.parametrize("field", sorted(VALID))
def test_refuses_a_contract_without(field: str) -> None:
    document = {name: value for name, value in VALID.items() if name != field}
    with pytest.raises(ContractError, match=field):
        PreprocessingContract.from_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe{}", id="bytes that are not UTF-8"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"version": 1, "version": 1}', id="a key twice"),
        pytest.param(b'{"version": NaN}', id="not-a-number"),
        pytest.param(b"[" * 100_000, id="brackets that nest for ever"),
        pytest.param(b" " * (MAX_BYTES + 1), id="more bytes than allowed"),
    ],
)
def test_refuses_bytes_that_are(data: bytes) -> None:
    with pytest.raises(ContractError):
        PreprocessingContract.from_json(data)


def test_a_wrong_contract_cannot_be_made_in_code_either() -> None:
    with pytest.raises(ContractError, match="expected a whole number of pixels from 1 to 4096"):
        PreprocessingContract(height=-1, width=1, max_side=512, labels=("a", "b"))
