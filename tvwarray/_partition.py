"""A matrix in parts that can be multiplied apart from each other: whole tiles, balanced by work.

    tiles    0  1  2  3  4  5  6           part 0: tiles 0 3 5     rows of these tiles
    work     9  2  4  6  3  1  5    ──>    part 1: tiles 1 2 4 6   rows of these tiles

No row is in two tiles, so no row is in two parts: their products are rows of the product, and
nothing is added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any, Final, NamedTuple, overload

import array_api_compat
import numpy as np

from tvwarray._dtypes import DType, product_dtype
from tvwarray._matmul import matmul
from tvwarray._namespace import (
    Array,
    array_namespace,
    device_of,
    dtype_of,
    from_host,
    native_dtype,
    to_host,
)
from tvwarray._ragged import cumulate, runs
from tvwarray._rules import MIN_TILE_ROWS
from tvwarray._storage import HostArray, TVWStorage

_TILES_A_PART: Final = 4
"""Fewer tiles than this a part are cut: whole ones would not balance."""

_TILE_WORK: Final = 4096
"""Stored values that take about as long as starting on one more tile."""


class Part(NamedTuple):
    """Some rows of a matrix, as a matrix of their own."""

    rows: HostArray
    """int32 (m,): which rows of the whole these are, on the host."""
    matrix: Any
    """TVWMatrix, shape (m, cols)."""


@dataclass(frozen=True, eq=False)
class Partition(Sequence[Part]):
    """The parts of a matrix; ``partition @ X`` is the product of the whole.

    A row that is in no part is zero.
    """

    shape: tuple[int, int]
    dtype: DType
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Part, ...]: ...
    def __getitem__(self, index: int | slice) -> Part | tuple[Part, ...]:
        return self.parts[index]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def to_devices(self, devices: Sequence[Any]) -> Partition:
        """Return the partition with part i on ``devices[i % len(devices)]``.

        Parameters
        ----------
        devices : sequence
            What `TVWMatrix.to_device` takes: for GPUs, one CuPy array on each.
        """
        moved = (
            Part(part.rows, part.matrix.to_device(devices[i % len(devices)]))
            for i, part in enumerate(self.parts)
        )
        return Partition(self.shape, self.dtype, tuple(moved))

    def __matmul__(self, X: Array) -> Array:
        """Return ``A @ X``: X goes to the device of each part, its rows come back to X's.

        Kernels on several GPUs run at a time: each launch returns before its kernel ends, and
        rows are brought back when all have been launched.
        """
        products = [matmul(part.matrix, _on_device_of(part.matrix, X)) for part in self.parts]
        return assemble(self, products, X)


def assemble(partition: Partition, products: Sequence[Array], X: Array) -> Array:
    """Put the products of the parts together, in the library and on the device of `X`."""
    xp, device = array_namespace(X), device_of(X)
    if not products:
        dtype = native_dtype(xp, product_dtype(partition.dtype, dtype_of(X)))
        return xp.zeros((partition.shape[0], *X.shape[1:]), dtype=dtype, device=device)
    pieces = [array_api_compat.to_device(product, device) for product in products]
    zero = xp.zeros((1, *X.shape[1:]), dtype=pieces[0].dtype, device=device)
    rows = np.concatenate([part.rows for part in partition.parts])
    place = np.full(partition.shape[0], rows.size, np.int64)
    place[rows] = np.arange(rows.size)
    return xp.take(xp.concat([*pieces, zero]), from_host(place, like=X), axis=0)


def split(storage: TVWStorage, k: int) -> list[tuple[HostArray, TVWStorage]]:
    """Split a storage into at most `k` of about the same work, each with the rows it holds.

    Tiles are cut where there are too few of them to balance. Rows of the remainder that are in no
    tile are shared out evenly.

    Raises
    ------
    ValueError
        If `k` is not positive.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a matrix has 1 part or more.")
    storage = _cut(storage, k)
    loose = _loose_rows(storage)
    parts = []
    for i, tiles in enumerate(_balance(storage, k)):
        beside = np.array_split(loose, k)[i]
        if tiles.size or beside.size:
            parts.append(_part(storage, tiles, beside))
    return parts


