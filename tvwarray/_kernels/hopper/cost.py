"""How long ``sm90_tvw_gemm`` and ``sm90_tvw_gemm8`` take, and what limits them.

A step is 64 slots of an item. Tensor cores, the way to shared memory that they share with the
gather, and the way from the L2 cache work side by side, so that the longest of them is the step;
behind the last one the sums are stored::

    tensor cores   2 x rows x columns x 64 / 8192 a clock
    sustained      the same / 5700 a clock
    shared memory  (A and X as wgmma reads them + X as it is gathered) / 128 a clock
    L2             bytes of the stage, of what a cluster shares its part / 46 a clock
    item  = steps x (longest + 0.05 x L2 if X is larger than the cache)
            + rows x columns x 2 / 17 a clock; of a tile that is cut see `cut`
    items = max(mean item x items of the busiest multiprocessor, longest item)
    time  = start + max(items + 0.15 x memory, memory)

wgmma reads all of A and X of its product from shared memory each time: X alone is 128 bytes a clock
at the full sparse rate, all that shared memory has. That is why the gather shows although it runs
beside. The rates were fitted to an H200 (4096^3 and 8192^3, 50 to 95 %, tiles of 64, 128 and 256
rows: see docs/hopper.md); the occupancy of shared memory that the profiler shows for the largest
block, 92 % of the clocks, is the model's. 8-bit values are turned on the way, which reads and
writes X once more, and their steps take 128 slots.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._kernels.balance import MOST_BLOCKS, unevenness
from tvwarray._kernels.cost import LAUNCH_SECONDS, Prediction, Problem, copy_seconds
from tvwarray._kernels.devices import Device
from tvwarray._kernels.hopper.config import SLAB_ROWS, STEP_SLOTS, HopperConfig
from tvwarray._kernels.hopper.config8 import ByteConfig
from tvwarray._kernels.hopper.cut import end_of, most_steps, pieces_of

HostArray = np.ndarray[Any, Any]

TENSOR_FLOPS: Final = 8192.0
"""Dense-equivalent operations a clock: half of them are multiplications by what is not stored."""
SUSTAINED_FLOPS: Final = 5700.0
"""What is left of them where nothing else limits, fitted to blocks that read X in boxes."""
SHARED_CLOCK_BYTES: Final = 128.0
SHARED_SHARE: Final = 0.965
"""Of its clocks, what shared memory is busy at most."""
L2_CLOCK_BYTES: Final = 46.0
"""Bytes a clock for each multiprocessor while all of them read: 10.6 TB/s in all."""
FAR_SHARE: Final = 0.05
"""Of the time of the bytes from L2, what shows on top where they are not all in it."""
CLUSTER_SECONDS: Final = 0.7e-6
"""What a launch in clusters takes longer."""
ALONE_CLOCK_BYTES: Final = 64.0
"""The same for one that reads alone."""
STORE_CLOCK_BYTES: Final = 17.0
"""Bytes of Y a clock: converting, turning around in shared memory, storing."""
SUM_CLOCKS: Final = 0.24
"""Clocks for each sum of 8-bit values, which pass shared memory as they are, 8 rows at a time."""
PASS_CLOCKS: Final = 1000.0
"""What writing or reading the sums of a piece takes at least: fences, the counter, the way."""
PASS_CLOCK_BYTES: Final = 2200.0
"""Bytes of such sums a clock, of all blocks together (H200, 4096x4096, n = 128 to 512)."""
LATENCY_CLOCKS: Final = 1500.0
"""From a stage's first copy to its hand-over."""
HAND_OVER_CLOCKS: Final = 110.0
"""Of a step of 8-bit values: the ring has fewer stages, and turning waits for what has landed."""
START_SECONDS: Final = LAUNCH_SECONDS + 2e-6
"""Launch, barriers, and the first stages from memory."""
EXPOSED_MEMORY: Final = 0.15
"""Of the time in which memory is crossed once, what products do not hide."""


class Budget(NamedTuple):
    """What a step takes of each resource of a multiprocessor."""

    tensor_clocks: float
    read_bytes: int
    """Bytes that wgmma reads from shared memory."""
    gathered_bytes: int
    """Bytes of X that the copying threads write to shared memory."""
    bulk_bytes: int
    """Bytes of A, and of X in boxes, that the copy engine writes there, past the threads' pipe."""
    l2_bytes: float
    """Bytes that a block has from L2: of what a cluster shares, its own part."""
    gather_instructions: int
    """``cp.async`` of a warp: 512 bytes each."""
    turned_bytes: int = 0
    """Bytes of X that threads read and write again, where k must be contiguous."""
    hand_over_clocks: float = 0.0
    """What shared memory is not busy from one stage to the next."""

    @property
    def clocks(self) -> dict[str, float]:
        """Clocks of a step by resource; the longest one is the step's."""
        pipe = (self.read_bytes + self.gathered_bytes + self.turned_bytes) / SHARED_CLOCK_BYTES
        return {
            "tensor cores": self.tensor_clocks,
            "sustained": self.tensor_clocks * TENSOR_FLOPS / SUSTAINED_FLOPS,
            "shared memory": pipe / SHARED_SHARE + self.hand_over_clocks,
            "L2": self.l2_bytes / L2_CLOCK_BYTES,
        }

    @property
    def limit(self) -> str:
        """The resource that a step waits for."""
        clocks = self.clocks
        return max(clocks, key=lambda name: clocks[name])


