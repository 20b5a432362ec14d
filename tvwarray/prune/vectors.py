"""The best n of every m: masks of groups of consecutive entries in each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from tvwarray._storage import HostArray

_BLOCK: Final = 1 << 20
"""Entries that are sorted at a time: sorting takes eight bytes for each."""


def best_of_group(scores: HostArray, n: int, m: int) -> HostArray:
    """Return which entries are among the `n` best of their group of `m`; ties keep the first.

    Parameters
    ----------
    scores : array, shape (rows, cols)
        Not negative. The last group of a row may be shorter.

    Returns
    -------
    bool array, shape (rows, cols)
    """
    if (n, m) == (2, 4):
        return _best_two_of_four(scores)
    kept = np.empty(scores.shape, np.bool_)
    cols = scores.shape[1]
    groups = -(-cols // m)
    for rows, places in _places(scores, m):
        kept[rows] = (places < n).reshape(places.shape[0], groups * m)[:, :cols]
    return kept


def runner_up(scores: HostArray, n: int, m: int) -> tuple[HostArray, HostArray]:
    """Return of each group the entry that `best_of_group` keeps with `n` + 1 and not with `n`.

    Returns
    -------
    columns, scores : arrays, shape (rows, groups)
        A group of no more than `n` entries has the column -1 and the score 0.
    """
    cols = scores.shape[1]
    groups = -(-cols // m)
    columns = np.full((scores.shape[0], groups), -1, np.int64)
    values = np.zeros((scores.shape[0], groups), scores.dtype)
    for rows, places in _places(scores, m):
        column = np.argmax(places == n, axis=2) + m * np.arange(groups)
        column[:, m * np.arange(groups) + n >= cols] = -1
        columns[rows] = column
        values[rows] = np.where(
            column >= 0, np.take_along_axis(scores[rows], np.maximum(column, 0), axis=1), 0
        )
    return columns, values


def _places(scores: HostArray, m: int) -> Iterator[tuple[slice, HostArray]]:
    """Yield blocks of rows with the place of each entry in its group, (rows, groups, m)."""
    rows, cols = scores.shape
    groups = -(-cols // m)
    step = max(1, _BLOCK // max(1, groups * m))
    for start in range(0, rows, step):
        block = scores[start : start + step]
        padded = np.full((block.shape[0], groups * m), -1, np.result_type(scores.dtype, np.int8))
        padded[:, :cols] = block
        order = np.argsort(-padded.reshape(block.shape[0], groups, m), axis=2, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(m)[None, None], axis=2)
        yield slice(start, start + step), places


def _best_two_of_four(scores: HostArray) -> HostArray:
    rows, cols = scores.shape
    padded = np.full((rows, -(-cols // 4) * 4), -1, np.result_type(scores.dtype, np.int8))
    padded[:, :cols] = scores
    a, b, c, d = (padded[:, p::4] for p in range(4))
    # An entry is kept if at most one of the others beats it; an equal one before it does.
    kept = np.empty_like(padded, np.bool_)
    kept[:, 0::4] = (b > a).view(np.int8) + (c > a) + (d > a) < 2
    kept[:, 1::4] = (a >= b).view(np.int8) + (c > b) + (d > b) < 2
    kept[:, 2::4] = (a >= c).view(np.int8) + (b >= c) + (d > c) < 2
    kept[:, 3::4] = (a >= d).view(np.int8) + (b >= d) + (c >= d) < 2
    return kept[:, :cols]
