"""Fill a layout with values: the one way a storage is made from a matrix."""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layouts.find import Layout
from tvwarray._layouts.pattern import Pattern
from tvwarray._namespace import nonzero_mask
from tvwarray._native import native
from tvwarray._storage import SLOT_MULTIPLE, HostArray, TVWStorage
from tvwarray._two_four import NIBBLE_OF_MASK

_EMPTY: Final = 0x4444
"""Metadata of groups without entries: as a lone value at slot 0 has it."""


def fill(layout: Layout, pattern: Pattern, values: HostArray) -> TVWStorage:
    """Return the storage of `values` in `layout`.

    Parameters
    ----------
    layout : Layout
        Made from the pattern, or from one that has its entries; entries that have no slot become
        the remainder.
    pattern : Pattern
        With all rows of the layout.
    values : array, shape (entries,)
        The value of each entry of the pattern.
    """
    order = np.searchsorted(pattern.rows, layout.row_indices)
    places = _places(layout, pattern, order) if layout.places is None else layout.places
    values = np.ascontiguousarray(values)
    cells = np.diff(layout.row_indptr).astype(np.int64) * np.diff(layout.col_indptr)
    data = np.zeros(int(cells.sum()) // (2 if layout.vector else 1), values.dtype)
    meta = np.full(int(cells.sum()) // SLOT_MULTIPLE, _EMPTY, np.uint16) if layout.vector else None
    if (compiled := native()) is not None:
        compiled.store(
            *pattern.csr,
            order,
            layout.row_indptr.astype(np.int64),
            layout.col_indptr,
            places,
            values.view(np.uint8),
            values.dtype.itemsize,
            data.view(np.uint8),
            meta,
        )
    else:
        _store(layout, pattern, order, places, values, data, meta)
    beside = _beside(pattern, places, values)
    return TVWStorage(
        shape=layout.shape,
        tile_rows=layout.tile_rows,
        vector=layout.vector,
        row_indptr=layout.row_indptr,
        row_indices=layout.row_indices,
        col_indptr=layout.col_indptr,
        col_indices=layout.col_indices,
        data=data,
        meta=meta,
        **beside,
    )


def _places(layout: Layout, pattern: Pattern, order: HostArray) -> HostArray:
    """Return the slot of each entry where no column stands twice in a tile."""
    places = np.full(pattern.size, -1, np.int32)
    if not pattern.size:
        return places  # the columns of a shape alone may be more than memory holds
    slot_of = np.full(pattern.shape[1], -1, np.int32)
    for t in range(layout.num_tiles):
        _, cols = layout.tile(t)
        slots = np.flatnonzero(cols >= 0)
        slot_of[cols[slots]] = slots
        rows = order[layout.row_indptr[t] : layout.row_indptr[t + 1]]
        entries, _ = pattern.entries_of(rows)
        places[entries] = slot_of[pattern.indices[entries]]
        slot_of[cols[slots]] = -1
    return places


def _store(
    layout: Layout,
    pattern: Pattern,
    order: HostArray,
    places: HostArray,
    values: HostArray,
    data: HostArray,
    meta: HostArray | None,
) -> None:
    """Write the entries that are in slots; the twin of the compiled one."""
    widths = np.diff(layout.col_indptr).astype(np.int64)
    width = np.repeat(widths, np.diff(layout.row_indptr))  # of each row in a tile
    begins = np.cumsum(width) - width
    entries, row = pattern.entries_of(order)
    held = places[entries] >= 0
    entries, row = entries[held], row[held]
    cell = begins[row] + places[entries]
    if meta is None:
        data[cell] = values[entries]
        return
    group, place = cell // 4, cell % 4
    kept = np.zeros(data.size // 2, np.uint8)
    np.add.at(kept, group, np.uint8(1) << place.astype(np.uint8))  # no entry stands twice
    nibble = NIBBLE_OF_MASK[kept]
    if (nibble > 15).any():
        raise ValueError("a group of four slots holds three entries of a row.")
    data[2 * group + (place != nibble[group] & 3)] = values[entries]
    nibbles = nibble.reshape(-1, 4).astype(np.uint16)
    meta[:] = (nibbles << np.array([0, 4, 8, 12], np.uint16)).sum(axis=1, dtype=np.uint16)


def _beside(pattern: Pattern, places: HostArray, values: HostArray) -> dict[str, HostArray]:
    """Return the fields of a remainder that holds the entries without a slot, if there are any."""
    out = (places < 0) & nonzero_mask(values)
    if not out.any():
        return {}
    if int(np.count_nonzero(out)) > np.iinfo(np.int32).max:
        raise FormatError("more than 2**31 - 1 entries are beside the tiles (indices are int32).")
    counts = np.zeros(pattern.shape[0] + 1, np.int64)
    row = np.repeat(pattern.rows, pattern.held)[out]
    counts[1:] = np.bincount(row, minlength=pattern.shape[0])
    return {
        "remainder_indptr": np.cumsum(counts).astype(np.int32),
        "remainder_indices": pattern.indices[out],
        "remainder_data": values[out],
    }
