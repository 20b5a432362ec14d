"""How long ``sm90_tvw_gemm`` and ``sm90_tvw_gemm8`` take, and what limits them.

A step is 64 slots of an item. Tensor cores, the way to shared memory that they share with the
gather, and the way from the L2 cache work side by side, so that the longest of them is the step;
behind the last one the sums are stored::

    tensor cores   2 x rows x columns x 64 / 8192 a clock
    sustained      the same / 5700 a clock
    shared memory  (A and X as wgmma reads them + X as it is gathered) / 128 a clock
    L2             bytes of the stage, of what a cluster shares its part / 46 a clock
    item  = steps x (longest + 0.05 x L2 if X is larger than the cache)
            + rows x columns x 2 / 17 a clock
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
from typing import Final, NamedTuple

import numpy as np

from tvwarray._kernels.balance import MOST_BLOCKS, unevenness
from tvwarray._kernels.cost import LAUNCH_SECONDS, Prediction, Problem, copy_seconds
from tvwarray._kernels.devices import Device
from tvwarray._kernels.hopper.config import SLAB_ROWS, STEP_SLOTS, HopperConfig
from tvwarray._kernels.hopper.config8 import ByteConfig

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


def store_steps(config: HopperConfig) -> float:
    """Return how many steps storing an item takes."""
    store = config.block_rows * config.block_n * 2 / STORE_CLOCK_BYTES
    return store / max(budget(config).clocks.values())


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
    slabs = -(-problem.bricks * 16 // SLAB_ROWS)
    tall, wide = (config.cluster, 1) if config.boxes else (1, config.cluster)
    entries = -(-slabs // (config.block_rows // SLAB_ROWS))
    blocks = entries * ceil(problem.n / (config.block_n * wide)) * wide
    count = -(-int(blocks.sum()) // tall) * tall
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
    turns = isinstance(config, ByteConfig)
    if problem.shape[1] * problem.n * (1 if turns else 2) > device.l2_bytes:
        clocks += FAR_SHARE * paths["L2"]
    outputs = config.block_rows * config.block_n
    store = outputs * SUM_CLOCKS if turns else outputs * 2 / STORE_CLOCK_BYTES
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
