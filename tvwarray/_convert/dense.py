"""Dense arrays to storage and back."""

from __future__ import annotations

import numpy as np

from tvwarray._convert.build import fill
from tvwarray._dtypes import NARROW_FLOATS, value_dtype
from tvwarray._entries import sorted_rows
from tvwarray._errors import FormatError
from tvwarray._layouts.find import Layout, LayoutName, find_layout
from tvwarray._layouts.pattern import pattern_of_mask
from tvwarray._layouts.tiles import TileRows
from tvwarray._namespace import Array, array_namespace, device_of, from_host, nonzero_mask, to_host
from tvwarray._native import native
from tvwarray._storage import HostArray, TVWStorage, Vector
from tvwarray._two_four import expand_24


def from_dense(
    a: Array,
    *,
    mask: Array | None = None,
    tile_rows: TileRows = "auto",
    vector: Vector = (2, 4),
    layout: LayoutName = "lossless",
    memory_limit: int | None = None,
) -> TVWStorage:
    """Convert a dense matrix; the layout is searched and filled on the host.

    `find_layout` has the options.

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
        there is no such layout.
    """
    host = to_host(a)
    if host.ndim != 2:
        raise FormatError(f"the array has {host.ndim} dimensions; a matrix has 2.")
    host = host.astype(value_dtype(host.dtype, where="the array"), copy=False)
    keep = nonzero_mask(host) if mask is None else _checked_mask(to_host(mask), host.shape)
    pattern = pattern_of_mask(keep)
    found = find_layout(
        pattern,
        tile_rows=tile_rows,
        vector=vector,
        layout=layout,
        memory_limit=memory_limit,
        value_bytes=host.dtype.itemsize,
    )
    return fill(found, pattern, host[keep]).mapped(lambda x: from_host(x, like=a))


def from_selection(a: Array, mask: HostArray, layout: Layout | None) -> TVWStorage:
    """Store the entries of `a` under `mask`, which a pattern chose, in the layout it gave them.

    Entries that the layout has no slot for become the remainder; without a layout one is found as
    for any other matrix.
    """
    host = to_host(a)
    if host.ndim != 2:
        raise FormatError(f"the array has {host.ndim} dimensions; a matrix has 2.")
    if layout is not None and layout.shape != host.shape:
        raise FormatError(f"the layout is of {layout.shape}, the array of {host.shape}.")
    mask = _checked_mask(mask, host.shape)
    host = host.astype(value_dtype(host.dtype, where="the array"), copy=False)
    pattern = pattern_of_mask(mask)
    found = layout or find_layout(pattern, tile_rows="auto", vector=(2, 4))
    return fill(found, pattern, host[mask]).mapped(lambda x: from_host(x, like=a))


def _checked_mask(mask: HostArray, shape: tuple[int, ...]) -> HostArray:
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise FormatError(
            f"mask is {mask.dtype} of shape {mask.shape}; it must be bool of shape {shape}."
        )
    return mask


def to_dense(storage: TVWStorage) -> Array:
    """Return the dense matrix, (rows, cols), in the storage's dtype, library and device."""
    tiles = _scattered(storage)
    if tiles is None:
        tiles = _tiles_to_dense(storage)
    if storage.remainder is None:
        return tiles
    indptr, indices, data = (to_host(x) for x in storage.remainder)
    beside = np.zeros(storage.shape, data.dtype)
    beside[np.repeat(np.arange(storage.shape[0]), np.diff(indptr)), indices] = data
    with np.errstate(all="ignore"):
        return tiles + from_host(beside, like=tiles)


def _scattered(storage: TVWStorage) -> HostArray | None:
    """Return the dense matrix of the tiles where compiled code finds the entries on the host.

    None where it does not, or where values that share a place have to be added up. Narrow floats
    would go through float32, which may change the bits of a NaN.
    """
    if native() is None or not isinstance(storage.data, np.ndarray):
        return None
    if storage.dtype in NARROW_FLOATS:
        return None
    found = sorted_rows(storage)
    if found.shared:
        return None
    made = np.zeros(storage.shape, storage.dtype)
    starts = np.repeat(found.rows * storage.shape[1], np.diff(found.indptr))
    made.reshape(-1)[starts + found.indices] = found.data
    return made


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
        total = part if total is None else _add_entries(total, part)
    if total is None:
        return xp.zeros((slots.shape[0], width), dtype=slots.dtype, device=device_of(slots))
    return total


def _add_entries(a: Array, b: Array) -> Array:
    """Return ``a + b``, with every entry that stands alone kept bit for bit."""
    xp = array_namespace(a)
    with np.errstate(all="ignore"):  # NaN and overflow are values like others here
        both = a + b
    return xp.where(nonzero_mask(b), xp.where(nonzero_mask(a), both, b), a)


def occurrences(cols: HostArray) -> list[HostArray]:
    """Split the slots of a tile into lists where no column repeats; padding is left out."""
    valid = np.flatnonzero(cols >= 0)
    order = valid[np.argsort(cols[valid], kind="stable")]
    ranked = cols[order]
    rank = np.arange(order.size) - np.searchsorted(ranked, ranked)
    return [np.sort(order[rank == r]) for r in range(int(rank.max(initial=-1)) + 1)]
