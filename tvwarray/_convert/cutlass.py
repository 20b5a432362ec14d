"""The metadata order of CUTLASS, in which PyTorch keeps 2:4 matrices, to storage and back.

PyTorch's ``SparseSemiStructuredTensorCUTLASS`` holds the stored values row by row, as `from_24`
takes them, and metadata words in the order a warp loads them: int16 words of four groups for
float16 and bfloat16, int32 words of eight groups for int8, both (rows, words). Within a word the
nibbles stand as in `TVWStorage`. The words are moved, in one permutation of their index digits::

    row     r = 8 (2 h + a) + b   of a band: 32 rows for int16, 16 rows (h = 0) for int32
    word    w = 2 C + c

    natural order    [band, h, a, b,   C, c]
    CUTLASS order    [C,   band, b, h, c, a]

The word columns come in pairs C, one pair after the other (column-major, interleaved by 2). Within
a pair the rows of a band are dealt out, eight apart becoming neighbours, and every 2 x 2 block of
neighbouring rows and columns is transposed (a and c change places).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tvwarray._convert.compressed import from_24, to_24
from tvwarray._dtypes import BFLOAT16, FLOAT16, DType
from tvwarray._errors import FormatError
from tvwarray._namespace import Array, array_namespace, dtype_of
from tvwarray._storage import DEFAULT_TILE_ROWS, TVWStorage
from tvwarray._two_four import meta_from_positions


class _Words(NamedTuple):
    """How the metadata of one value dtype is laid out."""

    dtype: str
    groups: int
    """How many groups of four columns one word describes."""
    halves: int
    """How many values `h` takes; a band has 16 rows for each."""

    @property
    def rows(self) -> int:
        """Rows are a multiple of this: whole bands."""
        return 16 * self.halves

    @property
    def cols(self) -> int:
        """Columns are a multiple of this: whole pairs of words."""
        return 8 * self.groups


_WORDS: Final[dict[DType, _Words]] = {
    FLOAT16: _Words("int16", 4, 2),
    BFLOAT16: _Words("int16", 4, 2),
    np.dtype(np.int8): _Words("int32", 8, 1),
}


def from_cutlass(values: Array, meta: Array, *, tile_rows: int = DEFAULT_TILE_ROWS) -> TVWStorage:
    """Convert a 2:4 matrix with metadata in CUTLASS order.

    Parameters
    ----------
    values : array, shape (rows, cols // 2)
        float16, bfloat16 or int8.
    meta : array, shape (rows, cols // 16) or (rows, cols // 32)
        int16 for 16-bit values, int32 for int8.
    tile_rows : int
        How many rows a tile has; see `TVWStorage`.

    Raises
    ------
    FormatError
        If a dtype or shape does not fit. Rows and columns are multiples of 32 for 16-bit values;
        for int8, rows are a multiple of 16 and columns of 64.
    """
    words = _words_of(dtype_of(values))
    if values.ndim != 2:
        raise FormatError(f"values have {values.ndim} dimensions; those of a matrix have 2.")
    rows, cols = int(values.shape[0]), 2 * int(values.shape[1])
    _check_shape(rows, cols, words, dtype_of(values))
    expected = rows, cols // (4 * words.groups)
    if tuple(meta.shape) != expected or dtype_of(meta).name != words.dtype:
        raise FormatError(
            f"meta is {dtype_of(meta).name} of shape {tuple(meta.shape)}; beside these values it "
            f"must be {words.dtype} of shape {expected}."
        )
    xp = array_namespace(values, meta)
    digits = (expected[1] // 2, rows // words.rows, 8, words.halves, 2, 2)
    natural = xp.permute_dims(xp.reshape(meta, digits), (1, 3, 5, 2, 0, 4))
    return from_24(values, meta=_to_uint16(xp.reshape(natural, expected)), tile_rows=tile_rows)


def to_cutlass(storage: TVWStorage) -> tuple[Array, Array]:
    """Return the matrix as 2:4-compressed values and metadata in CUTLASS order.

    See `from_cutlass` for the arrays and `to_24` for what is kept.

    Raises
    ------
    FormatError
        If the matrix is not 2:4, or its dtype or shape has no CUTLASS form.
    """
    words = _words_of(storage.dtype)
    rows, cols = storage.shape
    _check_shape(rows, cols, words, storage.dtype)
    values, positions = to_24(storage)
    xp = array_namespace(values)
    meta = _from_uint16(meta_from_positions(positions), words)
    columns = meta.shape[1]
    digits = (rows // words.rows, words.halves, 2, 8, columns // 2, 2)
    moved = xp.permute_dims(xp.reshape(meta, digits), (4, 0, 3, 1, 5, 2))
    return values, xp.reshape(moved, (rows, columns))


def _words_of(dtype: DType) -> _Words:
    if dtype not in _WORDS:
        raise FormatError(
            f"values are {dtype.name}; the CUTLASS order is for "
            f"{', '.join(d.name for d in _WORDS)}.\n"
            "Cast them, or use the 2:4 form of to_24 / from_24."
        )
    return _WORDS[dtype]


def _check_shape(rows: int, cols: int, words: _Words, dtype: DType) -> None:
    if rows % words.rows or cols % words.cols:
        raise FormatError(
            f"the matrix has shape {(rows, cols)}; in CUTLASS order {dtype.name} matrices have a "
            f"multiple of {words.rows} rows and of {words.cols} columns.\n"
            "Pad it with zeros, or use the 2:4 form of to_24 / from_24."
        )


def _to_uint16(meta: Array) -> Array:
    """Return words of four groups, unsigned as in `TVWStorage`."""
    xp = array_namespace(meta)
    if dtype_of(meta).itemsize == 2:
        return xp.astype(meta, xp.uint16)
    wide = xp.astype(meta, xp.uint32)
    rows, columns = meta.shape
    halves = xp.astype(xp.stack([wide & 0xFFFF, wide >> 16], axis=2), xp.uint16)
    return xp.reshape(halves, (rows, 2 * columns))


def _from_uint16(meta: Array, words: _Words) -> Array:
    """Return signed words of as many groups as `words` has; the inverse of `_to_uint16`."""
    xp = array_namespace(meta)
    if words.groups == 4:
        return xp.astype(meta, xp.int16)
    rows, columns = meta.shape
    halves = xp.reshape(xp.astype(meta, xp.uint32), (rows, columns // 2, 2))
    return xp.astype(halves[:, :, 0] | halves[:, :, 1] << 16, xp.int32)
