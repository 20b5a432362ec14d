"""Sums, means, extremes, counts and diagonals: of scipy's dtypes and shapes, read from the storage.

What needs an order of all entries (`argmax`, `nonzero`), and what scipy refuses, goes through CSR.
"""

from __future__ import annotations

from operator import index
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType
from tvwarray._entries import merged
from tvwarray._namespace import nonzero_mask
from tvwarray._reduce import (
    ExtremeName,
    diagonal_values,
    line_counts,
    line_extremes,
    line_sums,
    operation,
)
from tvwarray._sparray.arithmetic import Matrix, check_host
from tvwarray._storage import HostArray, TVWStorage

_INT32_MAX: Final = np.iinfo(np.int32).max


def total(A: Matrix, axis: Any, dtype: Any, out: Any) -> Any:
    """Return the sum of all elements, or along an axis; floats are added in double precision."""
    check_host(A.storage, "sum")
    if not _is_known(axis):
        return A.host_csr("sum").sum(axis=axis, dtype=dtype, out=out)
    line = _line(axis)
    if line is None:
        return np.sum(_values(_unwrapped(A.storage)), dtype=dtype, out=out)
    sums = line_sums(_unwrapped(A.storage), _stored_axis(A, line))
    return _delivered(sums, _sum_dtype(A.storage.dtype) if dtype is None else dtype, out)


def mean(A: Matrix, axis: Any, dtype: Any, out: Any) -> Any:
    """Return the mean of all elements, zeros included, or along an axis."""
    check_host(A.storage, "mean")
    if not _is_known(axis) or 0 in A.shape:
        return A.host_csr("mean").mean(axis=axis, dtype=dtype, out=out)
    line = _line(axis)
    between = _wide(A.storage.dtype) if A.storage.dtype.kind not in "biu" else np.dtype(np.float64)
    if line is None:
        values = _values(_unwrapped(A.storage))
        sums = np.asarray(np.sum(values, dtype=np.result_type(values.dtype, np.float64)))
        count = A.shape[0] * A.shape[1]
    else:
        sums = line_sums(_unwrapped(A.storage), _stored_axis(A, line))
        count = A.shape[line]
    with np.errstate(all="ignore"):
        means = _delivered(sums / count, between, out)
    return means if dtype is None or out is not None else means.astype(dtype, copy=False)


def extreme(A: Matrix, axis: Any, out: Any, explicit: bool, name: ExtremeName) -> Any:
    """Return the extreme of all elements, or along an axis as a ``coo_array`` without zeros."""
    check_host(A.storage, name)
    storage = A.storage
    known = _is_known(axis) and out is None and storage.dtype.kind != "c" and 0 not in A.shape
    if not known or storage.remainder is not None:
        csr = A.host_csr(name)
        return getattr(csr, name)(axis=axis, out=out, explicit=explicit)
    storage, line, op = merged(storage), _line(axis), operation(name)
    if line is None:
        values = _values(storage)
        zero = values.dtype.type(0)
        if not storage.nnz:
            return zero
        if explicit or storage.nnz == A.shape[0] * A.shape[1]:
            return op.reduce(values[nonzero_mask(values)])
        return op(zero, op.reduce(values))
    values, counts = line_extremes(storage, _stored_axis(A, line), name)
    if not explicit:
        beside_zeros = (counts > 0) & (counts < A.shape[line])
        values[beside_zeros] = op(values[beside_zeros], values.dtype.type(0))
    (held,) = np.nonzero(nonzero_mask(values))
    return sp.coo_array((values[held], (held,)), shape=values.shape)


def count_nonzero(A: Matrix, axis: Any) -> Any:
    """Return how many elements are not zero, or how many along an axis."""
    check_host(A.storage, "count_nonzero")
    storage = A.storage
    if not (axis is None or _is_axis(axis)) or storage.remainder is not None:
        found = A.host_csr("count_nonzero").count_nonzero(axis=axis)
        narrow = np.ndim(found) == 1 and axis in (1, -1) and storage.nnz <= _INT32_MAX
        return found.astype(np.int32) if narrow else found
    storage = merged(storage)
    if axis is None:
        return np.intp(storage.nnz)
    counts = line_counts(storage, _stored_axis(A, index(axis) % 2))
    narrow = index(axis) % 2 == 1 and storage.nnz <= _INT32_MAX  # scipy's: a difference of indptr
    return counts.astype(np.int32) if narrow else counts


def diagonal(A: Matrix, k: Any) -> HostArray:
    """Return the `k`-th diagonal, dense."""
    check_host(A.storage, "diagonal")
    return diagonal_values(A.storage, -index(k) if A.transposed else index(k))


def _is_axis(axis: Any) -> bool:
    integer = isinstance(axis, int | np.integer) and not isinstance(axis, bool)
    return integer and -2 <= axis <= 1


def _is_known(axis: Any) -> bool:
    """Say whether `axis` is None, an axis, or a tuple of distinct ones; scipy answers the rest."""
    if isinstance(axis, tuple):
        return 0 < len(axis) == len({a % 2 for a in axis if _is_axis(a)})
    return axis is None or _is_axis(axis)


def _line(axis: Any) -> int | None:
    """Return 0 or 1, or None for both."""
    if isinstance(axis, tuple):
        return None if len(axis) == 2 else index(axis[0]) % 2
    return None if axis is None else index(axis) % 2


def _stored_axis(A: Matrix, axis: int) -> int:
    return 1 - axis if A.transposed else axis


def _wide(dtype: DType) -> DType:
    return FLOAT32 if dtype in NARROW_FLOATS else dtype


def _sum_dtype(dtype: DType) -> DType:
    """Return the dtype of sums: of integers a wide one, as NumPy has it."""
    summed: DType = np.sum(np.empty(0, _wide(dtype))).dtype
    return summed


def _unwrapped(storage: TVWStorage) -> TVWStorage:
    """Return a storage whose sums are those of its elements.

    Booleans and integers at one place may give an element that is not their sum in a wider type.
    """
    return merged(storage) if storage.dtype.kind in "biu" else storage


def _values(storage: TVWStorage) -> HostArray:
    """Return all stored values, zeros among them, the narrow floats in float32."""
    values = storage.data
    if storage.remainder_data is not None:
        values = np.concatenate([values, storage.remainder_data])
    return np.asarray(values, _wide(storage.dtype))


def _delivered(values: HostArray, dtype: Any, out: Any) -> Any:
    """Return values, or a scalar, of a dtype, or in `out`.

    Raises
    ------
    ValueError
        If `out` has another shape.
    """
    with np.errstate(all="ignore"):
        values = values.astype(dtype, copy=False)
    if out is None:
        return values[()]
    if out.shape != values.shape:
        raise ValueError(
            f"output parameter of wrong dimensions: out has shape {out.shape}, the result has "
            f"{values.shape}."
        )
    out[...] = values
    return out
