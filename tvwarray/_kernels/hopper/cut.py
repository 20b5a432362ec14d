"""Which tiles are cut along their slots, so that all multiprocessors end at about the same time.

Persistent blocks take items as they become free, the longest first. Where items are few, that is
not enough: one tile may be longer than everybody's fair share, or a last round leaves most blocks
idle. Then tiles are cut into pieces, whose sums pass memory. How short pieces are to be is tried
out on the schedule itself; what pieces cost is in the times of it::

    whole   steps                        + store
    piece   steps + write its sums                        the last one of a tile:
            steps + write + read the others' + store

so that tiles stay whole unless the end comes sooner.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._kernels.schedule import owners

HostArray = np.ndarray[Any, Any]

MOST_PIECES: Final = 255
"""Of a tile: they are numbered in eight bits."""

LEAST_STEPS: Final = 4
"""Of a piece."""

MOST_ITEMS: Final = 2048
"""Of a launch with cut tiles: more are even enough by their number."""

WORTH: Final = 0.97
"""Of the time without pieces, what it must be with them."""

SHARES: Final = (1.0, 1.25, 1.5, 2.0, 3.0)
"""Pieces to the fair share that are tried."""


def pieces_of(steps: HostArray, most_steps: int) -> HostArray:
    """Return into how many pieces tiles of so many steps are cut, if `most_steps` is not 0."""
    if not most_steps:
        return np.ones_like(steps)
    return np.asarray(np.clip(-(-steps // most_steps), 1, MOST_PIECES))


def costs_of(
    steps: HostArray, count: HostArray, piece: HostArray, store: float, pass_on: float
) -> HostArray:
    """Return what items take, in steps.

    Parameters
    ----------
    steps, count, piece : int array, shape (items,)
        Their own steps, into how many pieces their tile is cut (0 or 1 for whole ones), and which
        of them they are.
    store, pass_on : float
        What storing an item takes, and what writing or reading the sums of a piece does.
    """
    cut, last = count > 1, piece == count - 1
    reads = np.where(last, (count - 1) * pass_on + store, 0.0)
    return np.asarray(steps + np.where(cut, pass_on + reads, store))


def most_steps(
    items: HostArray, steps: HostArray, at_once: int, store: float, pass_on: float
) -> int:
    """Return of how many steps pieces may be at most, or 0 if no tile is to be cut.

    Parameters
    ----------
    items, steps : int array, shape (tiles,)
        Items of each tile, and steps of each of them.
    at_once : int
        Items that are worked on at the same time.
    store, pass_on : float
        As `costs_of`.
    """
    total, longest = int(items.sum()), int(np.max(steps, initial=0))
    if not 0 < total <= MOST_ITEMS or longest <= LEAST_STEPS:
        return 0
    fair = float((items * steps).sum()) / at_once
    whole = end_of(items, steps, 0, at_once, store, pass_on)
    # With pieces everybody writes one, at least.
    if fair + store + pass_on > WORTH * whole:
        return 0
    tried = {int(np.ceil(fair / share)) for share in SHARES}
    tried |= {-(-longest // count) for count in (2, 3, 4)}
    ends = {
        limit: end_of(items, steps, limit, at_once, store, pass_on)
        for limit in sorted(tried, reverse=True)
        if LEAST_STEPS <= limit < longest
    }
    best = min(ends, key=lambda limit: ends[limit], default=0)
    return best if best and ends[best] < WORTH * whole else 0


def end_of(
    items: HostArray, steps: HostArray, limit: int, at_once: int, store: float, pass_on: float
) -> float:
    """Return when the last item ends, in steps, if tiles are cut at `limit`."""
    count = pieces_of(steps, limit)
    each = np.repeat(count, items)
    tile = np.repeat(np.repeat(np.arange(steps.size), items), each)
    piece = np.arange(tile.size) - np.repeat(np.cumsum(each) - each, each)
    own = steps[tile] * (piece + 1) // count[tile] - steps[tile] * piece // count[tile]
    costs = costs_of(own, count[tile], piece, store, pass_on)
    if costs.size > 2 * MOST_ITEMS:
        return np.inf
    return float(owners(costs[np.argsort(-own, kind="stable")], at_once)[1].max())
