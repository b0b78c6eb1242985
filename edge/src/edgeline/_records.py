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
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache, partial
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
    wanted: Any = kind
    found: _Record = _reader(wanted, strict)(value)
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


def _encoded(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in items
    }


@cache
def _reader(kind: Any, strict: bool) -> Callable[[object], Any]:
    """Return what reads a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check: Callable[[object], Any] = parts[1]
        return check
    if origin in (Union, UnionType):
        (other,) = (_reader(part, strict) for part in parts if part is not NoneType)
        return lambda value: None if value is None else other(value)
    if origin in (list, tuple):
        return partial(_read_list, origin, _reader(parts[0], strict))
    if origin in (dict, Mapping):
        return partial(_read_mapping, *(_reader(part, strict) for part in parts))
    if is_dataclass(kind):
        return partial(_read_record, kind, strict)
    return number if kind is float else partial(_read_plain, kind)


def _read_plain(kind: Any, value: Any) -> object:
    if type(value) is not kind or (kind is int and not 0 <= value <= MOST):
        raise _wrong({int: "a count", bool: "true or false", str: "text"}[kind], value)
    return value


def _read_list(
    kind: Callable[..., object], reader: Callable[[object], Any], value: object
) -> object:
    if not isinstance(value, list):
        raise _wrong("a list", value)
    return kind(_at(place, reader, each) for place, each in enumerate(value))


def _read_mapping(
    key: Callable[[object], Any], reader: Callable[[object], Any], value: object
) -> dict[Any, Any]:
    return {key(name): _at(name, reader, each) for name, each in _object(value).items()}


def _read_record(kind: Any, strict: bool, value: object) -> Any:
    document, (readers, needed) = _object(value), _fields_of(kind, strict)
    known = {name: document[name] for name in readers if name in document}
    if not needed <= known.keys() or (strict and len(known) < len(document)):
        raise ValueError(f"expected {', '.join(readers)}{' and nothing else' if strict else ''}")
    return kind(**{name: _at(name, readers[name], each) for name, each in known.items()})


@cache
def _fields_of(kind: Any, strict: bool) -> tuple[dict[str, Callable[[object], Any]], set[str]]:
    """Return what reads a dataclass's fields, and the names of those without a default."""
    needed = {
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    }
    hints = get_type_hints(kind, include_extras=True)
    return {name: _reader(hint, strict) for name, hint in hints.items()}, needed


def _at(place: object, reader: Callable[[object], Any], value: object) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise ValueError(f"{one_line(place, limit=80)}: {error}") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("an object", value)
    return value


def _wrong(expected: str, got: object) -> ValueError:
    return ValueError(f"expected {expected}, got {quoted(got, limit=80)}")
