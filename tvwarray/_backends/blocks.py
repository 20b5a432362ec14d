"""A matrix as dense blocks: what the array backend multiplies.

A tile is one block of values and the columns they belong to. For an X beyond the cache, two
neighbouring tiles with many columns in common become three blocks, so that a common column is
gathered once for both::

    tile 0   a b c d                     c d  | of both tiles
    tile 1       c d e f        ->   a b      | of tile 0, added
                                         e f  | of tile 1, added
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from tvwarray._dtypes import EIGHT_BIT_INTEGERS, DType, accumulate_dtype, product_dtype
from tvwarray._namespace import Array, array_namespace, as_dtype, from_host, to_host
from tvwarray._storage import HostArray, TVWStorage
from tvwarray._two_four import expand_24

_WORTH_SHARING: Final = 0.75
"""Two tiles share columns if these are so many times their rows: each saves the gathering and the
packing of a row of X, and each row of a tile is added to once more."""

_IN_CACHE: Final = 3 << 19
"""An X of fewer bytes stays in a core's cache: gathering it costs less than adding blocks up."""


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

    @property
    def host_cols(self) -> HostArray:
        """The k columns, int64."""
        cols = self.cols
        return np.arange(cols.start, cols.stop) if isinstance(cols, slice) else to_host(cols)


@dataclass(frozen=True, eq=False)
class ArrayPacked:
    """A matrix ready to multiply."""

    shape: tuple[int, int]
    dtype: DType
    kept_rows: int
    tiles: Blocks
    """One a tile."""
    row_place: Array | None
    """int64 (rows,): the place of each row in tile order, `kept_rows` if it is in no tile; None if
    tile order is row order."""
    row_index: slice | Array
    """The row of each place: the inverse of `row_place`."""

    @cached_property
    def shared(self) -> Blocks:
        """The blocks of the picture above, made when they are first asked for."""
        return replace(self.tiles, each=_share_columns(self.tiles.each))

    def blocks(self, x_bytes: int) -> Blocks:
        """Return the blocks that multiply an X of so many bytes fastest."""
        return self.tiles if x_bytes < _IN_CACHE else self.shared


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a matrix in tile order."""

    each: tuple[DenseBlock, ...]
    columns: int
    """Of the matrix."""
    like: Array
    """An array of the library and device that the blocks are of."""

    @cached_property
    def scatter(self) -> ColumnScatter:
        """Say where the products of all slots, one block after the other, are added up."""
        return _column_scatter([b.host_cols for b in self.each], self.columns, self.like)


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
    tiles = tuple(_dense_tile(storage, t) for t in range(storage.num_tiles) if storage.rows_of[t])
    rows = to_host(storage.row_indices).astype(np.int64)
    in_order = rows.size == storage.shape[0] and bool((np.diff(rows) == 1).all())
    place = np.full(storage.shape[0], rows.size, np.int64)
    place[rows] = np.arange(rows.size)
    like = storage.data
    return ArrayPacked(
        shape=storage.shape,
        dtype=storage.dtype,
        kept_rows=int(rows.size),
        tiles=Blocks(tiles, storage.shape[1], like),
        row_place=None if in_order else from_host(place, like=like),
        row_index=_slice_or_index(rows, like),
    )


def _dense_tile(storage: TVWStorage, t: int) -> DenseBlock:
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
    return _block(int(storage.host_indptr[0][t]), values, cols[valid])


def _block(start: int, values: Array, cols: HostArray, adds: bool = False) -> DenseBlock:
    return DenseBlock(start, _flat_order(values), _slice_or_index(cols, values), adds)


def _share_columns(tiles: Sequence[DenseBlock]) -> tuple[DenseBlock, ...]:
    """Bring pairs of neighbouring tiles into the form of the picture above, where it pays."""
    blocks: list[DenseBlock] = []
    t = 0
    while t < len(tiles):
        pair = tiles[t : t + 2]
        shared = _shared(*pair) if len(pair) == 2 else None
        blocks += [pair[0]] if shared is None else shared
        t += 1 if shared is None else 2
    return tuple(blocks)


def _shared(a: DenseBlock, b: DenseBlock) -> list[DenseBlock] | None:
    cols = a.host_cols, b.host_cols
    if any(np.unique(c).size != c.size for c in cols):
        return None
    both, in_a, in_b = np.intersect1d(*cols, assume_unique=True, return_indices=True)
    if both.size < _WORTH_SHARING * (a.values.shape[0] + b.values.shape[0]):
        return None
    xp = array_namespace(a.values)
    common = xp.concat([_columns_of(a.values, in_a), _columns_of(b.values, in_b)], axis=0)
    blocks = [_block(a.start, common, both)]
    for tile, its, taken in ((a, cols[0], in_a), (b, cols[1], in_b)):
        own = np.delete(np.arange(its.size), taken)
        if own.size:
            blocks.append(_block(tile.start, _columns_of(tile.values, own), its[own], True))
    return blocks


def _columns_of(values: Array, index: HostArray) -> Array:
    return array_namespace(values).take(values, from_host(index, like=values), axis=1)


def _flat_order(values: Array) -> Array:
    return np.asfortranarray(values) if isinstance(values, np.ndarray) else values


def _slice_or_index(index: HostArray, like: Array) -> slice | Array:
    if index.size and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return from_host(index, like=like)


def _column_scatter(slots: Sequence[HostArray], columns: int, like: Array) -> ColumnScatter:
    cols = np.concatenate([np.empty(0, np.int64), *slots])
    by_column = np.argsort(cols, kind="stable")
    count = np.bincount(cols, minlength=columns)
    first = np.cumsum(count) - count
    order = np.argsort(-count, kind="stable")
    passes = []
    for r in range(int(count.max(initial=0))):
        having = order[: int((count > r).sum())]
        passes.append(from_host(by_column[first[having] + r] + 1, like=like))  # 0 is zeros
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return ColumnScatter(tuple(passes), from_host(place, like=like))
