from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data import arrow_arrays

COLUMNS = [
    (pa.string(), ["cat", "", None, "\N{SNOWMAN}", "two\nlines"]),
    (pa.string(), ["cat", "dog"]),
    (pa.string(), [None, None]),
    (pa.string(), []),
    (pa.binary(), [b"\0\xff", None, b""]),
    (pa.int32(), [1, None, -(2**31), 2**31 - 1]),
    (pa.int64(), [2**62, 0, -1] * 7),
    (pa.list_(pa.string()), [["a", "b"], [], ["c"]]),
    (pa.list_(pa.string()), [[], []]),
]


@pytest.mark.parametrize(("kind", "values"), COLUMNS)
def test_an_array_is_the_one_that_pyarrow_makes(kind: Any, values: list[Any]) -> None:
    made = arrow_arrays.array(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))
    assert made.null_count == values.count(None)


@pytest.mark.parametrize("skipped", [0, 1, 3, 9])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_numbers_and_nulls_come_back_also_of_a_part(dtype: type[np.generic], skipped: int) -> None:
    values = [None if i % 3 == 0 else i for i in range(20)]
    part = pa.array(values, pa.from_numpy_dtype(dtype))[skipped:]
    expected = np.array([-1 if value is None else value for value in values[skipped:]], dtype)
    np.testing.assert_array_equal(arrow_arrays.numbers(part, -1), expected)
    np.testing.assert_array_equal(arrow_arrays.known(part), expected != -1)


def test_an_array_without_nulls_has_all_values() -> None:
    assert arrow_arrays.known(pa.array([1, 2, 3])).tolist() == [True] * 3
