"""JSON as edgeline writes and reads it: one way to write a value, one meaning for what is read."""

import json
from typing import Any, NoReturn


def dump_canonical(value: object) -> bytes:
    """Write `value` so that equal values give equal bytes, and so equal digests.

    Raises:
        ValueError: a float is NaN or infinite, or a string is not valid Unicode.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def parse_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object from untrusted bytes.

    Stricter than `json.loads`: UTF-8 only, no NaN, and no key twice, since two readers could
    disagree on which of the two counts.

    Raises:
        ValueError: the bytes are not such an object.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("an object holds the same key twice")
    return unique


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
