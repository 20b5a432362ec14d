"""Which rows make a tile, and how tall tiles are.

A tile of g rows that needs s slots costs, on whatever runs it::

    s * g / 2    multiplications for each right-hand side (s * g without 2:4), padding included
    s * GATHER   for fetching s rows of X, which the rows of the tile share

Natural order is kept where no other saves much. "auto" takes the height that costs least.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np

from tvwarray._layouts.group_rows import degree_order, group_rows
from tvwarray._layouts.pattern import Pattern
from tvwarray._native import native
from tvwarray._ragged import cumulate, runs
from tvwarray._storage import SLOT_MULTIPLE, HostArray, Vector

TileRows = int | Literal["auto"]
"""The most rows of a tile, 16 to 1024, or "auto": what is modelled to cost least."""

OrderName = Literal["natural", "degree", "grouped"]

GATHER: Final = 32
"""What it costs to fetch the row of X of a slot, in multiplications of stored values: between the 8
of a CPU core, which finds it in a cache, and some 300 of a GPU, whose tensor cores are faster."""

HEIGHTS: Final = (128, 64, 32)
"""The heights that "auto" compares; equals go to the tallest."""

FULL: Final = 0.9
"""Tiles that use this part of the values they store are left as they are: the rest is all that
another order could save."""

_WORTH: Final = 0.97
"""Another order is taken if it costs at most this part of the natural one's."""

_DENSE: Final = 0.02
_MOST_SHARES: Final = 10**8
_DENSE_HUB: Final = 2048
"""Above this density nearly all columns have many rows, and likeness must be seen in those: where
that takes no more comparisons, columns of up to `_DENSE_HUB` rows count, and tiles choose among all
rows."""


