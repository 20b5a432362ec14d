"""Exchange of rows between tiles: each row to where most of its scores are kept.

``worth[r, t]`` is what row r keeps in tile t. For every two tiles a and b the rows of a are sorted
by what they gain in b, those of b by what they gain in a, and pairs change places as long as both
together gain, so that no tile changes its height::

    rows of a   +5  +2  -1  -4
    rows of b   +3  +1  +1  -2
                 8   3   0              the first two pairs

Worths are sums of whole numbers, exact in float64: NumPy and the compiled extension find the same
tiles.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._native import native
from tvwarray._storage import HostArray

_SWEEPS: Final = 30
"""At most so many times all pairs of tiles are gone through."""

_PART: Final = 8
"""One sweep moves at most this part of a tile's rows to another, then other tiles have a turn."""

_BLOCK: Final = 1 << 20
"""Scores that are widened at a time."""

_LARGEST: Final = 2**24 - 1
"""The largest whole score; 2**28 of them add up exactly."""


def whole_scores(scores: HostArray) -> HostArray:
    """Return scores as whole numbers below 2**24, of which float32 holds every one.

    Parameters
    ----------
    scores : real array, shape (rows, cols)
        Finite and not negative, in any unit.
    """
    largest = float(scores.max(initial=0))
    whole = np.empty(scores.shape, np.float32)
    step = max(1, _BLOCK // max(1, scores.shape[1]))
    for start in range(0, scores.shape[0], step):
        block = scores[start : start + step].astype(np.float64)
        whole[start : start + step] = np.rint(block * (_LARGEST / (largest or 1.0)))
    return whole


def kept_sums(whole: HostArray, rows: HostArray, columns: list[HostArray]) -> HostArray:
    """Return what each row keeps under each list of columns.

    Parameters
    ----------
    whole : float32 array, shape (rows, cols)
        From `whole_scores`.
    rows : integer array, shape (n,)
        The rows that count.
    columns : list of integer arrays
        Each without repetition.

    Returns
    -------
    float64 array, shape (n, len(columns))
        Exact, in whatever order the sums are formed.
    """
    cols = whole.shape[1]
    lists = np.zeros((cols, len(columns)))
    for t, chosen in enumerate(columns):
        lists[chosen, t] = 1
    sums = np.empty((rows.size, len(columns)))
    step = max(1, _BLOCK // max(1, cols))
    for start in range(0, rows.size, step):
        sums[start : start + step] = whole[rows[start : start + step]].astype(np.float64) @ lists
    return sums


def exchange_rows(worth: HostArray, tile_of: HostArray) -> HostArray:
    """Return a tile for each row, with as many rows in each tile as in `tile_of`.

    Parameters
    ----------
    worth : float64 array, shape (rows, tiles)
        Whole numbers below 2**51, as `kept_sums` makes them.
    tile_of : integer array, shape (rows,)
        The tile that each row stands in now.

    Returns
    -------
    int64 array, shape (rows,)
        No tile changes its height, and the sum of ``worth[r, tile_of[r]]`` does not fall.
    """
    worth = np.ascontiguousarray(worth, np.float64)
    tile_of = np.array(tile_of, np.int64)
    if (compiled := native()) is not None:
        exchanged: HostArray = compiled.exchange_rows(worth, tile_of, _SWEEPS, _PART)
        return exchanged
    for _ in range(_SWEEPS):
        if not _sweep(worth, tile_of):
            break
    return tile_of


def _sweep(worth: HostArray, tile_of: HostArray) -> bool:
    """Let rows of all pairs of tiles change places; say whether any did."""
    tiles = worth.shape[1]
    gains = worth - worth[np.arange(tile_of.size), tile_of][:, None]
    moved = np.zeros(tile_of.size, np.bool_)
    best = np.full((tiles, tiles), -np.inf)
    np.maximum.at(best, tile_of, gains)
    for a, b in np.argwhere(np.triu(best + best.T > 0, 1)):
        _exchange(gains, tile_of, moved, a, b)
    return bool(moved.any())


def _exchange(gains: HostArray, tile_of: HostArray, moved: HostArray, a: int, b: int) -> None:
    """Let the rows of two tiles that gain most change places; rows that moved wait."""
    rows_a = np.flatnonzero((tile_of == a) & ~moved)
    rows_b = np.flatnonzero((tile_of == b) & ~moved)
    pairs = min(rows_a.size, rows_b.size)
    rows_a = rows_a[np.argsort(-gains[rows_a, b], kind="stable")][:pairs]
    rows_b = rows_b[np.argsort(-gains[rows_b, a], kind="stable")][:pairs]
    pay = int(np.count_nonzero(gains[rows_a, b] + gains[rows_b, a] > 0))
    pay = min(pay, max(1, pairs // _PART))
    rows_a, rows_b = rows_a[:pay], rows_b[:pay]
    tile_of[rows_a], tile_of[rows_b] = b, a
    moved[rows_a] = moved[rows_b] = True
