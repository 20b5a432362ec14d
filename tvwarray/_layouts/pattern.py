"""Where a matrix holds entries: CSR without values, which every layout is made from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tvwarray._storage import HostArray


class Pattern(NamedTuple):
    """The entries of a matrix, row after row; columns of a row ascend, and none stands twice."""

    shape: tuple[int, int]
    rows: HostArray
    """int64, ascending: all rows that hold entries, and perhaps others."""
    indptr: HostArray
    """int64 (rows + 1,): where the entries of each of `rows` begin."""
    indices: HostArray
    """int32 (entries,): the column of each entry."""

    @property
    def size(self) -> int:
        """How many entries there are."""
        return int(self.indices.size)

    @property
    def held(self) -> HostArray:
        """int64 (rows,): how many entries each of `rows` holds."""
        return np.diff(self.indptr)

    @property
    def csr(self) -> tuple[HostArray, HostArray, int]:
        """The arrays and the width, as the compiled searches take them."""
        return self.indptr, self.indices, self.shape[1]

    def entries_of(self, rows: HostArray) -> tuple[HostArray, HostArray]:
        """Return the entries of some rows, and for each one the place in `rows` of its row.

        Parameters
        ----------
        rows : int64 array
            Places in `self.rows`.
        """
        start, count = self.indptr[rows], self.held[rows]
        row = np.repeat(np.arange(rows.size), count)
        return np.arange(row.size) + (start - np.cumsum(count) + count)[row], row

    def without(self, entries: HostArray) -> Pattern:
        """Return the pattern that lacks some entries, given as a mask, bool (entries,)."""
        left = np.concatenate([np.zeros(1, np.int64), np.cumsum(~entries)])
        return self._replace(indptr=left[self.indptr], indices=self.indices[~entries])

    def narrowed(self) -> tuple[Pattern, HostArray | None]:
        """Leave out groups ``column // 4`` without entries where they are nearly all there are.

        Searches need memory for every column. Groups stay whole, so that columns keep their places
        in them.

        Returns
        -------
        Pattern
            This one, or one of fewer columns.
        int64 array or None
            The groups that are left.
        """
        if self.shape[1] <= max(1 << 20, 8 * self.size):
            return self, None
        groups, group = np.unique(self.indices // 4, return_inverse=True)
        indices = (4 * group + self.indices % 4).astype(np.int32)
        shape = self.shape[0], 4 * int(groups.size)
        return self._replace(shape=shape, indices=indices), groups.astype(np.int64)


def pattern_of_mask(keep: HostArray) -> Pattern:
    """Return the pattern of a dense mask, bool (rows, cols), with all rows."""
    indptr = np.zeros(keep.shape[0] + 1, np.int64)
    np.cumsum(np.count_nonzero(keep, axis=1), out=indptr[1:])
    flat = np.flatnonzero(keep)
    flat -= np.repeat(np.arange(keep.shape[0]) * keep.shape[1], np.diff(indptr))
    rows: Any = np.arange(keep.shape[0])
    return Pattern((int(keep.shape[0]), int(keep.shape[1])), rows, indptr, flat.astype(np.int32))