def row_blocks(storage: TVWStorage, k: int) -> list[TVWStorage]:
    """Split a storage into `k` blocks of rows, in their order, of about the same work.

    A tile whose rows fall into several blocks is cut; each piece has its columns.

    Raises
    ------
    ValueError
        If `k` is not positive.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a matrix has 1 block of rows or more.")
    rows = storage.shape[0]
    work = np.ones(rows)  # a row of zeros is written too
    tile_of = np.repeat(np.arange(storage.num_tiles), storage.rows_of)
    work[to_host(storage.row_indices)] += storage.slots_of[tile_of]
    if storage.remainder is not None:
        work += np.diff(to_host(storage.remainder.indptr))
    ends = np.cumsum(work)
    shares = ends[-1] * np.arange(1, k) / k if rows else np.zeros(k - 1)
    cuts = np.concatenate([[0], np.searchsorted(ends, shares), [rows]])
    return [_rows(storage, int(a), int(b)) for a, b in pairwise(cuts)]


def stack_rows(blocks: Sequence[TVWStorage]) -> TVWStorage:
    """Put blocks of rows one under the other; the inverse of `row_blocks` but for cut tiles."""
    first = blocks[0]
    xp = array_namespace(first.data)
    starts = np.cumsum([0, *(b.shape[0] for b in blocks)])
    arrays: dict[str, Any] = {
        name: xp.concat([getattr(b, name) for b in blocks])
        for name in ("col_indices", "data", "meta", "remainder_indices", "remainder_data")
        if getattr(first, name) is not None
    }
    arrays["row_indices"] = xp.concat(
        [b.row_indices + int(a) for b, a in zip(blocks, starts, strict=False)]
    )
    counts = {
        "row_indptr": [b.rows_of for b in blocks],
        "col_indptr": [b.slots_of for b in blocks],
    }
    if first.remainder is not None:
        counts["remainder_indptr"] = [np.diff(to_host(b.remainder_indptr)) for b in blocks]
    for name, pieces in counts.items():
        arrays[name] = from_host(_indptr(np.concatenate(pieces)), like=first.data)
    tallest = max(b.tile_rows for b in blocks)
    shape = (int(starts[-1]), first.shape[1])
    return replace(first, shape=shape, tile_rows=tallest, **arrays)


def _rows(storage: TVWStorage, start: int, stop: int) -> TVWStorage:
    """Return rows `start` to `stop`, numbered from 0."""
    rows = to_host(storage.row_indices)
    kept = (rows >= start) & (rows < stop)
    indptr = storage.host_indptr[0]
    heights = np.array([int(kept[a:b].sum()) for a, b in pairwise(indptr)], np.int64)
    tiles = np.flatnonzero(heights)
    data, meta = [storage.data[:0]], []
    for t in tiles:
        tile = storage.tile(int(t))
        mine = from_host(np.flatnonzero(kept[indptr[t] : indptr[t + 1]]), like=storage.data)
        xp = array_namespace(tile.data)
        data.append(xp.reshape(xp.take(tile.data, mine, axis=0), (-1,)))
        if tile.meta is not None:
            meta.append(xp.reshape(xp.take(tile.meta, mine, axis=0), (-1,)))
    like = storage.data
    arrays: dict[str, Any] = {
        "row_indptr": from_host(_indptr(heights[tiles]), like=like),
        "row_indices": from_host((rows[kept] - start).astype(np.int32), like=like),
        "col_indptr": from_host(_indptr(storage.slots_of[tiles]), like=like),
        "col_indices": _taken(storage.col_indices, storage.host_indptr[1], tiles),
        "data": array_namespace(like).concat(data),
    }
    if storage.meta is not None:
        arrays["meta"] = array_namespace(like).concat([storage.meta[:0], *meta])
    if storage.remainder is not None:
        arrays |= _remainder_rows(storage, np.arange(start, stop))
    return replace(storage, shape=(stop - start, storage.shape[1]), **arrays)


def _cut(storage: TVWStorage, k: int) -> TVWStorage:
    most = int(storage.rows_of.max(initial=0))
    kept = int(storage.rows_of.sum())
    if k == 1 or storage.num_tiles >= _TILES_A_PART * k or not kept:
        return storage
    wanted = max(MIN_TILE_ROWS, -(-kept // (_TILES_A_PART * k)))
    return (
        storage.split_rows(-(-wanted // MIN_TILE_ROWS) * MIN_TILE_ROWS)
        if wanted < most
        else storage
    )


def _balance(storage: TVWStorage, k: int) -> list[HostArray]:
    """Give each tile, the largest first, to the part with the least work so far.

    The heaviest part has at most 4/3 of the least work possible (Graham, "Bounds on Multiprocessing
    Timing Anomalies", 1969).
    """
    work = np.diff(storage.data_indptr) + _TILE_WORK
    work = np.where(storage.rows_of > 0, work, 0)
    heap = [(0, i) for i in range(k)]
    heapify(heap)
    chosen: list[list[int]] = [[] for _ in range(k)]
    for t in np.argsort(-work, kind="stable"):
        if work[t]:
            load, i = heappop(heap)
            chosen[i].append(int(t))
            heappush(heap, (load + int(work[t]), i))
    return [np.sort(np.array(tiles, np.int64)) for tiles in chosen]


def _part(storage: TVWStorage, tiles: HostArray, beside: HostArray) -> tuple[HostArray, TVWStorage]:
    """Return the rows of these tiles, then those `beside`, as a storage of their own."""
    rows = np.concatenate(
        [_taken(to_host(storage.row_indices), storage.host_indptr[0], tiles), beside]
    )
    kept = rows.size - beside.size
    like = storage.data
    counts = {
        "row_indptr": _indptr(storage.rows_of[tiles]),
        "col_indptr": _indptr(storage.slots_of[tiles]),
        "row_indices": np.arange(kept, dtype=np.int32),
    }
    arrays: dict[str, Any] = {name: from_host(x, like=like) for name, x in counts.items()}
    arrays["col_indices"] = _taken(storage.col_indices, storage.host_indptr[1], tiles)
    arrays["data"] = _taken(storage.data, storage.data_indptr, tiles)
    if storage.meta is not None:
        arrays["meta"] = _taken(storage.meta, storage.meta_indptr, tiles)
    if storage.remainder is not None:
        arrays |= _remainder_rows(storage, rows)
    part = replace(storage, shape=(int(rows.size), storage.shape[1]), **arrays)
    return rows.astype(np.int32), part


def _remainder_rows(storage: TVWStorage, rows: HostArray) -> dict[str, Array]:
    remainder = storage.remainder
    assert remainder is not None
    indptr = to_host(remainder.indptr).astype(np.int64)
    counts = np.diff(indptr)[rows]
    entries = runs(indptr[rows], counts)
    return {
        "remainder_indptr": from_host(_indptr(counts), like=storage.data),
        "remainder_indices": remainder.indices[from_host(entries, like=storage.data)],
        "remainder_data": remainder.data[from_host(entries, like=storage.data)],
    }


def _loose_rows(storage: TVWStorage) -> HostArray:
    """Return the rows with remainder entries that are in no tile."""
    if storage.remainder is None:
        return np.empty(0, np.int64)
    held = np.diff(to_host(storage.remainder.indptr)) > 0
    held[to_host(storage.row_indices)] = False
    return np.flatnonzero(held)


def _taken(x: Array, indptr: HostArray, which: HostArray) -> Array:
    """Return the ranges `which` of `x`, one after another."""
    indptr = indptr.astype(np.int64)
    ranges = [x[int(indptr[i]) : int(indptr[i + 1])] for i in which]
    return array_namespace(x).concat([x[:0], *ranges])


def _indptr(counts: HostArray) -> HostArray:
    return cumulate(counts).astype(np.int32)


def _on_device_of(matrix: Any, X: Array) -> Array:
    device = device_of(matrix.storage.data)
    return X if device == device_of(X) else array_api_compat.to_device(X, device)
