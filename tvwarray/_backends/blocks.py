"""A matrix as dense blocks: what the array backend multiplies.

A tile is one block of values and the columns they belong to. Two neighbouring tiles with many
columns in common become three, so that a common column is gathered once for both::

    tile 0   a b c d                     c d  | of both tiles
    tile 1       c d e f        ->   a b      | of tile 0, added
                                         e f  | of tile 1, added
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tvwarray._dtypes import EIGHT_BIT_INTEGERS, DType, accumulate_dtype, product_dtype
from tvwarray._namespace import Array, array_namespace, as_dtype, from_host, to_host
from tvwarray._storage import HostArray, TVWStorage
from tvwarray._two_four import expand_24

_WORTH_SHARING: Final = 0.75
"""Two tiles share columns if these are so many times their rows: each saves the gathering and the
packing of a row of X, and each row of a tile is added to once more."""


@dataclass(frozen=True, eq=False)
class DenseBlock:
    """Rows that follow one another in tile order, and some of their columns."""

    start: int
    """Where its rows begin in the product in tile order."""
    values: Array
    """(rows, k), in the type they are summed in, Fortran-ordered where the library has memory
    orders: OpenBLAS multiplies a flat block a tenth faster so."""
    cols: slice | Array
    """The k columns: a slice where they count up by one, else an int64 index."""
    adds: bool
    """Whether blocks before it have products of these rows."""


@dataclass(frozen=True, eq=False)
class ArrayPacked:
    """A matrix ready to multiply."""

    shape: tuple[int, int]
    dtype: DType
    kept_rows: int
    blocks: tuple[DenseBlock, ...]
    row_place: Array | None
    """int64 (rows,): the place of each row in tile order, `kept_rows` if it is in no tile; None if
    tile order is row order."""
    row_index: slice | Array
    """The row of each place: the inverse of `row_place`."""
    scatter: ColumnScatter


@dataclass(frozen=True, eq=False)
class ColumnScatter:
    """How products of single slots are added up to columns, by gathers alone.

    Columns are sorted by how many slots hold them, most first, so that pass r, which adds the r-th
    slot of every column that has one, adds to a prefix::

        column   9   4   7   2
        pass 0   s   s   s   s
        pass 1   s   s   s
        pass 2   s
    """

    passes: tuple[Array, ...]
    place: Array
    """int64 (cols,): where each column stands in sorted order."""


def pack_blocks(storage: TVWStorage) -> ArrayPacked:
    """Expand the tiles of `storage`."""
    tiles = [_dense_tile(storage, t) for t in range(storage.num_tiles) if storage.rows_of[t]]
    parts = _share_columns(tiles)
    rows = to_host(storage.row_indices).astype(np.int64)
    in_order = rows.size == storage.shape[0] and bool((np.diff(rows) == 1).all())
    place = np.full(storage.shape[0], rows.size, np.int64)
    place[rows] = np.arange(rows.size)
    like = storage.data
    return ArrayPacked(
        shape=storage.shape,
        dtype=storage.dtype,
        kept_rows=int(rows.size),
        blocks=tuple(
            DenseBlock(p.start, _flat_order(p.values), _slice_or_index(p.cols, like), p.adds)
            for p in parts
        ),
        row_place=None if in_order else from_host(place, like=like),
        row_index=_slice_or_index(rows, like),
        scatter=_column_scatter([p.cols for p in parts], storage),
    )


class _Part(NamedTuple):
    """A `DenseBlock` whose columns are still on the host."""

    start: int
    values: Array
    cols: HostArray
    adds: bool = False


def _dense_tile(storage: TVWStorage, t: int) -> _Part:
    """Expand a tile and leave out its padding slots."""
    tile, dtype = storage.tile(t), storage.dtype
    work = dtype if dtype in EIGHT_BIT_INTEGERS else accumulate_dtype(product_dtype(dtype, dtype))
    values = as_dtype(tile.data, work)
    if tile.meta is not None:
        values = expand_24(values, tile.meta)
    cols = to_host(tile.cols).astype(np.int64)
    valid = np.flatnonzero(cols >= 0)
    if valid.size != cols.size:
        values = _columns_of(values, valid)
    return _Part(int(storage.host_indptr[0][t]), values, cols[valid])


def _share_columns(tiles: Sequence[_Part]) -> list[_Part]:
    """Bring pairs of neighbouring tiles into the form of the picture above, where it pays."""
    parts: list[_Part] = []
    t = 0
    while t < len(tiles):
        pair = tiles[t : t + 2]
        shared = _shared(*pair) if len(pair) == 2 else None
        parts += [pair[0]] if shared is None else shared
        t += 1 if shared is None else 2
    return parts


def _shared(a: _Part, b: _Part) -> list[_Part] | None:
    if np.unique(a.cols).size != a.cols.size or np.unique(b.cols).size != b.cols.size:
        return None
    both, in_a, in_b = np.intersect1d(a.cols, b.cols, assume_unique=True, return_indices=True)
    if both.size < _WORTH_SHARING * (a.values.shape[0] + b.values.shape[0]):
        return None
    xp = array_namespace(a.values)
    common = xp.concat([_columns_of(a.values, in_a), _columns_of(b.values, in_b)], axis=0)
    parts = [_Part(a.start, common, both)]
    for tile, taken in ((a, in_a), (b, in_b)):
        own = np.delete(np.arange(tile.cols.size), taken)
        if own.size:
            parts.append(_Part(tile.start, _columns_of(tile.values, own), tile.cols[own], True))
    return parts


def _columns_of(values: Array, index: HostArray) -> Array:
    return array_namespace(values).take(values, from_host(index, like=values), axis=1)


def _flat_order(values: Array) -> Array:
    return np.asfortranarray(values) if isinstance(values, np.ndarray) else values


def _slice_or_index(index: HostArray, like: Array) -> slice | Array:
    if index.size and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return from_host(index, like=like)


def _column_scatter(slots: Sequence[HostArray], storage: TVWStorage) -> ColumnScatter:
    """Say where the columns of all blocks, one after the other, are added up."""
    cols = np.concatenate([np.empty(0, np.int64), *slots])
    by_column = np.argsort(cols, kind="stable")
    count = np.bincount(cols, minlength=storage.shape[1])
    first = np.cumsum(count) - count
    order = np.argsort(-count, kind="stable")
    passes = []
    for r in range(int(count.max(initial=0))):
        having = order[: int((count > r).sum())]
        passes.append(from_host(by_column[first[having] + r] + 1, like=storage.data))  # 0 is zeros
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return ColumnScatter(tuple(passes), from_host(place, like=storage.data))
