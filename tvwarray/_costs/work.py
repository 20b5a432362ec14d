"""What there is to do for a matrix, whatever is multiplied with it: what times depend on."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.tiles import distinct_columns
from tvwarray._ragged import cumulate
from tvwarray._storage import HostArray, TVWStorage

PANEL_COLUMNS: Final = 64
"""Slots of a panel of the engine, which stays in the L1 cache."""

WINDOWS: Final = (16, 64, 256, 1024)
"""Consecutive rows whose distinct columns are counted."""

BSR_SIDES: Final = (2, 3, 4, 8, 16, 32)
"""The square blocks among which the best for BSR is sought."""

_BLOCK_OVERHEAD: Final = 6
"""What a block of BSR costs beside its own elements, in elements."""


class Window(NamedTuple):
    """What some consecutive rows fetch of X."""

    footprint: float
    """Distinct columns of so many rows, on average: rows of X that a cache must hold for them."""
    fetched: float
    """Rows of X that are fetched in all if the cache holds no more than these."""


class Work(NamedTuple):
    """What there is to do for a matrix."""

    shape: tuple[int, int]
    value_bytes: int
    nnz: int
    rows: int
    """Rows in tiles."""
    slots: int
    """Slots of all tiles that are not padding."""
    stored: int
    """Values that tiles store, zeros included."""
    visits: int
    """Rows of each tile times the panels that its slots are cut into."""
    tiles: int
    windows: tuple[Window, ...]
    """From single entries to all rows, footprints ascending."""
    uneven: int
    """Rows with another number of nonzeros than the row before: a processor guesses their ends
    wrong."""
    blocks: int
    """Blocks of the BSR form."""
    block: int
    """The side of those blocks."""


class Csr(NamedTuple):
    """The part of the work that does not depend on tiles."""

    windows: tuple[Window, ...]
    uneven: int
    blocks: int
    block: int


def csr_work(pattern: Pattern) -> Csr:
    """Return the work of a pattern in other forms than tiles."""
    block, blocks = bsr_blocks(pattern)
    apart = np.diff(pattern.rows) > 1  # empty rows between
    changes = np.where(apart, 2, np.diff(pattern.held) != 0)
    uneven = int(changes.sum())
    return Csr(row_windows(pattern), uneven, blocks, block)


def tile_work(
    csr: Csr,
    shape: tuple[int, int],
    value_bytes: int,
    nnz: int,
    heights: HostArray,
    valid: HostArray,
    stored: int,
) -> Work:
    """Return the work of tiles with so many rows and `valid` slots, without padding, each."""
    return Work(
        shape=shape,
        value_bytes=value_bytes,
        nnz=nnz,
        rows=int(heights.sum()),
        slots=round(valid.sum()),
        stored=stored,
        visits=int((heights * np.ceil(valid / PANEL_COLUMNS)).sum()),
        tiles=int(heights.size),
        windows=csr.windows,
        uneven=csr.uneven,
        blocks=csr.blocks,
        block=csr.block,
    )


def work_of(storage: TVWStorage) -> Work:
    """Return the work of a storage.

    Of its CSR form it is assumed that rows differ in length and that its windows are the tiles; BSR
    is left out.
    """
    tile = np.repeat(np.arange(storage.num_tiles), storage.slots_of)
    valid = np.bincount(tile[storage.col_indices >= 0], minlength=storage.num_tiles)
    heights, slots = storage.rows_of, int(valid.sum())
    cells = int((heights * storage.slots_of).sum())
    distinct = min(slots, storage.shape[1])
    windows = (
        Window(storage.nnz / max(1, int(heights.sum())), storage.nnz),
        Window(slots / max(1, storage.num_tiles), slots),
        Window(distinct, distinct),
    )
    csr = Csr(windows, uneven=storage.shape[0], blocks=0, block=1)
    stored = cells // 2 if storage.vector else cells
    size = storage.dtype.itemsize
    return tile_work(csr, storage.shape, size, storage.nnz, heights, valid, stored)


def row_windows(pattern: Pattern) -> tuple[Window, ...]:
    """Return what windows of more and more rows fetch."""
    count = pattern.rows.size
    found = [Window(pattern.size / max(1, count), pattern.size)]
    for rows in WINDOWS:
        if rows < count:
            begins = np.append(np.arange(0, count, rows), count).astype(np.int64)
            fetched = int(distinct_columns(pattern, np.arange(count), begins).sum())
            found.append(Window(fetched / (begins.size - 1), fetched))
    distinct = np.unique(pattern.indices).size
    return (*found, Window(distinct, distinct))


def bsr_blocks(pattern: Pattern) -> tuple[int, int]:
    """Return the side of the square blocks that suit BSR best, and how many of them there are."""
    best = 1, pattern.size
    least = 3.0 * pattern.size
    for side in BSR_SIDES:
        if any(k % side for k in pattern.shape) or not pattern.size:
            continue
        coarse = pattern._replace(indices=pattern.indices // np.int32(side))
        of_block = np.bincount(np.unique(pattern.rows // side, return_inverse=True)[1])
        rows = np.arange(pattern.rows.size)
        count = int(distinct_columns(coarse, rows, cumulate(of_block)).sum())
        if count * (side**2 + _BLOCK_OVERHEAD) < least:
            best, least = (side, count), float(count * (side**2 + _BLOCK_OVERHEAD))
    return best
