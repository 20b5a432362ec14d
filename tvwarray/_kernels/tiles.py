"""Where the tiles of a packed matrix lie, and how they are cut into blocks: the work list.

All of it is on the host, and the same for every way in which values are packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tvwarray._kernels.config import BRICK_ROWS
from tvwarray._namespace import to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._storage import TVWStorage

HostArray = np.ndarray[Any, Any]

BLOCK_WORDS: Final = 8
"""int32 words of an entry of the work list: struct Block of layout.cuh."""

MOST_PIECES: Final = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the packed tiles lie; int64 (tiles,) each. The last one is the rows that are zero."""

    source: HostArray
    """Which tile of the storage this is; -1 for the rows that are zero."""
    rows: HostArray
    slots: HostArray
    bricks: HostArray
    """Bricks in height."""
    steps: HostArray
    first_brick: HostArray
    first_slot: HostArray
    first_row: HostArray
    step_slots: int

    @classmethod
    def of_storage(cls, storage: TVWStorage, width: int = 64) -> Tiles:
        """Lay the tiles of `storage` out, those of equal size side by side; steps of `width`."""
        rows, slots = storage.rows_of, storage.slots_of
        source = np.flatnonzero((rows > 0) & (slots > 0))
        source = source[np.lexsort((source, slots[source], rows[source]))]
        zero_rows = storage.shape[0] - int(rows[source].sum())
        source = np.append(source, -1)
        rows = np.append(rows[source[:-1]], zero_rows)
        slots = np.append(slots[source[:-1]], 0)
        bricks, steps = -(-rows // BRICK_ROWS), -(-slots // width)
        first_brick, first_slot, first_row = (
            cumulate(x)[:-1] for x in (bricks * steps, steps * width, bricks * BRICK_ROWS)
        )
        return cls(
            source, rows, slots, bricks, steps, first_brick, first_slot, first_row, width
        )  # fmt: skip

    @property
    def total_bricks(self) -> int:
        """Bricks of all tiles."""
        return int((self.bricks * self.steps).sum())

    def groups(self) -> Iterator[slice]:
        """Yield the runs of tiles that have equal rows and slots, without the zero rows."""
        last = self.source.size - 1
        size = np.stack([self.rows[:last], self.slots[:last]])
        ends = np.flatnonzero(np.any(size[:, 1:] != size[:, :-1], axis=0)) + 1
        bounds = [0, *map(int, ends), last]
        for start, stop in pairwise(bounds):
            if start < stop:
                yield slice(start, stop)

    def blocks(self, block_rows: int, most_steps: int = 0) -> HostArray:
        """Cut the tiles into blocks of `block_rows` rows: the work list, longest first.

        Tiles of more than `most_steps` steps, unless that is 0, are shared out to several blocks of
        as equal lengths as can be, whose sums are added up.
        """
        height = block_rows // BRICK_ROWS
        cuts = -(-self.bricks // height)
        tile = np.repeat(np.arange(self.source.size), cuts)
        above = runs(0, cuts) * height
        pieces = np.ones_like(tile)
        if most_steps:
            pieces = np.clip(-(-self.steps[tile] // most_steps), 1, MOST_PIECES)
        shared = np.where(pieces > 1, pieces, 0)
        first_piece = np.repeat(np.cumsum(shared) - shared, pieces)
        piece = runs(0, pieces)
        tile, above, pieces = (np.repeat(x, pieces) for x in (tile, above, pieces))
        start = self.steps[tile] * piece // pieces
        stop = self.steps[tile] * (piece + 1) // pieces
        blocks = np.zeros((tile.size, BLOCK_WORDS), np.int32)
        blocks[:, 0] = self.first_brick[tile] + above + start * self.bricks[tile]
        blocks[:, 1] = self.bricks[tile]
        blocks[:, 2] = np.minimum(self.bricks[tile] - above, height)
        blocks[:, 3] = stop - start
        blocks[:, 4] = self.first_slot[tile] + start * self.step_slots
        blocks[:, 5] = self.first_row[tile] + above * BRICK_ROWS
        blocks[:, 6] = pieces << 16 | piece
        blocks[:, 7] = np.where(pieces > 1, first_piece, 0)
        # Ties stay in order, so that blocks of a tile, which share its rows of X, are neighbours.
        return blocks[np.argsort(-blocks[:, 3], kind="stable")]


def piece_count(bricks: HostArray, steps: HostArray, block_rows: int, most_steps: int) -> int:
    """Return how many blocks of `Tiles.blocks` are pieces of longer ones.

    Parameters
    ----------
    bricks, steps : int array, shape (tiles,)
    block_rows, most_steps : int
        As `Tiles.blocks` takes them.
    """
    if not most_steps:
        return 0
    cuts = -(-bricks // (block_rows // BRICK_ROWS))
    pieces = np.clip(-(-steps // most_steps), 1, MOST_PIECES)
    return int((cuts * pieces)[pieces > 1].sum())


def neighbours(rows: HostArray) -> float:
    """Return the share of padded row lists that is whole, aligned runs of 8 neighbouring rows."""
    runs_of_8 = rows.reshape(-1, 8)
    kept = (runs_of_8 >= 0).any(axis=1)
    aligned = (runs_of_8[:, :1] % 8 == 0) & (runs_of_8[:, :1] >= 0)
    whole = (aligned & (runs_of_8 == runs_of_8[:, :1] + np.arange(8))).all(axis=1)
    return float(whole.sum()) / max(1, int(kept.sum()))


def index_lists(storage: TVWStorage, tiles: Tiles) -> tuple[HostArray, HostArray]:
    """Return the padded column and row lists of all tiles."""
    row_indptr, col_indptr = storage.host_indptr
    row_indices, col_indices = to_host(storage.row_indices), to_host(storage.col_indices)
    cols = np.full(int(tiles.steps.sum()) * tiles.step_slots, -1, np.int32)
    rows = np.full(int(tiles.bricks.sum()) * BRICK_ROWS, -1, np.int32)
    zero = np.ones(storage.shape[0], bool)
    for t, s in enumerate(tiles.source[:-1]):
        at, slots = int(tiles.first_slot[t]), int(tiles.slots[t])
        cols[at : at + slots] = col_indices[col_indptr[s] : col_indptr[s] + slots]
        at, count = int(tiles.first_row[t]), int(tiles.rows[t])
        of_tile = row_indices[row_indptr[s] : row_indptr[s] + count]
        rows[at : at + count] = of_tile
        zero[of_tile] = False
    at = int(tiles.first_row[-1])
    rows[at : at + int(tiles.rows[-1])] = np.flatnonzero(zero)
    return cols, rows
