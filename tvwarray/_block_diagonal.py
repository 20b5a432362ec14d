"""The block-diagonal matrix of a grouped layer, without a stored value more.

The weight of a layer with `g` groups has the rows of all groups one above the other, and the
columns of one group: rows of group i multiply part i of the input. As one matrix it is::

    weight (4, 3), 2 groups        lifted (4, 6)

      a a a   rows of group 0        a a a . . .
      a a a                          a a a . . .
      b b b   rows of group 1        . . . b b b
      b b b                          . . . b b b

Since a tile's slots name any columns, lifting only renumbers them; a tile with rows of several
groups is cut into one tile for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvwarray._namespace import array_namespace, from_host, to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._storage import SLOT_MULTIPLE, TVWStorage

HostArray = np.ndarray[Any, Any]


def block_diagonal(storage: TVWStorage, groups: int) -> TVWStorage:
    """Return `storage` with its rows in `groups` parts, each with columns of its own.

    Parameters
    ----------
    storage : TVWStorage, shape (rows, cols)
        Rows i * rows / groups and on belong to group i.
    groups : int
        Divides the rows.

    Returns
    -------
    TVWStorage
        Of shape (rows, groups * cols), on the device of `storage`, with its values and slots.
    """
    (rows, cols), like = storage.shape, storage.data
    if groups == 1:
        return storage
    if groups * cols > np.iinfo(np.int32).max:
        raise ValueError(f"{groups} groups of {cols} columns are more than an int32 can number.")
    per_group = rows // groups
    row_indices = to_host(storage.row_indices)
    tile_of = np.repeat(np.arange(storage.num_tiles), storage.rows_of)
    group_of = row_indices // max(per_group, 1)
    order = np.lexsort((group_of, tile_of))  # stable: rows keep their order within a group
    tile_of, group_of = tile_of[order], group_of[order]

    starts = np.flatnonzero(np.diff(tile_of * groups + group_of, prepend=-1))
    source, group = tile_of[starts], group_of[starts]
    slots = storage.slots_of[source]
    col_indptr = cumulate(slots)
    listed = to_host(storage.col_indices)[runs(to_host(storage.col_indptr)[source], slots)]
    shift = np.repeat(group * cols, slots)

    slots_of_row = storage.slots_of[tile_of]
    place = order - cumulate(storage.rows_of)[tile_of]  # of a row in its old tile
    stored = slots_of_row // 2 if storage.vector else slots_of_row
    values = runs(storage.data_indptr[tile_of] + place * stored, stored)
    words = slots_of_row // SLOT_MULTIPLE
    xp = array_namespace(like)
    meta = storage.meta
    if meta is not None:
        meta = xp.take(
            meta, from_host(runs(storage.meta_indptr[tile_of] + place * words, words), like)
        )
    return TVWStorage(
        shape=(rows, groups * cols),
        tile_rows=storage.tile_rows,
        vector=storage.vector,
        row_indptr=from_host(np.append(starts, order.size).astype(np.int32), like),
        row_indices=from_host(row_indices[order], like),
        col_indptr=from_host(col_indptr.astype(np.int32), like),
        col_indices=from_host(np.where(listed < 0, -1, listed + shift).astype(np.int32), like),
        data=xp.take(like, from_host(values, like)),
        meta=meta,
        remainder_indptr=storage.remainder_indptr,
        remainder_indices=_lifted_remainder(storage, per_group),
        remainder_data=storage.remainder_data,
    )


def _lifted_remainder(storage: TVWStorage, per_group: int) -> Any:
    remainder = storage.remainder
    if remainder is None:
        return None
    entries = np.diff(to_host(remainder.indptr))
    group = np.repeat(np.arange(storage.shape[0]) // max(per_group, 1), entries)
    lifted = to_host(remainder.indices) + group * storage.shape[1]
    return from_host(lifted.astype(np.int32), storage.data)
