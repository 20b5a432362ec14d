"""Which tiles are shared out to several blocks, so that no multiprocessor works alone at the end.

Blocks start longest first, and the hardware gives the next one to whichever multiprocessor has
room: the last to start are short. That balances tiles of unequal lengths as long as there are many
blocks. Where there are few, a tile longer than everybody's fair share is cut along its slots::

    fair share = all steps / blocks that run at once
    cut into pieces of at most max(fair share, 8 steps), if it is a quarter longer than that

Sums of pieces go through memory, and are added up in their order by the piece that is done last.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._kernels.config import BRICK_ROWS, KernelConfig

LEAST_STEPS: Final = 8
"""Of a piece: about what writing and reading its sums takes."""

WORTH: Final = 1.25


def most_steps(
    bricks: np.ndarray[Any, Any],
    steps: np.ndarray[Any, Any],
    columns: int,
    config: KernelConfig,
    multiprocessors: int,
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
    total = int((cuts * steps).sum()) * columns
    longest = int(np.max(steps, initial=0))
    fair = -(-total // (multiprocessors * config.min_blocks))
    limit = max(fair, LEAST_STEPS)
    return limit if longest > WORTH * limit else 0
