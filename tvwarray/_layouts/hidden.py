"""Groups that a permutation of the columns hides: where every group of four is full, pairs tell.

In a full 2:4 tile each row meets a group exactly twice. As bits over the rows, the four columns of
a group cancel out, so two of them differ by what the other two differ by::

    column  a   1 1 0 0 1 ...
            b   1 0 1 0 0 ...      a ^ b  =  c ^ d  =  0 1 1 0 1 ...
            c   0 1 0 1 1 ...
            d   0 0 1 1 0 ...      a ^ b ^ c ^ d = 0

All pairs are sorted by what they differ by; equal neighbours are groups. By chance four columns of
64 rows cancel once in 2**64.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._native import native
from tvwarray._storage import HostArray

_MOST_COLUMNS: Final = 4096
"""Pairs of more columns are too many."""


def hidden_groups(planes: HostArray, *, longest: int) -> HostArray | None:
    """Return the columns of a full 2:4 tile in groups of four, or None if it is no such tile.

    Parameters
    ----------
    planes : uint64 array, shape (k, words)
        For every column the rows that it holds, as bits; no column is empty.
    longest : int
        The most columns that hold one row; half of them in a full tile.

    Returns
    -------
    int32 array, shape (k,), or None
        Columns of a group ascend, and so do the first columns of the groups.
    """
    planes = np.ascontiguousarray(planes)
    k = planes.shape[0]
    if k == 0 or k % 4 or k > _MOST_COLUMNS or 2 * longest != k:
        return None
    if (compiled := native()) is not None:
        found = compiled.hidden_groups(planes)
        return found if found.size else None
    if np.bitwise_xor.reduce(planes, axis=0).any():
        return None
    first, second = np.triu_indices(k, 1)
    keys = _folded(planes)
    keys = keys[first] ^ keys[second]
    order = np.argsort(keys, kind="stable")  # equal pairs stay in the order of their columns
    keys, first, second = keys[order], first[order], second[order]
    groups: list[tuple[int, ...]] = []
    used = np.zeros(k, bool)
    alike = np.flatnonzero(keys[1:] == keys[:-1])
    for x in alike:
        for y in range(x + 1, keys.size):
            if keys[y] != keys[x] or used[first[x]] or used[second[x]]:
                break
            columns = [int(c[p]) for p in (x, y) for c in (first, second)]
            if used[columns].any() or len(set(columns)) < 4 or not _is_full(planes[columns]):
                continue
            used[columns] = True
            groups.append(tuple(sorted(columns)))
    if not used.all():
        return None
    return np.array(sorted(groups), np.int32).reshape(-1)


def _folded(planes: HostArray) -> HostArray:
    """Return a word for every column; what cancels out in the planes does so here."""
    keys = np.zeros(planes.shape[0], np.uint64)
    for w in range(planes.shape[1]):
        keys = (keys << np.uint64(1) | keys >> np.uint64(63)) ^ planes[:, w]
    return keys


def _is_full(four: HostArray) -> bool:
    """Say whether every row meets four columns twice or not at all."""
    a, b, c, d = four
    return not (a ^ b ^ c ^ d).any() and not (a & b & c).any()
