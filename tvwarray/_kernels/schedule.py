"""Which items each persistent block takes, where tiles are of unequal length.

Blocks take the first items in turn, and the next one always goes to the block that is free first,
by what items cost: what a queue would do, decided beforehand, so that no block asks another and
every run is the same. Items are in the order of strips.cuh, longest first within a strip, so the
last ones are short. Handing them round instead, item i to block i modulo the blocks, gives the same
blocks long ones in every round.

::

    items    9 8 7 6 5 4     handed round       free first
    block 0                  9   7   5  = 21    9   6   5 = 20
    block 1                  8   6   4  = 18    8   7   4 = 19
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import Any, Final

import numpy as np

HostArray = np.ndarray[Any, Any]

MOST_ITEMS: Final = 1 << 16
"""Beyond so many, what is handed round is even enough, and a schedule takes a tenth of a second."""


def item_costs(costs: HostArray, columns: int, strip: int) -> HostArray:
    """Return the cost of every item, in the order of strips.cuh.

    Parameters
    ----------
    costs : array, shape (entries,)
        Of the entries of a work list.
    columns, strip : int
        Blocks' widths of X, and how many of them are worked on together.
    """
    whole, rest = divmod(columns, strip)
    return np.concatenate([np.tile(np.repeat(costs, strip), whole), np.repeat(costs, rest)])


def owners(costs: HostArray, blocks: int) -> tuple[HostArray, HostArray]:
    """Return which block takes each item, and how long each block is busy."""
    free = [(0.0, b) for b in range(blocks)]
    heapify(free)
    owner = np.empty(costs.size, np.int64)
    for i, cost in enumerate(costs.tolist()):
        at, block = free[0]
        owner[i] = block
        heapreplace(free, (at + cost, block))
    busy = np.zeros(blocks)
    for at, block in free:
        busy[block] = at
    return owner, busy


def successors(costs: HostArray, columns: int, strip: int, blocks: int) -> HostArray | None:
    """Return the item that the block of each item takes next: int32, the number of items for none.

    Or None where handing items round is as good.

    Parameters
    ----------
    costs, columns, strip
        As `item_costs`.
    blocks : int
        Persistent blocks; block b begins with item b.
    """
    count = costs.size * columns
    if not blocks < count <= MOST_ITEMS or np.ptp(costs) == 0:
        return None
    owner, _ = owners(item_costs(costs, columns, strip), blocks)
    order = np.argsort(owner, kind="stable")
    following = np.full(count, count, np.int32)
    same = owner[order[1:]] == owner[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following
