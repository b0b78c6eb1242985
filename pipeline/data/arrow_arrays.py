"""Between Arrow's arrays and the values of Python and NumPy.

pyarrow has functions for all of this, and each of them imports pandas first where that is
installed: a third of a second, and 40 MB for the rest of the ingest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def array(values: Sequence[Any], kind: Any) -> Any:
    """An Arrow array, `[rows]`, of Python's values; None is null.

    Args:
        values: text, bytes, whole numbers, or lists of text.
        kind: of the array: string, binary, int32, int64, or a list of strings, which has no null.

    Raises:
        OverflowError: the texts take 2 GB or more.
    """
    if pa.types.is_list(kind):
        texts = array(list(chain.from_iterable(values)), kind.value_type)
        offsets = pa.py_buffer(_offsets(values))
        return pa.Array.from_buffers(kind, len(values), [None, offsets], children=[texts])
    known = np.array([value is not None for value in values], np.bool_)
    validity = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    if pa.types.is_integer(kind):
        numbers = np.array([value or 0 for value in values], kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(numbers)])
    pieces = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    buffers = [validity, pa.py_buffer(_offsets(pieces)), pa.py_buffer(b"".join(pieces))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def numbers(values: Any, null: int) -> NDArray[Any]:
    """The values of an Arrow array of numbers, `[rows]`, with `null` where there is none."""
    found = np.frombuffer(values.buffers()[1], values.type.to_pandas_dtype())
    found = found[values.offset : values.offset + len(values)]
    return np.where(known(values), found, null) if values.null_count else found


def known(values: Any) -> NDArray[np.bool_]:
    """Where an Arrow array has a value, `[rows]`."""
    validity = values.buffers()[0]
    if validity is None:
        return np.ones(len(values), np.bool_)
    end = values.offset + len(values)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), count=end, bitorder="little")
    return bits[values.offset :].astype(np.bool_)


def _offsets(pieces: Sequence[Any]) -> NDArray[np.int32]:
    """Where each piece begins in all of them joined, and where the last one ends."""
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)), out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{offsets[-1]:,} bytes are too many for one array")
    return offsets.astype(np.int32)
