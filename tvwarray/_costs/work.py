"""What there is to do for a matrix, whatever is multiplied with it: what times depend on."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.tiles import distinct_columns
from tvwarray._ragged import cumulate
from tvwarray._storage import HostArray, TVWStorage, Vector

PANEL_COLUMNS: Final = 64
"""Slots of a panel of the engine, which stays in the L1 cache."""

VECTOR_BYTES: Final = 64
"""Of its vectors: a strip of the stream is two vectors of rows."""

BSR_SIDES: Final = (2, 3, 4, 8, 16, 32)
"""The square blocks among which the best for BSR is sought."""

_BLOCK_OVERHEAD: Final = 6
"""What a block of BSR costs beside its own elements, in elements."""


class Window(NamedTuple):
    """What some consecutive rows fetch of X."""

    rows: float
    footprint: float
    """Their distinct columns on average: rows of X that a cache must hold for them."""
    fetched: float
    """Rows of X that are fetched in all if the cache holds what fewer rows of A need."""


class Work(NamedTuple):
    """What there is to do for a matrix."""

    shape: tuple[int, int]
    value_bytes: int
    nnz: int
    rows: int
    """Rows in tiles."""
    slots: int
    """Slots of all tiles that are not padding."""
    streamed: int
    """Values that the engine's stream holds for few right-hand sides: zeros of tiles, and what
    fills its strips up."""
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
    widths: HostArray,
    valid: HostArray,
    vector: Vector,
) -> Work:
    """Return the work of tiles with so many rows and slots, `valid` ones without padding, each."""
    lane = 8 if value_bytes == 8 else 4
    strip, block = 2 * VECTOR_BYTES // lane, 8 * lane if vector else 16
    streamed = int((np.ceil(heights / strip) * strip * np.ceil(widths / block) * block).sum())
    return Work(
        shape=shape,
        value_bytes=value_bytes,
        nnz=nnz,
        rows=int(heights.sum()),
        slots=round(valid.sum()),
        streamed=streamed // 2 if vector else streamed,
        visits=int((heights * np.ceil(valid / PANEL_COLUMNS)).sum()),
        tiles=int(heights.size),
        windows=csr.windows,
        uneven=csr.uneven,
        blocks=csr.blocks,
        block=csr.block,
    )


def work_of(storage: TVWStorage) -> Work:
    """Return the work of a storage.

    Of its CSR form it is assumed that rows differ in length, and that tiles have any columns, each
    its own; BSR is left out.
    """
    tile = np.repeat(np.arange(storage.num_tiles), storage.slots_of)
    valid = np.bincount(tile[storage.col_indices >= 0], minlength=storage.num_tiles)
    heights, slots = storage.rows_of, int(valid.sum())
    rows, tiles = max(1, int(heights.sum())), max(1, storage.num_tiles)
    share = min(1.0, slots / tiles / max(1, storage.shape[1]))  # of the columns, that a tile has
    together = [*(1 << k for k in range((tiles - 1).bit_length())), tiles]
    windows = (
        Window(1, storage.nnz / rows, storage.nnz),
        *(
            Window(
                rows / tiles * k,
                storage.shape[1] * (1 - (1 - share) ** k),
                slots * (1 - share) ** (k - 1),
            )
            for k in together
        ),
    )
    csr = Csr(windows, uneven=storage.shape[0], blocks=0, block=1)
    size, widths = storage.dtype.itemsize, storage.slots_of
    return tile_work(csr, storage.shape, size, storage.nnz, heights, widths, valid, storage.vector)


def row_windows(pattern: Pattern) -> tuple[Window, ...]:
    """Return what windows of 1, 2, 4, ... rows fetch.

    A row of X is fetched anew where more rows of A have passed since its last use than a cache has
    room for. Products are taken to follow one another, so that every use has one before it.
    """
    count = pattern.rows.size
    if not pattern.size:
        return (Window(1, 0.0, 0),)
    ones = np.ones(pattern.size, np.bool_)
    shape = count, pattern.shape[1]
    by_column = sp.csr_array((ones, pattern.indices, pattern.indptr), shape=shape).tocsc()
    row, begin = by_column.indices, by_column.indptr
    held = np.flatnonzero(np.diff(begin))
    first, last = begin[held], begin[held + 1] - 1
    since = np.diff(row, prepend=0)
    since[first] = row[first] + count - row[last]
    passed = np.bincount(since, minlength=count + 1)
    fetched = pattern.size - np.cumsum(passed)  # by windows of 0, 1, 2, ... rows
    footprint = np.cumsum(fetched) / count
    sizes = [*(1 << k for k in range((count - 1).bit_length())), count]
    return tuple(Window(r, float(footprint[r - 1]), int(fetched[r - 1])) for r in sizes)


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
