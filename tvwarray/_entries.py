"""Where each stored value stands: columns, coordinates, and values that share a place.

The format lets a column stand in several slots of a tile, and a remainder hold an entry that a
tile holds too; such values add up. Sums do not mind, but a function of the entries does:
`merged` brings them together first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple
from weakref import WeakSet

import numpy as np

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType
from tvwarray._namespace import (
    Array,
    array_namespace,
    device_of,
    from_host,
    nonzero_mask,
    to_host,
)
from tvwarray._native import native
from tvwarray._ragged import cumulate
from tvwarray._storage import HostArray, Tile, TVWStorage
from tvwarray._two_four import positions_24

_SEPARATE: Final[WeakSet[TVWStorage]] = WeakSet()
"""Storages that repeat columns, but were found to have no two values at one place."""


class Entries(NamedTuple):
    """Triples in no order; those at one place add up."""

    data: Array
    rows: Array
    """int64"""
    cols: Array
    """int64"""


class SortedRows(NamedTuple):
    """The rows that are in tiles, ascending, each with its entries by column: on the host."""

    rows: HostArray
    """int64 (kept rows,)"""
    indptr: HostArray
    """int64 (kept rows + 1,)"""
    indices: HostArray
    """int32 (entries,)"""
    data: HostArray
    """Narrow floats in float32, which scipy has."""
    shared: bool
    """Whether two entries of a row have one column: then they stand side by side."""


def stored_columns(tile: Tile) -> Array:
    """Return the column of each stored value of a tile, int64, -1 for padding."""
    xp = array_namespace(tile.data)
    return of_slots(tile, xp.astype(tile.cols, xp.int64))


def of_slots(tile: Tile, values: Array) -> Array:
    """Return for each stored value of a tile what `values` has for its slot.

    Without 2:4 every row has the values of the slots, and the array is a broadcast view of them.
    """
    xp = array_namespace(tile.data)
    if tile.meta is None:
        return xp.broadcast_to(values[None, :], tile.data.shape)
    half = tile.data.shape[1]
    group = from_host(np.repeat(np.arange(half // 2) * 4, 2), like=tile.data)
    slot = group[None, :] + xp.astype(positions_24(tile.meta), xp.int64)
    return xp.reshape(xp.take(values, xp.reshape(slot, (-1,)), axis=0), tile.data.shape)


def entries(storage: TVWStorage) -> Entries:
    """Return the nonzero values of a storage with their coordinates, where the storage lies.

    Tiles come first, in order, then the remainder.
    """
    xp = array_namespace(storage.data)
    parts = [_tile_entries(storage.tile(t)) for t in range(storage.num_tiles)]
    if storage.remainder is not None:
        parts.append(_remainder_entries(storage))
    if not parts:
        nowhere = xp.zeros((0,), dtype=xp.int64, device=device_of(storage.data))
        return Entries(storage.data[:0], nowhere, nowhere)
    return Entries(*(xp.concat(list(x), axis=0) for x in zip(*parts, strict=True)))


def _tile_entries(tile: Tile) -> Entries:
    xp = array_namespace(tile.data)
    rows, place = xp.nonzero(nonzero_mask(tile.data))
    at = rows * max(1, tile.data.shape[1]) + place
    data = xp.take(xp.reshape(tile.data, (-1,)), at, axis=0)
    cols = xp.take(xp.reshape(stored_columns(tile), (-1,)), at, axis=0)
    return Entries(data, xp.take(xp.astype(tile.rows, xp.int64), rows, axis=0), cols)


def _remainder_entries(storage: TVWStorage) -> Entries:
    xp = array_namespace(storage.data)
    indptr = to_host(storage.remainder_indptr)
    rows = np.repeat(np.arange(storage.shape[0]), np.diff(indptr))
    (kept,) = xp.nonzero(nonzero_mask(storage.remainder_data))
    return Entries(
        xp.take(storage.remainder_data, kept, axis=0),
        xp.take(from_host(rows, like=storage.data), kept, axis=0),
        xp.take(xp.astype(storage.remainder_indices, xp.int64), kept, axis=0),
    )


def sorted_rows(storage: TVWStorage) -> SortedRows:
    """Return the tiles of `storage` in rows and columns that ascend; a remainder is left out."""
    host = storage.without_remainder().mapped(to_host)
    wide = FLOAT32 if host.dtype in NARROW_FLOATS else host.dtype
    if (compiled := native()) is not None:
        rows, indptr, indices, raw, shared = compiled.read_rows(
            *host.shape,
            *structure(host),
            raw_bytes(host.data),
            host.dtype.itemsize,
            _mask(host.dtype),
        )
        data = raw.view(host.dtype).astype(wide, copy=False)
        return SortedRows(rows, indptr, indices, data, shared)
    found = entries(host)
    order = np.lexsort((found.cols, found.rows))
    rows = np.sort(host.row_indices).astype(np.int64)
    place, cols = np.searchsorted(rows, found.rows[order]), found.cols[order]
    indptr = cumulate(np.bincount(place, minlength=rows.size))
    shared = bool(((np.diff(place) == 0) & (np.diff(cols) == 0)).any())
    data = found.data[order].astype(wide, copy=False)
    return SortedRows(rows, indptr, cols.astype(np.int32), data, shared)


def structure(storage: TVWStorage) -> tuple[HostArray | None, ...]:
    """Return the arrays of a host storage but its values, as the compiled code takes them."""
    names = ("row_indptr", "row_indices", "col_indptr", "col_indices", "meta")
    arrays = (getattr(storage, name) for name in names)
    return tuple(None if x is None else np.ascontiguousarray(x) for x in arrays)


def raw_bytes(values: HostArray) -> HostArray:
    """Return the bytes of flat values, aligned as their dtype asks."""
    return np.require(values, requirements=["C", "A"]).view(np.uint8)


def _mask(dtype: DType) -> int:
    """Return the bits of a word, of up to eight bytes, that are clear where a value is zero."""
    part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    bits = (1 << 8 * part) - 1
    if dtype.kind in "fc" or dtype in NARROW_FLOATS:
        bits >>= 1  # -0.0 is zero
    return bits | bits << 32 if dtype.kind == "c" and part == 4 else bits


def merged(storage: TVWStorage) -> TVWStorage:
    """Return the same matrix with at most one value that is not zero at each place.

    The sum takes the place of the first value, zeros that of the others, and the layout stays. It
    is the same storage where nothing is shared, which the usual layouts show without a look at
    their values. Narrow floats are added in float32 and rounded once.
    """
    if storage.remainder is None:
        if storage in _SEPARATE or not repeats_columns(storage):
            return storage
        if native() is not None and not sorted_rows(storage).shared:
            _SEPARATE.add(storage)
            return storage
    host = storage.mapped(to_host)
    values = host.data
    if host.remainder_data is not None:
        values = np.concatenate([values, host.remainder_data])
    place = np.flatnonzero(nonzero_mask(values))
    found = entries(host)
    key = found.rows * max(1, storage.shape[1]) + found.cols
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    if first.size == key.size:
        return storage
    wide = found.data.astype(FLOAT32) if host.dtype in NARROW_FLOATS else found.data
    with np.errstate(all="ignore"):
        sums = np.add.reduceat(wide[order], first).astype(host.dtype)
    total = np.zeros_like(values)
    total[place[order[first]]] = sums
    data, beside = total[: host.data.size], total[host.data.size :]
    return replace(
        storage,
        data=from_host(data, like=storage.data),
        remainder_data=None
        if storage.remainder_data is None
        else from_host(beside, like=storage.data),
    )


def repeats_columns(storage: TVWStorage) -> bool:
    """Say whether a column stands in two slots of a tile, so that values may share a place."""
    indptr, cols = to_host(storage.col_indptr), to_host(storage.col_indices)
    if (compiled := native()) is not None:
        return bool(compiled.repeats_columns(storage.shape[1], indptr, cols))
    tile = np.repeat(np.arange(storage.num_tiles), storage.slots_of)
    key: HostArray = (tile * (storage.shape[1] + 1) + cols)[cols >= 0]
    return bool(np.unique(key).size < key.size)
