"""Records: dataclasses as JSON, and back from whoever wrote it, each field as its type says.

    Digest = Annotated[str, check_digest]           # returns a good value, and raises else

    @dataclass(frozen=True)
    class Served:
        digest: Digest
        labels: tuple[str, ...]
        reason: str | None = None

    save(path, served)
    served = read(Served, parse_object(data))

Numbers are at least 0, and small enough to be exact in every language. A field that has a default
may be missing, and there are no others than the dataclass has unless they are to be ignored. What
fields have to do with each other is checked in `__post_init__`.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeline._files import read_bounded, write_whole
from edgeline._json import dump_canonical, parse_object
from edgeline._text import one_line, quoted
from edgeline.errors import EdgelineError

MOST = 1 << 53  # beyond it, numbers are not exact in every language

_Record = TypeVar("_Record")


def _decoded(value: object) -> bytes:
    try:
        return base64.b64decode(read(str, value), validate=True)
    except ValueError:
        raise _wrong("base64", value) from None


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise _wrong("a SHA-256 in hex", value)
    return value


Base64: TypeAlias = Annotated[bytes, _decoded]
Sha256: TypeAlias = Annotated[str, _sha256]


def read(kind: type[_Record], value: object, *, strict: bool = True) -> _Record:
    """Read what JSON says of a dataclass, or of one of the types that fields may have.

    These are int, float, bool, str, dataclasses, lists, tuples and mappings of them, each of them
    or None, and `Annotated` with what checks or makes a value.

    Args:
        kind: The type.
        value: As `json` returns it.
        strict: Whether to refuse fields that the dataclasses do not have, in place of ignoring
            what a later version may have added.

    Raises:
        ValueError: it is malformed, of which the text says where and how.
        EdgelineError: as what checks it raises.
    """
    found: _Record = _read(kind, value, strict)
    return found


def document_of(record: Any) -> dict[str, Any]:
    """Return a record as JSON has it; bytes are in base64."""
    return asdict(record, dict_factory=_encoded)


def save(path: Path, record: Any) -> None:
    """Keep a record in a file, whole.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, dump_canonical(document_of(record)))


def load(kind: type[_Record], path: Path, limit: int) -> _Record | None:
    """Return a record of at most `limit` bytes that was kept; None where it is lost or damaged."""
    try:
        return read(kind, parse_object(read_bounded(path, limit)))
    except (OSError, ValueError, EdgelineError):
        return None


def number(value: object, most: float = MOST) -> float:
    """Return `value` when it is a number from 0 to `most`.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
        return float(value)
    raise _wrong(f"a number from 0 to {most:g}", value)


def share(value: object) -> float:
    """Return `value` when it is a number from 0 to 1.

    Raises:
        ValueError: it is not.
    """
    return number(value, 1.0)


def _read(kind: Any, value: object, strict: bool) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return parts[1](value)
    if origin in (Union, UnionType):
        (other,) = (part for part in parts if part is not NoneType)
        return None if value is None else _read(other, value, strict)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise _wrong("a list", value)
        return origin(_at(place, parts[0], each, strict) for place, each in enumerate(value))
    if origin in (dict, Mapping):
        return {
            _read(parts[0], name, strict): _at(name, parts[1], each, strict)
            for name, each in _object(value).items()
        }
    if is_dataclass(kind):
        return _read_fields(kind, _object(value), strict)
    if kind is float:
        return number(value)
    if type(value) is not kind or (kind is int and not 0 <= value <= MOST):  # type: ignore[operator]
        raise _wrong({int: "a count", bool: "true or false", str: "text"}[kind], value)
    return value


def _read_fields(kind: Any, document: dict[str, Any], strict: bool) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    needed = {
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    }
    known = {name: document[name] for name in hints if name in document}
    if not needed <= known.keys() or (strict and len(known) < len(document)):
        raise ValueError(f"expected {', '.join(hints)}{' and nothing else' if strict else ''}")
    return kind(**{name: _at(name, hints[name], each, strict) for name, each in known.items()})


def _encoded(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in items
    }


def _at(place: object, kind: Any, value: object, strict: bool) -> Any:
    try:
        return _read(kind, value, strict)
    except ValueError as error:
        raise ValueError(f"{one_line(place, limit=80)}: {error}") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("an object", value)
    return value


def _wrong(expected: str, got: object) -> ValueError:
    return ValueError(f"expected {expected}, got {quoted(got, limit=80)}")
