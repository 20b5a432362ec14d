"""Fill a layout with values: the one way a storage is made from a matrix."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._layout import Layout
from tvwarray._storage import SLOT_MULTIPLE, HostArray, TVWStorage
from tvwarray._two_four import compress_24


class Values(Protocol):
    """What a storage is filled from; dense and sparse matrices implement it."""

    @property
    def dtype(self) -> DType:
        """The value dtype."""
        ...

    def block(self, rows: HostArray, cols: HostArray, /) -> tuple[HostArray, HostArray | None]:
        """Return the entries at `rows` x `cols`, dense, and which of them are to be stored.

        Columns of -1 are padding and hold zeros. Without a mask, what is not zero is stored.
        """
        ...


def fill(layout: Layout, values: Values) -> TVWStorage:
    """Return the storage of `values` in `layout`."""
    halves = 2 if layout.vector else 1
    rows_of = np.diff(layout.row_indptr).astype(np.int64)
    slots_of = np.diff(layout.col_indptr).astype(np.int64)
    data = np.empty(int((rows_of * (slots_of // halves)).sum()), values.dtype)
    meta = None
    if layout.vector:
        meta = np.empty(int((rows_of * (slots_of // SLOT_MULTIPLE)).sum()), np.uint16)
    d = m = 0
    for t in range(layout.num_tiles):
        block, keep = values.block(*layout.tile(t))
        if meta is not None:
            block, words = compress_24(block, keep)
            meta[m : m + words.size] = words.reshape(-1)
            m += words.size
        elif keep is not None:
            block = np.where(keep, block, np.zeros((), block.dtype))
        data[d : d + block.size] = block.reshape(-1)
        d += block.size
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
    )
