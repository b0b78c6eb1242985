"""Records: JSON that anybody may have written, read as the types of a dataclass say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from edgeline._records import MOST, Base64, Sha256, document_of, load, read, save


def even(value: object) -> int:
    number = read(int, value)
    if number % 2:
        raise ValueError("expected an even number")
    return number


@dataclass(frozen=True)
class Inner:
    """What is within another record."""

    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    """A field of each kind."""

    count: int
    flag: bool
    text: str | None
    inner: Inner
    others: dict[str, Inner] = field(default_factory=dict)
    pairs: Annotated[int, even] | None = None


@dataclass(frozen=True)
class Image:
    """Bytes, and a name that is safe in a path."""

    name: Sha256
    png: Base64


GOOD: dict[str, Any] = {"count": 3, "flag": True, "text": None, "inner": {"share": 1}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    record = Outer(1, False, "x", Inner(0.5, ("a", "b")), {"y": Inner(2.0)}, pairs=4)
    save(tmp_path / "record.json", record)
    assert load(Outer, tmp_path / "record.json", 1000) == record


def test_a_field_with_a_default_may_be_missing() -> None:
    assert read(Outer, GOOD) == Outer(3, True, None, Inner(1.0))


def test_what_a_later_version_added_may_be_ignored() -> None:
    added = {**GOOD, "inner": {"share": 1, "new": 2}, "newer": 3}
    assert read(Outer, added, strict=False) == read(Outer, GOOD)
    with pytest.raises(ValueError, match="nothing else"):
        read(Outer, added)


def test_bytes_are_in_base64(tmp_path: Path) -> None:
    record = Image("0" * 64, b"\0\xff")
    assert document_of(record)["png"] == "AP8="
    save(tmp_path / "image.json", record)
    assert load(Image, tmp_path / "image.json", 1000) == record
    for wrong in ({"png": "A!P8="}, {"png": 1}, {"name": "0" * 63}, {"name": "../" + "0" * 61}):
        with pytest.raises(ValueError, match="expected"):
            read(Image, {**document_of(record), **wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "count: expected a count, got -1"),
        ({"count": MOST + 1}, "count: expected a count"),
        ({"count": True}, "count: expected a count, got True"),
        ({"count": 1.0}, "count: expected a count"),
        ({"flag": 1}, "flag: expected true or false"),
        ({"text": 1}, "text: expected text, got 1"),
        ({"inner": []}, "inner: expected an object"),
        ({"inner": {}}, "inner: expected share, names and nothing else"),
        ({"inner": {"share": 1, "x": 1}}, "nothing else"),
        ({"inner": {"share": float("inf")}}, "inner: share: expected a number from 0"),
        ({"inner": {"share": float("nan")}}, "inner: share: expected a number from 0"),
        ({"inner": {"share": True}}, "inner: share: expected a number from 0"),
        ({"inner": {"share": 1, "names": "ab"}}, "inner: names: expected a list, got 'ab'"),
        ({"others": {"y": 1}}, "others: y: expected an object, got 1"),
        ({"pairs": 3}, "pairs: expected an even number"),
    ],
    ids=str,
)
def test_what_is_malformed_is_told_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(Outer, {**GOOD, **change})


def test_what_is_lost_or_damaged_or_too_large_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert load(Inner, path, 100) is None
    path.write_text('{"share": ')
    assert load(Inner, path, 100) is None
    path.write_text('{"share": -1}')
    assert load(Inner, path, 100) is None
    path.write_text('{"share": 1}')
    assert load(Inner, path, 100) == Inner(1.0)
    assert load(Inner, path, 5) is None
