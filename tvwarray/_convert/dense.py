"""Dense arrays to storage and back."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tvwarray._convert.build import fill
from tvwarray._dtypes import DType, value_dtype
from tvwarray._errors import FormatError
from tvwarray._layout import Layout, LayoutName, TilePattern, TileRows, find_layout
from tvwarray._namespace import Array, array_namespace, device_of, from_host, nonzero_mask, to_host
from tvwarray._storage import HostArray, TVWStorage, Vector
from tvwarray._two_four import expand_24


class DenseMatrix(NamedTuple):
    """A dense host matrix as a `Pattern` and as `Values`."""

    array: HostArray
    keep: HostArray
    """bool, the shape of `array`: what is stored"""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> DType:
        """The value dtype."""
        return np.dtype(self.array.dtype)

    def kept_rows(self) -> HostArray:
        """Return the rows that hold entries."""
        return np.flatnonzero(self.keep.any(axis=1))

    def tile(self, rows: HostArray, /) -> TilePattern:
        """Return where `rows` hold entries."""
        keep = self.keep[as_slice(rows)]
        cols = np.flatnonzero(keep.any(axis=0)).astype(np.int32)
        octets = np.packbits(keep, axis=0, bitorder="little").T[cols]
        words = -(-rows.size // 64)
        padded = np.zeros((cols.size, 8 * words), np.uint8)
        padded[:, : octets.shape[1]] = octets
        longest = int(np.count_nonzero(keep, axis=1).max(initial=0))
        return TilePattern(cols, padded.view(np.uint64), longest)

    def block(self, rows: HostArray, cols: HostArray, /) -> tuple[HostArray, HostArray]:
        """Return the entries at `rows` x `cols` and which of them are stored."""
        return _take(self.array, rows, cols), _take(self.keep, rows, cols)


def from_dense(
    a: Array,
    *,
    mask: Array | None = None,
    tile_rows: TileRows = "auto",
    vector: Vector = (2, 4),
    layout: LayoutName = "lossless",
) -> TVWStorage:
    """Convert a dense matrix; the layout is searched and filled on the host.

    Parameters
    ----------
    a : array, shape (rows, cols)
        Of any array library, in any memory order and byte order.
    mask : bool array, shape (rows, cols), optional
        Which entries to store; the rest is dropped. By default those not equal to zero.

    Raises
    ------
    FormatError
        If `a` is not two-dimensional, its values have no storable dtype, `mask` does not fit, or
        ``layout="exact"`` meets a crowded group.
    """
    host = to_host(a)
    if host.ndim != 2:
        raise FormatError(f"the array has {host.ndim} dimensions; a matrix has 2.")
    host = host.astype(value_dtype(host.dtype, where="the array"), copy=False)
    keep = nonzero_mask(host) if mask is None else _checked_mask(to_host(mask), host.shape)
    matrix = DenseMatrix(host, keep)
    storage = fill(find_layout(matrix, tile_rows=tile_rows, vector=vector, layout=layout), matrix)
    return storage.mapped(lambda x: from_host(x, like=a))


def from_selection(a: Array, mask: HostArray, layout: Layout | None) -> TVWStorage:
    """Store the entries of `a` under `mask`, which a pattern chose, in the layout it gave them.

    Entries that the layout has no place for become the remainder; without a layout one is found as
    for any other matrix.
    """
    host = to_host(a)
    host = host.astype(value_dtype(host.dtype, where="the array"), copy=False)
    matrix = DenseMatrix(host, mask)
    if layout is None:
        storage = fill(find_layout(matrix, tile_rows="auto", vector=(2, 4)), matrix)
    else:
        storage = _with_entries(fill(layout, matrix), host, mask & ~_places(layout))
    return storage.mapped(lambda x: from_host(x, like=a))


def _places(layout: Layout) -> HostArray:
    """Return which entries of the matrix have a place in a tile, bool (rows, cols)."""
    places = np.zeros(layout.shape, np.bool_)
    for t in range(layout.num_tiles):
        rows, slots = layout.tile(t)
        places[rows[:, None], slots[slots >= 0]] = True
    return places


def _with_entries(storage: TVWStorage, host: HostArray, beside: HostArray) -> TVWStorage:
    """Keep the entries of `host` under `beside` as the remainder, if there are any."""
    rows, cols = np.nonzero(beside & nonzero_mask(host))
    if not rows.size:
        return storage
    indptr = np.zeros(storage.shape[0] + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=storage.shape[0]), out=indptr[1:])
    return replace(
        storage,
        remainder_indptr=indptr,
        remainder_indices=cols.astype(np.int32),
        remainder_data=host[rows, cols],
    )


def _checked_mask(mask: HostArray, shape: tuple[int, ...]) -> HostArray:
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise FormatError(
            f"mask is {mask.dtype} of shape {mask.shape}; it must be bool of shape {shape}."
        )
    return mask


def to_dense(storage: TVWStorage) -> Array:
    """Return the dense matrix, (rows, cols), in the storage's dtype, library and device."""
    tiles = _tiles_to_dense(storage)
    if storage.remainder is None:
        return tiles
    indptr, indices, data = (to_host(x) for x in storage.remainder)
    beside = np.zeros(storage.shape, data.dtype)
    beside[np.repeat(np.arange(storage.shape[0]), np.diff(indptr)), indices] = data
    with np.errstate(all="ignore"):
        return tiles + from_host(beside, like=tiles)


