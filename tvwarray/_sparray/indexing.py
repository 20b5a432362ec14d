"""Reading parts of a matrix: whole tiles as they are, anything else as scipy.sparse gives it.

One row, or a slice of rows, is read from the tiles that hold it, so that its cost goes with what
is read; other indices go through CSR as a whole.
"""

from __future__ import annotations

from dataclasses import replace
from operator import index
from typing import Any

import numpy as np

from tvwarray._convert import to_csr
from tvwarray._namespace import Array, array_namespace, from_host, to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._sparray.arithmetic import Matrix, check_host
from tvwarray._storage import REMAINDER_FIELDS, SLOT_MULTIPLE, HostArray, TVWStorage

_ALL = slice(None)


def getitem(A: Matrix, key: Any) -> Any:
    """Return ``A[key]``: a storage if `key` is a slice of whole tiles, else what scipy gives.

    Raises
    ------
    IndexError
        If an index is out of range, or `key` is none that scipy.sparse knows.
    """
    if getattr(key, "format", None) == "tvw":
        key = key.tocsr()
    row, col = key if isinstance(key, tuple) and len(key) == 2 else (key, _ALL)
    stored, other = (col, row) if A.transposed else (row, col)
    simple = not A.transposed or isinstance(other, slice) or _is_integer(other)
    bounds = _bounds(stored, A.storage.shape[0]) if simple else None
    if bounds is None:
        return A.host_csr("indexing")[key]
    part, whole = take_rows(A.storage, *bounds)
    if whole and isinstance(stored, slice) and _is_all(other, A.storage.shape[1]):
        return part
    check_host(part, "indexing")
    csr: Any = to_csr(part)
    picked = csr[_ALL if isinstance(stored, slice) else 0, other]
    return picked.T.tocsr() if A.transposed and np.ndim(picked) == 2 else picked


def take_rows(storage: TVWStorage, start: int, stop: int) -> tuple[TVWStorage, bool]:
    """Return rows `start` to `stop` in the tiles that hold them, and whether no tile was cut.

    Whole tiles that lie side by side share their arrays with `storage`.
    """
    row_indptr, col_indptr = storage.host_indptr
    rows = to_host(storage.row_indices)
    inside = (rows >= start) & (rows < stop)
    before = np.concatenate([[0], np.cumsum(inside)])
    count = np.diff(before[row_indptr])
    tiles = np.flatnonzero(count)
    whole = bool((count[tiles] == storage.rows_of[tiles]).all())
    place = [np.flatnonzero(inside[row_indptr[t] : row_indptr[t + 1]]) for t in tiles]
    kept_rows = _ranges(row_indptr, tiles)[inside[_ranges(row_indptr, tiles)]]
    return (
        replace(
            storage,
            shape=(stop - start, storage.shape[1]),
            row_indptr=_indptr(count[tiles], storage),
            row_indices=from_host((rows[kept_rows] - start).astype(np.int32), like=storage.data),
            col_indptr=_indptr(storage.slots_of[tiles], storage),
            col_indices=_take(storage.col_indices, _ranges(col_indptr, tiles)),
            data=_rows_of_tiles(storage, storage.data, 2 if storage.vector else 1, tiles, place),
            meta=None
            if storage.meta is None
            else _rows_of_tiles(storage, storage.meta, SLOT_MULTIPLE, tiles, place),
            **_remainder_rows(storage, start, stop),
        ),
        whole,
    )


def _bounds(key: Any, length: int) -> tuple[int, int] | None:
    """Return the rows that an integer or a slice of step 1 picks, or None for other keys."""
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        return (start, max(start, stop)) if step == 1 else None
    if not _is_integer(key):
        return None
    i = index(key)
    if not -length <= i < length:
        raise IndexError(f"index ({i}) out of range for an axis of {length}.")
    return i % length, i % length + 1


def _is_integer(key: Any) -> bool:
    return isinstance(key, int | np.integer) and not isinstance(key, bool)


def _is_all(key: Any, length: int) -> bool:
    return isinstance(key, slice) and key.indices(length) == (0, length, 1)


def _ranges(indptr: HostArray, tiles: HostArray) -> HostArray:
    """Return the indices of these tiles' ranges, one after another."""
    return runs(indptr[tiles].astype(np.int64), np.diff(indptr)[tiles])


def _indptr(counts: HostArray, storage: TVWStorage) -> Array:
    return from_host(cumulate(counts).astype(np.int32), like=storage.data)


def _take(x: Array, where: HostArray) -> Array:
    """Return ``x[where]``, a view where the indices count up by one."""
    if not where.size:
        return x[:0]
    if where[-1] - where[0] == where.size - 1 and bool((np.diff(where) == 1).all()):
        return x[int(where[0]) : int(where[-1]) + 1]
    return array_namespace(x).take(x, from_host(where, like=x), axis=0)


def _rows_of_tiles(
    storage: TVWStorage, x: Array, share: int, tiles: HostArray, place: list[HostArray]
) -> Array:
    """Return the parts of `x`, data or meta, that belong to the rows at `place` of each tile.

    A row has one element of `x` for every `share` slots.
    """
    width = storage.slots_of // share
    start = np.concatenate([[0], np.cumsum(storage.rows_of * width)])
    pieces = [
        (start[t] + p[:, None] * width[t] + np.arange(width[t])).reshape(-1)
        for t, p in zip(tiles, place, strict=True)
    ]
    return _take(x, np.concatenate([np.empty(0, np.int64), *pieces]))


def _remainder_rows(storage: TVWStorage, start: int, stop: int) -> dict[str, Array]:
    if (beside := storage.remainder) is None:
        return {}
    indptr = to_host(beside.indptr)[start : stop + 1]
    first, last = int(indptr[0]), int(indptr[-1])
    parts = (
        from_host(indptr - first, beside.data),
        beside.indices[first:last],
        beside.data[first:last],
    )
    return dict(zip(REMAINDER_FIELDS, parts, strict=True))