class RowTiles(NamedTuple):
    """Rows in tiles."""

    order_name: OrderName
    tile_rows: int
    """The most rows a tile may have."""
    order: HostArray
    """int64: the rows of all tiles, as places in a pattern's rows; those of a tile ascend."""
    indptr: HostArray
    """int64 (tiles + 1,): where each tile begins in `order`."""
    needed: HostArray
    """int64 (tiles,): ``max(distinct columns, 2 * longest row)``, the latter with 2:4 alone."""

    @property
    def size(self) -> int:
        """How many tiles there are."""
        return int(self.needed.size)

    @property
    def heights(self) -> HostArray:
        """int64 (tiles,): the rows of each tile."""
        return np.diff(self.indptr)

    @property
    def bounds(self) -> HostArray:
        """int64 (tiles,): the fewest slots that each tile can have, a multiple of 16."""
        return -(-self.needed // SLOT_MULTIPLE) * SLOT_MULTIPLE

    def cost(self, vector: Vector) -> float:
        """Return what a product costs for each right-hand side, in multiplications."""
        stored = self.heights / 2 if vector else self.heights
        return float((self.bounds * (stored + GATHER)).sum())

    def is_full(self, pattern: Pattern, vector: Vector) -> bool:
        """Say whether the entries use nearly all the values that these tiles store."""
        stored = (self.needed * self.heights).sum() / (2 if vector else 1)
        return bool(stored * FULL <= pattern.size)

    def take(self, tiles: HostArray) -> RowTiles:
        """Return some of the tiles, given by their numbers."""
        heights = self.heights[tiles]
        row = runs(self.indptr[tiles], heights)
        return self._replace(
            order=self.order[row], indptr=cumulate(heights), needed=self.needed[tiles]
        )

    def only(self, keep: HostArray) -> RowTiles:
        """Return the tiles without the rows that `keep`, bool (rows of the pattern,), drops."""
        kept = keep[self.order]
        left = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[self.indptr]
        some = np.flatnonzero(np.diff(left))
        indptr = np.append(left[some], left[-1:])
        return self._replace(order=self.order[kept], indptr=indptr, needed=self.needed[some])


def choose_tiles(pattern: Pattern, tile_rows: TileRows, vector: Vector) -> RowTiles:
    """Return the tiles that cost least, of all rows that hold entries.

    Parameters
    ----------
    pattern : Pattern
    tile_rows : int or "auto"
    vector : (2, 4) or None
    """
    heights = HEIGHTS if tile_rows == "auto" else (tile_rows,)
    natural = min(
        (natural_tiles(pattern, h, vector) for h in heights), key=lambda t: t.cost(vector)
    )
    found = [
        cut(pattern, name, order, h, vector)
        for name, order in _orders(pattern, heights)
        for h in heights
    ]
    best = min(found, key=lambda t: t.cost(vector), default=natural)
    return best if best.cost(vector) <= _WORTH * natural.cost(vector) else natural


def natural_tiles(pattern: Pattern, tile_rows: int, vector: Vector) -> RowTiles:
    """Return tiles of rows in natural order.

    Fixed tiles, or tiles of the rows that hold entries: both leave empty rows out. They differ in
    where tiles begin: a matrix that lost single rows by chance keeps its tiles, one whose rows were
    dropped before it was tiled finds them again.
    """
    kept = np.flatnonzero(pattern.held)
    gathered = cut(pattern, "natural", kept, tile_rows, vector)
    if kept.size == pattern.shape[0]:
        return gathered
    begins = np.flatnonzero(np.diff(pattern.rows[kept] // tile_rows)) + 1
    indptr = np.concatenate([np.zeros(1, np.int64), begins, [kept.size] * bool(kept.size)])
    fixed = _tiles(pattern, "natural", tile_rows, kept, indptr.astype(np.int64), vector)
    return min(fixed, gathered, key=lambda t: (t.cost(vector), t.needed.size))


def cut(
    pattern: Pattern, name: OrderName, order: HostArray, tile_rows: int, vector: Vector
) -> RowTiles:
    """Cut an order of rows into tiles of `tile_rows`."""
    indptr = np.append(np.arange(0, order.size, tile_rows), order.size).astype(np.int64)
    if name != "natural":
        tile = np.arange(order.size) // tile_rows
        order = order[np.lexsort((order, tile))]
    return _tiles(pattern, name, tile_rows, order, indptr, vector)


def _tiles(
    pattern: Pattern,
    name: OrderName,
    tile_rows: int,
    order: HostArray,
    indptr: HostArray,
    vector: Vector,
) -> RowTiles:
    needed = distinct_columns(pattern, order, indptr)
    if vector and needed.size:
        longest = np.maximum.reduceat(pattern.held[order], indptr[:-1])
        needed = np.maximum(needed, 2 * longest)
    return RowTiles(name, tile_rows, order, indptr, needed)


def distinct_columns(pattern: Pattern, order: HostArray, indptr: HostArray) -> HostArray:
    """Return how many distinct columns each tile has, int64, in time linear in the entries."""
    if (compiled := native()) is not None:
        counted: HostArray = compiled.distinct_columns(*pattern.csr, order, indptr)
        return counted
    entries, row = pattern.entries_of(order)
    tile = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))[row]
    width = max(pattern.shape[1], 1)
    met = np.unique(tile * np.int64(width) + pattern.indices[entries]) // width
    return np.bincount(met, minlength=indptr.size - 1)


def _orders(pattern: Pattern, heights: tuple[int, ...]) -> list[tuple[OrderName, HostArray]]:
    """Return the orders that are worth a look, of the rows that hold entries."""
    kept = np.flatnonzero(pattern.held)
    if kept.size <= min(heights):
        return []
    height = sorted(heights)[len(heights) // 2]
    cells = kept.size * pattern.shape[1]
    shares = pattern.size * -(-kept.size // height)
    dense = pattern.size > _DENSE * cells and shares <= _MOST_SHARES
    shape = int(pattern.rows.size), pattern.shape[1]
    options = {"hub": _DENSE_HUB, "candidates": shape[0]} if dense else {}
    grouped = group_rows(pattern.indptr, pattern.indices, shape, height, **options)
    by_degree = degree_order(pattern.indptr)
    return [("degree", by_degree[: kept.size]), ("grouped", grouped[: kept.size])]
