"""Who is kept: regions of several layers compete for a budget of entries.

Regions are taken in order of their worth, a whole layer's minimum before all others; equals take
turns across layers and across the places in a layer. The order is that of the greedy knapsack,
the best there is but for the last region: that one is taken if the budget is met more closely so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvwarray._storage import HostArray


class Regions(NamedTuple):
    """The regions of one layer, each kept or pruned as a whole."""

    worth: HostArray
    """float (n,): a mean, or whatever regions of any size are compared by"""
    cost: HostArray
    """(n,): the entries that each takes from the budget"""
    classes: HostArray
    """int8 (n,): 1 goes first, -1 goes last"""


def choose(layers: Sequence[Regions], budget: float, floors: Sequence[float]) -> list[HostArray]:
    """Return which regions are kept, bool (n,) for each layer.

    Parameters
    ----------
    layers : sequence of Regions
    budget : float
        Entries to keep in all.
    floors : sequence of float
        Entries that each layer keeps at least; more than the budget if they ask for more.
    """
    worth = np.concatenate([r.worth for r in layers] or [np.empty(0)]).astype(np.float64)
    cost = np.concatenate([r.cost for r in layers] or [np.empty(0)]).astype(np.float64)
    classes = np.concatenate([r.classes for r in layers] or [np.empty(0, np.int8)])
    sizes = [r.worth.size for r in layers]
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes if n] or [np.empty(0)])
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    promised = 0
    for start, end, floor in zip(starts, starts[1:], floors, strict=False):
        if floor > 0 and end > start:
            keys = place[start:end], -worth[start:end], -classes[start:end]
            order = start + np.lexsort(keys)
            enough = int(np.searchsorted(np.cumsum(cost[order]), floor * (1 - 1e-12))) + 1
            classes[order[:enough]] = 2
            promised += min(enough, order.size)

    order = np.lexsort((place, -worth, -classes))
    covered = np.cumsum(cost[order])
    taken = int(np.searchsorted(covered, budget * (1 + 1e-12), side="right"))
    if taken < order.size:
        spare = budget - (float(covered[taken - 1]) if taken else 0.0)
        taken += spare >= cost[order[taken]] / 2
    kept = np.zeros(worth.size, np.bool_)
    kept[order[: max(taken, promised)]] = True
    return np.split(kept, starts[1:-1]) if layers else []


def choose_elements(
    layers: Sequence[HostArray], budget: int, floors: Sequence[float]
) -> list[HostArray]:
    """Return which entries are kept, bool in the shape of each layer: `choose` without sorting."""
    least = [
        min(int(np.ceil(f * (1 - 1e-12))), s.size) for f, s in zip(floors, layers, strict=True)
    ]
    kept: list[HostArray] = [np.empty(0)] * len(layers)
    free = list(range(len(layers)))
    while free:
        for i, mask in zip(free, _best([layers[i] for i in free], budget), strict=True):
            kept[i] = mask
        short = [i for i in free if np.count_nonzero(kept[i]) < least[i]]
        if not short:
            break
        # Who is short takes its minimum, and the others compete for what is left.
        for i in short:
            kept[i] = _best([layers[i]], least[i])[0]
            budget -= least[i]
        free = [i for i in free if i not in short]
    return kept


def _best(layers: Sequence[HostArray], count: int) -> list[HostArray]:
    """Return the `count` largest entries of all layers; equals are taken evenly spread."""
    total = sum(s.size for s in layers)
    if count <= 0 or count >= total:
        return [np.full(s.shape, count > 0) for s in layers]
    values = np.concatenate([s.reshape(-1) for s in layers])
    limit = np.partition(values, total - count)[total - count]
    kept = values > limit
    equal = np.flatnonzero(values == limit)
    missing = count - int(np.count_nonzero(kept))
    kept[equal[np.arange(missing) * equal.size // missing]] = True
    ends = np.cumsum([s.size for s in layers])[:-1]
    return [k.reshape(s.shape) for k, s in zip(np.split(kept, ends), layers, strict=True)]
