"""The product of two dense matrices at the places where a sparse one stores values (SDDMM).

It is the gradient of ``Y = A @ X`` with respect to the values of `A`: ``dY @ X.T``, which is as
large as the dense matrix, at the stored slots alone. Tiles make it a few small dense products::

    dY (rows, n)    X (cols, n)          tile t
    ┌───────────┐   ┌───────────┐        ┌──────────────┐  stored   ┌──────┐
    │ rows of t │ @ │ columns   │.T  =   │ rows x slots │ ────────> │ data │
    └───────────┘   │ of t      │        └──────────────┘  places   └──────┘
                    └───────────┘

The largest temporary is one tile expanded, and what is gathered for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._dtypes import accumulate_dtype, promote
from tvwarray._namespace import (
    Array,
    Namespace,
    array_namespace,
    as_dtype,
    dtype_of,
    from_host,
    to_host,
)
from tvwarray._storage import TVWStorage
from tvwarray._two_four import positions_24

_GATHER_BYTES: Final = 1 << 25
"""Operands gathered for a tile take about this much: more columns are taken strip by strip."""


def sampled_product(storage: TVWStorage, left: Array, right: Array) -> Array:
    """Return ``left @ right.T`` at the places of the stored values.

    Parameters
    ----------
    storage : TVWStorage, of shape (rows, cols)
        Its indices alone are read.
    left : array, shape (rows, n)
    right : array, shape (cols, n)
        Of one library and device with `storage`.

    Returns
    -------
    array, shape (stored,)
        In the order of ``data``, then of ``remainder_data``; in the type that products of `left`
        and `right` are summed in. What stands for padding slots has no meaning.

    Notes
    -----
    Gale et al., "Sparse GPU Kernels for Deep Learning", SC 2020 (arXiv:2006.10901), describe the
    operation and its use in training.
    """
    xp = array_namespace(left, right)
    dtype = accumulate_dtype(promote(dtype_of(left), dtype_of(right)))
    left, right = (_rows_contiguous(as_dtype(x, dtype)) for x in (left, right))
    if not storage.shape[1]:
        right = xp.zeros_like(left[:1, :])  # every slot is padding, which reads some row
    parts = [xp.reshape(left[:0, :], (-1,))]
    with np.errstate(all="ignore"):  # NaN and overflow are results here, not accidents
        parts += [
            xp.reshape(_tile(xp, storage, t, left, right), (-1,))
            for t in range(storage.num_tiles)
            if storage.rows_of[t] and storage.slots_of[t]
        ]
        if storage.remainder is not None:
            parts.append(_remainder(xp, storage, left, right))
    return xp.concat(parts)


def _tile(xp: Namespace, storage: TVWStorage, t: int, left: Array, right: Array) -> Array:
    row_indptr, col_indptr = storage.host_indptr
    rows = storage.row_indices[int(row_indptr[t]) : int(row_indptr[t + 1])]
    cols = to_host(storage.col_indices)[int(col_indptr[t]) : int(col_indptr[t + 1])]
    cols = from_host(np.maximum(cols, 0), like=left)  # padding reads anything
    n, width = left.shape[1], rows.shape[0] + cols.shape[0]
    strip = max(64, _GATHER_BYTES // (width * dtype_of(left).itemsize))
    block = None
    for i in range(0, max(n, 1), strip):
        a, b = left[:, i : i + strip], right[:, i : i + strip]
        part = xp.matmul(xp.take(a, rows, axis=0), xp.take(b, cols, axis=0).T)
        block = part if block is None else block + part
    if storage.meta is None:
        return block
    words = storage.meta[int(storage.meta_indptr[t]) : int(storage.meta_indptr[t + 1])]
    return xp.take_along_axis(block, _stored_slots(xp, words, rows.shape[0]), axis=1)


def _stored_slots(xp: Namespace, words: Array, rows: int) -> Array:
    """Return the slot in which each stored value of a tile stands, int64 (rows, slots // 2)."""
    positions = positions_24(xp.reshape(words, (rows, -1)))
    first = np.repeat(np.arange(0, 2 * positions.shape[1], 4), 2)
    return xp.astype(positions, xp.int64) + from_host(first[None, :], like=words)


def _remainder(xp: Namespace, storage: TVWStorage, left: Array, right: Array) -> Array:
    remainder = storage.remainder
    assert remainder is not None
    indptr, cols = to_host(remainder.indptr), remainder.indices
    rows = from_host(np.repeat(np.arange(indptr.size - 1), np.diff(indptr)), like=left)
    count = max(64, _GATHER_BYTES // max(1, 2 * left.shape[1] * dtype_of(left).itemsize))
    parts = [xp.reshape(left[:0, :], (-1,))]
    for i in range(0, rows.shape[0], count):
        a = xp.take(left, rows[i : i + count], axis=0)
        b = xp.take(right, cols[i : i + count], axis=0)
        parts.append(xp.sum(a * b, axis=1))
    return xp.concat(parts)


def _rows_contiguous(x: Array) -> Array:
    """Return `x` so that gathering a row copies one piece of memory."""
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x
