"""The rules of a remainder: entries beside the tiles, in CSR, that no tile holds economically."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._namespace import Array, dtype_of, to_host

REMAINDER_FIELDS: Final = ("remainder_indptr", "remainder_indices", "remainder_data")
"""What a storage calls the arrays of its remainder."""


class Remainder(NamedTuple):
    """A canonical CSR matrix: in every row the columns ascend, and none stands twice."""

    indptr: Array
    """int32 (rows + 1,)"""
    indices: Array
    """int32 (entries,)"""
    data: Array
    """(entries,), in the value dtype of the tiles"""


def check_remainder(remainder: Remainder, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Check every rule of a remainder beside tiles of this shape and dtype.

    Raises
    ------
    FormatError
        At the first rule that is broken, saying where.
    """
    if dtype_of(remainder.data) != dtype:
        raise FormatError(
            f"remainder_data is {dtype_of(remainder.data).name}, data is {dtype.name}; both hold "
            "values of one dtype."
        )
    indptr = to_host(remainder.indptr).astype(np.int64)
    indices = to_host(remainder.indices)
    if indptr.size != shape[0] + 1 or indptr[0] != 0 or indptr[-1] != indices.size:
        raise FormatError(
            f"remainder_indptr has {indptr.size} entries; it has {shape[0] + 1}, from 0 to the "
            f"number of indices, {indices.size}."
        )
    if remainder.data.shape[0] != indices.size:
        raise FormatError(
            f"remainder_data has {remainder.data.shape[0]} entries for {indices.size} indices."
        )
    fall = np.flatnonzero(np.diff(indptr) < 0)
    if fall.size:
        raise FormatError(f"remainder, row {int(fall[0])}: remainder_indptr falls.")
    outside = np.flatnonzero((indices < 0) | (indices >= shape[1]))
    if outside.size:
        raise FormatError(
            f"remainder, row {_row(indptr, outside[0])}: column {indices[outside[0]]} is outside "
            f"0..{shape[1] - 1}."
        )
    begins_row = np.zeros(indices.size, np.bool_)
    begins_row[indptr[:-1][indptr[:-1] < indices.size]] = True
    back = np.flatnonzero((np.diff(indices) <= 0) & ~begins_row[1:])
    if back.size:
        raise FormatError(
            f"remainder, row {_row(indptr, back[0])}: column {indices[back[0] + 1]} follows "
            f"{indices[back[0]]}; columns of a row ascend."
        )


def _row(indptr: np.ndarray[Any, Any], entry: int) -> int:
    return int(np.searchsorted(indptr, entry, side="right")) - 1