def budget(config: HopperConfig | ByteConfig) -> Budget:
    """Return what a step of a whole item takes."""
    outputs = config.block_rows * config.block_n
    products = config.multiply_warps // 4 * config.products
    a_bytes = SLAB_ROWS * 16 * 2  # stored values of 32 slots
    x_bytes = 32 * config.wg_n * 2
    # 8-bit values: twice the slots in as many bytes, at twice the rate.
    turns = isinstance(config, ByteConfig)
    a_stage, x_stage = config.a_stage_bytes, config.x_stage_bytes
    boxes = x_stage if config.boxes else 0
    shared = boxes or a_stage
    return Budget(
        2 * outputs * STEP_SLOTS / TENSOR_FLOPS,
        products * (a_bytes + x_bytes),
        x_stage - boxes,
        a_stage + boxes,
        a_stage + x_stage - shared * (1 - 1 / config.cluster),
        (x_stage - boxes) // 512,
        2 * x_stage if turns else 0,
        HAND_OVER_CLOCKS if turns else 0.0,
    )


def store_clocks(config: HopperConfig | ByteConfig) -> float:
    """Return how long storing an item takes."""
    outputs = config.block_rows * config.block_n
    if isinstance(config, ByteConfig):
        return outputs * SUM_CLOCKS
    return outputs * 2 / STORE_CLOCK_BYTES


def step_clocks(config: HopperConfig | ByteConfig) -> float:
    """Return how long a step takes while all blocks work."""
    return max(budget(config).clocks.values())


def store_steps(config: HopperConfig | ByteConfig) -> float:
    """Return how many steps storing an item takes."""
    return store_clocks(config) / step_clocks(config)


def pass_on_steps(config: HopperConfig | ByteConfig, at_once: int) -> float:
    """Return how many steps writing or reading the sums of a piece takes, if `at_once` do."""
    nbytes = config.block_rows * config.block_n * 4
    return (PASS_CLOCKS + nbytes * at_once / PASS_CLOCK_BYTES) / step_clocks(config)


def items_of(config: HopperConfig | ByteConfig, bricks: HostArray, columns: int) -> HostArray:
    """Return how many items tiles of so many bricks have, with `columns` blocks side by side.

    Those of a cluster are one.
    """
    slabs = -(-bricks * 16 // SLAB_ROWS)
    entries = -(-slabs // (config.block_rows // SLAB_ROWS))
    return np.asarray(entries * ceil(columns / config.wide))


def cut_of(
    config: HopperConfig | ByteConfig, bricks: HostArray, steps: HostArray, columns: int,
    multiprocessors: int,
) -> int:  # fmt: skip
    """Return of how many steps pieces of tiles may be at most, or 0 if none is to be cut."""
    if isinstance(config, ByteConfig) or not config.can_cut:
        return 0
    items, at_once = items_of(config, bricks, columns), multiprocessors // config.cluster
    pass_on = pass_on_steps(config, min(2 * int(items.sum()), at_once))
    return most_steps(items, steps, at_once, store_steps(config), pass_on)


def predict_hopper(
    config: HopperConfig | ByteConfig, problem: Problem, device: Device
) -> Prediction:
    """Return the modelled time by the kernel ``sm90_tvw_gemm`` or ``sm90_tvw_gemm8``."""
    clocks, limit = _items(config, problem, device)
    memory = problem.nbytes / device.dram_rate
    parts = {
        "launch": copy_seconds(problem, device)
        + START_SECONDS
        + (CLUSTER_SECONDS if config.cluster > 1 else 0.0),
        "memory": EXPOSED_MEMORY * memory,
        "blocks": clocks / device.clock,
    }
    if memory > parts["memory"] + parts["blocks"]:
        parts["memory"], limit = memory - parts["blocks"], "memory"
    return Prediction(sum(parts.values()), parts, limit)


def _items(
    config: HopperConfig | ByteConfig, problem: Problem, device: Device
) -> tuple[float, str]:
    """Return the clocks from the first item's start to the last one's end, and their limit."""
    columns, steps = ceil(problem.n / config.block_n), problem.steps
    items = items_of(config, problem.bricks, columns)
    blocks = items * config.wide
    limit_steps = cut_of(config, problem.bricks, steps, columns, device.multiprocessors)
    count = int((blocks * pieces_of(steps, limit_steps)).sum())
    count = -(-count // config.tall) * config.tall
    if count == 0:
        return 0.0, "launch"
    need = budget(config)
    paths = need.clocks
    # Few multiprocessors that read at once share the way from L2 with fewer others.
    busy = min(1.0, count / device.multiprocessors)
    paths["L2"] = max(busy * paths["L2"], paths["L2"] * L2_CLOCK_BYTES / ALONE_CLOCK_BYTES)
    arriving = config.stages - 1 if config.boxes else config.gather_groups
    paths["latency"] = LATENCY_CLOCKS / arriving
    limit = max(paths, key=lambda name: paths[name])
    clocks = paths[limit]
    if problem.shape[1] * problem.n * problem.dtype.itemsize > device.l2_bytes:
        clocks += FAR_SHARE * paths["L2"]
    store = store_clocks(config)
    if limit_steps:
        at_once = device.multiprocessors // config.cluster
        pass_on = pass_on_steps(config, min(count, at_once)) * step_clocks(config)
        in_steps = store / clocks, pass_on / clocks
        return clocks * end_of(items, steps, limit_steps, at_once, *in_steps), limit
    mean = float((blocks * problem.steps).sum()) / int(blocks.sum()) * clocks
    if store > mean:
        limit = "stores"
    mean += store
    longest = float(np.max(problem.steps)) * clocks + LATENCY_CLOCKS + store
    together = ceil(count / device.multiprocessors) * mean
    if count <= MOST_BLOCKS:
        costs = np.sort(np.repeat(problem.steps * clocks + store, blocks))[::-1]
        together *= unevenness(costs, device.multiprocessors)
    return (longest, "one tile") if longest > together else (together, limit)
