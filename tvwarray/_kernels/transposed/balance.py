"""The work list of ``A.T @ Y``: ranges of columns, the long ones cut into pieces.

Blocks start longest first. Where there are few, a range of more steps than everybody's fair share
is cut between items: pieces leave their sums in memory, and the one that is done last adds them up
in their order::

    fair share = all steps / blocks that run at once
    cut into pieces of about max(fair share, 16 steps), if it is a quarter longer than that
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._kernels.transposed.config import TransposedConfig
from tvwarray._kernels.transposed.pack import Order
from tvwarray._ragged import cumulate, runs

HostArray = np.ndarray[Any, Any]

RANGE_WORDS: Final = 8
"""int32 words of an entry of the work list: struct Range of the kernel, and three unused."""

LEAST_STEPS: Final = 16
"""Of a piece: about what writing and reading its sums takes."""

WORTH: Final = 1.25
MOST_PIECES: Final = 2**15 - 1


def piece_counts(
    order: Order, columns: int, config: TransposedConfig, multiprocessors: int
) -> HostArray:
    """Return into how many pieces each range is cut, int64 (ranges,).

    Parameters
    ----------
    order : Order
    columns : int
        Blocks side by side, of all Y.
    config : TransposedConfig
    multiprocessors : int
    """
    steps = order.range_steps
    fair = -(-int(steps.sum()) * columns // (multiprocessors * config.min_blocks))
    limit = max(fair, LEAST_STEPS)
    if int(np.max(steps, initial=0)) <= WORTH * limit:
        return np.ones(steps.size, np.int64)
    items = np.diff(order.range_items)
    return np.asarray(np.clip(-(-steps // limit), 1, np.clip(items, 1, MOST_PIECES)))


def work_list(order: Order, pieces: HostArray) -> HostArray:
    """Return the entries of the work list, int32 (entries, 8), longest first.

    `pieces` says into how many each range is cut; each ends where an item does.
    """
    ends = cumulate(order.item_steps)
    of_range, piece = np.repeat(np.arange(pieces.size), pieces), runs(0, pieces)
    begins, steps = ends[order.range_items[of_range]], order.range_steps[of_range]

    def cut(number: HostArray) -> HostArray:
        """Return the first end of an item at or behind `number` equal parts of its range."""
        return np.asarray(ends[np.searchsorted(ends, begins + steps * number // pieces[of_range])])

    start, stop = cut(piece), cut(piece + 1)
    first_piece = np.cumsum(pieces) - pieces
    found = np.zeros((of_range.size, RANGE_WORDS), np.int32)
    found[:, 0] = of_range * order.range_shape.columns
    found[:, 1] = start
    found[:, 2] = stop - start
    found[:, 3] = pieces[of_range] << 16 | piece
    found[:, 4] = first_piece[of_range]
    return found[np.argsort(start - stop, kind="stable")]