def _tiles_to_dense(storage: TVWStorage) -> Array:
    xp = array_namespace(storage.data)
    rows, cols = storage.shape
    device = device_of(storage.data)
    tiles = [dense_rows(storage, t) for t in range(storage.num_tiles) if storage.rows_of[t]]
    zero = xp.zeros((1, cols), dtype=storage.data.dtype, device=device)
    kept = to_host(storage.row_indices)
    if kept.size == rows and bool((np.diff(kept) == 1).all()) and rows:
        return xp.concat(tiles, axis=0) if len(tiles) > 1 else tiles[0]
    place = np.full(rows, kept.size, np.int64)  # rows in no tile take the row of zeros
    place[kept] = np.arange(kept.size)
    stacked = xp.concat([*tiles, zero], axis=0)
    return xp.take(stacked, from_host(place, like=storage.data), axis=0)


def dense_rows(storage: TVWStorage, t: int) -> Array:
    """Return tile `t` over all columns, (rows of the tile, cols)."""
    tile = storage.tile(t)
    xp = array_namespace(tile.data)
    slots = tile.data if tile.meta is None else expand_24(tile.data, tile.meta)
    cols = to_host(tile.cols)
    width = storage.shape[1]
    if (
        cols.size >= width
        and bool((cols[:width] == np.arange(width)).all())
        and (cols[width:] < 0).all()
    ):
        return slots[:, :width]
    nothing = xp.zeros((slots.shape[0], 1), dtype=slots.dtype, device=device_of(slots))
    slots = xp.concat([slots, nothing], axis=1)
    total = None
    for chosen in occurrences(cols):  # one pass unless columns repeat: then later slots add up
        source = np.full(width, cols.size, np.int64)
        source[cols[chosen]] = chosen
        part = xp.take(slots, from_host(source, like=slots), axis=1)
        with np.errstate(all="ignore"):  # NaN and overflow are values like others here
            total = part if total is None else total + part
    if total is None:
        return xp.zeros((slots.shape[0], width), dtype=slots.dtype, device=device_of(slots))
    return total


def occurrences(cols: HostArray) -> list[HostArray]:
    """Split the slots of a tile into lists where no column repeats; padding is left out."""
    valid = np.flatnonzero(cols >= 0)
    order = valid[np.argsort(cols[valid], kind="stable")]
    ranked = cols[order]
    rank = np.arange(order.size) - np.searchsorted(ranked, ranked)
    return [np.sort(order[rank == r]) for r in range(int(rank.max(initial=-1)) + 1)]


def as_slice(index: HostArray) -> slice | HostArray:
    """Return `index` as a slice where it counts up by one, so that indexing makes a view."""
    if index.size and index[-1] - index[0] == index.size - 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _take(x: HostArray, rows: HostArray, cols: HostArray) -> HostArray:
    """Return ``x[rows][:, cols]``, zero in padding columns; a view where possible."""
    padding = np.flatnonzero(cols < 0)
    if not padding.size:
        where = as_slice(cols)
        if isinstance(where, slice):
            return x[as_slice(rows)][:, where]
    if x.shape[1] == 0:
        return np.zeros((rows.size, cols.size), x.dtype)
    block = np.take(x[as_slice(rows)], cols, axis=1, mode="clip")
    block[:, padding] = 0
    return block
