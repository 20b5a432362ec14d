"""How long products of any form take on a GPU: the kernels' model, and bounds for the others."""

from __future__ import annotations

from math import inf
from typing import Final

import numpy as np

from tvwarray._costs.cpu import Way
from tvwarray._costs.work import Work
from tvwarray._dtypes import DType
from tvwarray._kernels.config import BRICK_ROWS, STEP_SLOTS
from tvwarray._kernels.cost import DENSE_SHARE, LAUNCH_SECONDS, RATES, Problem, predict_dense
from tvwarray._kernels.devices import Device, generation
from tvwarray._kernels.select import choose
from tvwarray._storage import HostArray

_TENSOR_SIDE: Final = 16
"""Tensor cores multiply smaller blocks as blocks of this side."""


def gpu_seconds(
    work: Work,
    heights: HostArray,
    widths: HostArray,
    n: int,
    dtype: DType,
    device: Device,
    *,
    sparse: bool,
) -> dict[Way, float]:
    """Return predicted seconds of each way.

    Parameters
    ----------
    work : Work
    heights, widths : int64 arrays, shape (tiles,)
        Rows and slots of each tile.
    n : int
        Right-hand sides.
    dtype : dtype
        float16 or bfloat16.
    device : Device
    sparse : bool
        Whether the tiles are 2:4.

    Returns
    -------
    dict
        "tvw" by the kernels' model; "dense" as cuBLAS; "csr" and "bsr" at best: A crosses the
        memory once, and each nonzero, or block of rows, fetches its part of X from the L2 cache.
    """
    rows, cols = work.shape
    size = dtype.itemsize
    zero_rows = rows - int(heights.sum())
    bricks = -(-np.append(heights, zero_rows) // BRICK_ROWS)
    steps = -(-np.append(widths, 0) // STEP_SLOTS)
    every_column = bool((widths >= cols).all())
    problem = Problem(dtype, sparse, work.shape, bricks, steps, n, every_column=every_column)
    choice = choose(problem, device)
    rates = RATES[generation(device.architecture)]
    cache = rates.l2_bytes * device.multiprocessors * device.clock
    operands = (min(cols, work.slots) + rows) * n * size
    elements = work.blocks * work.block**2

    def bound(stored: float, fetched: float, products: float) -> float:
        flops = DENSE_SHARE * rates.dense_flops * device.multiprocessors * device.clock
        crossed = (stored + operands) / device.dram_rate
        return LAUNCH_SECONDS + max(crossed, fetched / cache, products / flops)

    found: dict[Way, float] = {
        "csr": bound(work.nnz * (size + 4) + 4 * rows, work.nnz * n * size, 0),
        "dense": predict_dense(work.shape, n, size, device),
    }
    if work.block > 1:
        fetched = work.blocks * work.block * n * size
        multiplied = work.blocks * max(work.block, _TENSOR_SIDE) ** 2
        found["bsr"] = bound(elements * size + 4 * work.blocks, fetched, 2 * multiplied * n)
    best = choice.candidates[0].prediction if choice.candidates else None
    found["tvw"] = inf if best is None else best.seconds
    return found
