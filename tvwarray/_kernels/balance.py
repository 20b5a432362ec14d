"""Which tiles are shared out to several blocks, so that no multiprocessor works alone at the end.

Blocks start longest first, and the next one goes to whichever multiprocessor has room: the last to
start are short. That balances tiles of unequal lengths as long as there are many blocks. Where
there are few, tiles longer than everybody's fair share are cut along their slots::

    fair share = all steps / blocks that run at once
    pieces of at most fair, or of fair / 1.5, / 2, / 3 where that ends sooner; 8 steps at least

Sums of pieces go through memory, and are added up in their order by the piece that is done last.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._kernels.config import BRICK_ROWS, KernelConfig
from tvwarray._kernels.schedule import owners

HostArray = np.ndarray[Any, Any]

LEAST_STEPS: Final = 8
"""Of a piece: about what writing and reading its sums takes."""

WORTH: Final = 1.25
"""Tiles so many times longer than the fair share are cut."""

SHARES: Final = (1.0, 1.5, 2.0, 3.0)
"""Pieces to the fair share that are tried: shorter ones end more evenly, and more sums are read."""

MOST_BLOCKS: Final = 4096
"""More are balanced by their number, and not looked at one by one."""

_WRITTEN_STEPS: Final = 2.0
"""What writing the sums of a piece takes, in steps; the last piece reads them in half of that."""


def most_steps(
    bricks: HostArray, steps: HostArray, columns: int, config: KernelConfig, multiprocessors: int
) -> int:
    """Return of how many steps a block may be at most, or 0 if no tile is to be cut.

    Parameters
    ----------
    bricks, steps : int array, shape (tiles,)
        Height and length of each tile, in bricks and steps.
    columns : int
        Blocks side by side.
    config : KernelConfig
    multiprocessors : int
    """
    cuts = -(-bricks // (config.block_rows // BRICK_ROWS))
    at_once = multiprocessors * config.min_blocks
    return most_steps_of(cuts * columns, steps, at_once)


def most_steps_of(blocks: HostArray, steps: HostArray, at_once: int) -> int:
    """Return the same for `blocks` blocks of each tile, of which `at_once` run."""
    fair = -(-int((blocks * steps).sum()) // at_once)
    limit = max(fair, LEAST_STEPS)
    if int(np.max(steps, initial=0)) <= WORTH * limit:
        return 0
    if int(blocks.sum()) > MOST_BLOCKS or np.unique(steps[blocks * steps > 0]).size == 1:
        return limit
    limits = [max(int(-(-fair // share)), LEAST_STEPS) for share in SHARES]
    return min(limits, key=lambda limit: end_of(lengths(blocks, steps, limit), at_once))


def lengths(blocks: HostArray, steps: HostArray, limit: int) -> HostArray:
    """Return how long each block takes, in steps, if tiles are cut at `limit`; longest first."""
    pieces = np.maximum(1, -(-steps // limit)) if limit else np.ones_like(steps)
    joined = np.where(pieces > 1, _WRITTEN_STEPS * (1 + pieces / 2), 0.0)
    return np.sort(np.repeat(steps / pieces + joined, blocks * pieces))[::-1]


def end_of(costs: HostArray, at_once: int) -> float:
    """Return when the last block ends: each takes the place of the first that is done."""
    return float(owners(costs, at_once)[1].max())


def unevenness(costs: HostArray, at_once: int) -> float:
    """Return how many times later blocks end than as many of equal length."""
    if costs.size == 0 or costs.size > MOST_BLOCKS or costs[0] == costs[-1]:
        return 1.0
    even = -(-costs.size // at_once) * float(costs.mean())
    return max(1.0, end_of(costs, at_once) / even)
