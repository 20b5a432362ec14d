"""Row orders: which rows stand together in a tile, so that tiles hold few distinct columns.

Tiles are consecutive rows of an order. Beside the natural one there are two, and `tiles` takes the
best:

- by degree: rows with many entries first, since the longest row of a tile sets its slots;
- grouped: tiles grow row by row::

      columns of the tile      . x . x x . . x
      row r                    . x . . x . x .     2 shared of 5 in either: Jaccard index 2/5

  The row with the best index comes next. Columns with many rows say nothing about likeness and do
  not count. Equals are taken in hashed order: in the order of their numbers they would lie along
  a line of a mesh, and a tile that is a strip has more neighbours than one that is a blob.

All comparisons are of integers, so that the compiled extension finds the same orders.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._native import native
from tvwarray._storage import INDEX_MAX, HostArray

HUB: Final = 128
"""Columns with more rows than this do not count when rows are compared, unless a caller says so."""

_CANDIDATES: Final = (1024, 8)
"""A tile chooses among the first so many rows that share a column with it, or so many for each of
its rows if that is more. Graphs without structure would offer it nearly all rows."""


def degree_order(indptr: HostArray) -> HostArray:
    """Return the rows by descending number of entries, ties in natural order, int64."""
    order: HostArray = np.argsort(-np.diff(indptr), kind="stable").astype(np.int64, copy=False)
    return order


def group_rows(
    indptr: HostArray,
    indices: HostArray,
    shape: tuple[int, int],
    tile_rows: int,
    *,
    seed: int = 0,
    hub: int = HUB,
    candidates: int = 0,
) -> HostArray:
    """Return an order of the rows that keeps rows with like columns in one tile.

    A tile begins with the row that shares most columns with the tile before, or else with the
    longest row left.

    Parameters
    ----------
    indptr, indices : integer arrays
        The pattern in CSR, without duplicates.
    shape : (int, int)
        Rows and columns.
    tile_rows : int
        The rows of a tile.
    seed : int
        Decides between rows that suit a tile equally well.
    hub : int
        Columns with more rows than this do not count when rows are compared.
    candidates : int
        Rows among which a tile chooses at least.

    Returns
    -------
    int64 array, shape (rows,)
        A permutation. Rows without entries come last.

    Raises
    ------
    FormatError
        If the arrays are no CSR pattern of this shape.
    """
    indptr, indices = _checked(indptr, indices, shape)
    start, tie = degree_order(indptr), _hashed(shape[0], seed)
    most = max(_CANDIDATES[0], _CANDIDATES[1] * tile_rows, candidates)
    if (compiled := native()) is not None:
        order: HostArray = compiled.group_rows(
            indptr, indices, shape[1], tile_rows, start, tie, most, hub
        )
        return order
    return _Grouping(indptr, indices, shape, start, tie, most, hub).run(tile_rows)


def _checked(
    indptr: HostArray, indices: HostArray, shape: tuple[int, int]
) -> tuple[HostArray, HostArray]:
    """Return the pattern as int64 and int32 arrays."""
    indptr = np.ascontiguousarray(indptr, np.int64)
    if indptr.shape != (shape[0] + 1,) or indptr[0] != 0 or indptr[-1] != indices.size:
        raise FormatError(
            f"indptr does not span the {indices.size} indices of {shape[0]} rows from 0 on."
        )
    if (np.diff(indptr) < 0).any():
        raise FormatError("indptr falls; it counts the entries before each row.")
    low, high = indices.min(initial=INDEX_MAX), indices.max(initial=-1)
    if indices.size and (low < 0 or high >= shape[1]):
        raise FormatError(f"indices reach from {low} to {high}, outside 0..{shape[1] - 1}.")
    return indptr, np.ascontiguousarray(indices, np.int32)


def _hashed(rows: int, seed: int) -> HostArray:
    """Return a different uint32 for every row, in no visible order."""
    mask = np.uint64(0xFFFFFFFF)
    x = np.arange(rows, dtype=np.uint64) ^ np.uint64(seed & 0xFFFFFFFF)
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (0x27D4EB2F, 16)):
        # Odd factors and folded shifts can be undone: no two rows meet.
        x = x * np.uint64(factor) & mask
        x ^= x >> np.uint64(shift)
    hashed: HostArray = x.astype(np.uint32)
    return hashed


class _Grouping:
    """The grouping in NumPy; the twin of the compiled one, for small matrices."""

    def __init__(
        self,
        indptr: HostArray,
        indices: HostArray,
        shape: tuple[int, int],
        start: HostArray,
        tie: HostArray,
        most: int,
        hub: int,
    ) -> None:
        rows = np.repeat(np.arange(shape[0]), np.diff(indptr))
        counts = np.bincount(indices, minlength=shape[1])
        ends = np.cumsum(counts)
        by_column = np.split(rows[np.argsort(indices, kind="stable")], ends[:-1])
        self.columns_of = np.split(indices, indptr[1:-1])
        self.rows_of: list[Any] = [
            r if n <= hub else r[:0] for r, n in zip(by_column, counts, strict=False)
        ]
        self.held = np.diff(indptr)
        self.start, self.tie, self.most = start, tie, most
        self.done = np.zeros(shape[0], bool)
        self.shared = np.zeros(shape[0], np.int64)
        self.columns = shape[1]

    def run(self, tile_rows: int) -> HostArray:
        """Return the order."""
        order: list[int] = []
        first, following, rows = 0, -1, self.done.size
        while len(order) < rows:
            met = np.zeros(self.columns, bool)
            candidates = np.empty(0, np.int64)
            height = min(tile_rows, rows - len(order))
            for i in range(height):
                if following < 0:
                    while self.done[self.start[first]]:
                        first += 1
                    following = int(self.start[first])
                order.append(following)
                self.done[following] = True
                candidates = self._share(following, met, candidates)
                more = i + 1 < height
                following = self._closest(candidates, int(np.count_nonzero(met))) if more else -1
            left = candidates[~self.done[candidates]]
            keys = np.lexsort((self.tie[left], -self.shared[left]))
            following = int(left[keys[0]]) if left.size else -1
            self.shared[candidates] = 0
        return np.array(order, np.int64)

    def _share(self, row: int, met: HostArray, candidates: HostArray) -> HostArray:
        """Count the new columns of a row for the rows that hold them; return all candidates."""
        fresh = [c for c in self.columns_of[row] if not met[c]]
        met[fresh] = True
        sharing = np.concatenate([np.empty(0, np.int64), *(self.rows_of[c] for c in fresh)])
        sharing = sharing[~self.done[sharing]]
        unknown = sharing[self.shared[sharing] == 0]
        unknown = unknown[np.sort(np.unique(unknown, return_index=True)[1])]
        candidates = np.concatenate([candidates, unknown[: self.most - candidates.size]])
        known = np.zeros(self.done.size, bool)
        known[candidates] = True
        np.add.at(self.shared, sharing[known[sharing]], 1)
        return candidates

    def _closest(self, candidates: HostArray, width: int) -> int:
        """Return the candidate with the best Jaccard index, or -1."""
        left = candidates[~self.done[candidates]]
        if not left.size:
            return -1
        shared = self.shared[left]
        either = width + self.held[left] - shared
        # Quotients of integers below 2**31 differ by more than float64 rounds, if at all, ...
        index = shared / either
        near = np.flatnonzero(index >= index.max() * (1 - 2**-50))
        best = near[0]
        for z in near[1:]:  # ... but those that round alike are compared as fractions
            more = int(shared[z]) * int(either[best]) - int(shared[best]) * int(either[z])
            if more > 0 or (more == 0 and self.tie[left[z]] < self.tie[left[best]]):
                best = z
        return int(left[best])
