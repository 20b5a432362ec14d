"""The CUTLASS order of PyTorch's 2:4 matrices.

Axes: dtype x shape x tile_rows x array library. The order is proved against files that torch made,
and against the definition, word by word; equality is of bits.
"""

from __future__ import annotations

from pathlib import Path

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from two_four_forms import compressed, same_bits

from tvwarray import FormatError
from tvwarray._convert import from_cutlass, from_dense, to_24, to_cutlass, to_dense

GOLDEN = np.load(Path(__file__).with_name("data") / "cutlass_24.npz", allow_pickle=False)
tile_heights = st.sampled_from([16, 17, 128, 256])


def golden(dtype: str, part: str) -> np.ndarray:
    array = GOLDEN[f"{dtype}_{part}"]
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_cutlass_order_is_that_of_torch(dtype):
    """The file was made by torch; see tests/data/make_cutlass_24.py."""
    dense, values, meta = (golden(dtype, part) for part in ("dense", "values", "meta"))
    s = from_cutlass(values, meta, tile_rows=16)
    s.check()
    same_bits(to_dense(s), dense)
    same_bits(to_cutlass(s)[0], values)
    same_bits(to_cutlass(s)[1], meta)
    same_bits(to_dense(from_cutlass(*to_cutlass(from_dense(dense)))), dense)


def in_cutlass_order(positions: np.ndarray, groups: int) -> np.ndarray:
    """Return the metadata words, one by one: where CUTLASS's reorder_meta puts each of them."""
    rows, half = positions.shape
    columns = half // (2 * groups)
    band, spread = (32, 4) if groups == 4 else (16, 2)
    flat = np.zeros(rows * columns, np.int64)
    for r in range(rows):
        for w in range(columns):
            part = positions[r, 2 * groups * w : 2 * groups * (w + 1)]
            word = sum(int(p) << 2 * i for i, p in enumerate(part))
            row = r // band * band + r % 8 * spread + r % band // 8
            column = w
            if row % 2 == 0 and column % 2 == 1:
                row, column = row + 1, column - 1
            elif row % 2 == 1 and column % 2 == 0:
                row, column = row - 1, column + 1
            flat[column // 2 * rows * 2 + row * 2 + column % 2] = word
    bits = flat.astype(np.uint16 if groups == 4 else np.uint32)
    return bits.view(np.int16 if groups == 4 else np.int32).reshape(rows, columns)


cutlass_matrices = compressed(dtypes=["float16", "bfloat16"], rows=32, cols=32) | compressed(
    dtypes=["int8"], rows=16, cols=64
)


@given(cutlass_matrices, tile_heights)
def test_cutlass_round_trip(matrix, tile_rows):
    values, positions = matrix
    meta = in_cutlass_order(positions, 8 if values.dtype == np.int8 else 4)
    s = from_cutlass(values, meta, tile_rows=tile_rows)
    s.check()
    same_bits(to_24(s)[0], values)
    same_bits(to_24(s)[1], positions)
    for got, expected in zip(to_cutlass(s), (values, meta), strict=True):
        same_bits(got, expected)


def test_cutlass_in_another_array_library():
    values, meta = (array_api_strict.asarray(golden("int8", part)) for part in ("values", "meta"))
    s = from_cutlass(values, meta)
    for got, expected in zip(to_cutlass(s), (values, meta), strict=True):
        assert isinstance(got, type(values))
        same_bits(got, np.asarray(expected))


@pytest.mark.parametrize(
    ("values", "meta", "message"),
    [
        (np.ones((32, 16), np.float32), np.ones((32, 2), np.int16), "values are float32"),
        (np.ones(16, np.float16), np.ones((32, 2), np.int16), "1 dimensions"),
        (
            np.ones((16, 16), np.float16),
            np.ones((16, 2), np.int16),
            "of 32 rows and of 32",
        ),
        (
            np.ones((32, 24), np.float16),
            np.ones((32, 3), np.int16),
            "of 32 rows and of 32",
        ),
        (np.ones((8, 32), np.int8), np.ones((8, 2), np.int32), "multiple of 16 rows and of 64"),
        (np.ones((16, 48), np.int8), np.ones((16, 3), np.int32), "multiple of 16 rows and of 64"),
        (np.ones((32, 16), np.float16), np.ones((32, 4), np.int16), r"int16 of shape \(32, 2\)"),
        (np.ones((32, 16), np.float16), np.ones((32, 2), np.uint16), "meta is uint16"),
        (np.ones((16, 32), np.int8), np.ones((16, 2), np.int16), r"int32 of shape \(16, 2\)"),
        (np.ones((32, 16), np.float16), np.zeros((32, 2), np.int16), "positions 0 and 0"),
    ],
)
def test_what_from_cutlass_refuses(values, meta, message):
    with pytest.raises(FormatError, match=message):
        from_cutlass(values, meta)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((32, 32), "float32", "use the 2:4 form"),
        ((33, 32), "float16", "multiple of 32 rows"),
        ((32, 48), "bfloat16", "of 32 columns"),
        ((16, 32), "int8", "of 64 columns"),
    ],
)
def test_what_to_cutlass_refuses(shape, dtype, message):
    with pytest.raises(FormatError, match=message):
        to_cutlass(from_dense(np.zeros(shape, strategies.dtype(dtype))))


def test_to_cutlass_refuses_a_crowded_matrix():
    with pytest.raises(FormatError, match="row 0, columns 0-3 hold 4 nonzeros"):
        to_cutlass(from_dense(np.ones((32, 32), np.float16)))
