"""How long a kernel takes: a problem, a config and a GPU in, seconds and what they go to out.

A step is 64 slots of a tile. Its products and the two paths that feed them overlap in part only,
the more the more blocks a multiprocessor runs at once; memory is crossed once by X, A and Y::

    feed   = max(stage bytes / L2 rate, bytes through shared memory / 128 a clock)
    step   = max(products x clocks + exposed x feed, latency / (stages under way x blocks))
    block  = steps x step + start and end
    blocks = max(mean block x blocks of the busiest multiprocessor, longest block)
    time   = launch + memory + blocks

The rates of sm_90 and the shares were fitted to an H200 (4096^3, tiles of 64, 128 and 256 rows, 50
to 95 %: within 8 %); the other generations' rates follow from published peaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import DType, product_dtype
from tvwarray._kernels.balance import WORTH, lengths, most_steps, unevenness
from tvwarray._kernels.config import (
    BRICK_ROWS,
    FEW_PIECE_STEPS,
    FEW_WARPS,
    FewConfig,
    KernelConfig,
    VectorConfig,
    brick_meta_bytes,
    brick_value_bytes,
    step_slots,
)
from tvwarray._kernels.devices import RESERVED_SHARED, Device, generation
from tvwarray._kernels.elements import Form, form_of

HostArray = np.ndarray[Any, Any]


class Rates(NamedTuple):
    """Speeds of a generation, for one multiprocessor."""

    sparse_clocks: float
    """Clocks of an m16n8k32 ``mma.sp`` of 16-bit values."""
    dense_clocks: float
    """Clocks of an m16n8k16 ``mma`` of 16-bit values."""
    l2_bytes: float
    """Bytes a clock from the L2 cache."""
    dense_flops: float
    """Floating-point operations a clock of the fastest dense 16-bit product."""


RATES: Final = {
    "80": Rates(2.0, 2.0, 40.0, 2048.0),
    "86": Rates(8.0, 8.0, 20.0, 512.0),
    "89": Rates(8.0, 8.0, 20.0, 512.0),
    "90": Rates(2.0, 1.45, 44.0, 4096.0),
    "100": Rates(4.0, 4.0, 44.0, 8192.0),
    "120": Rates(8.0, 8.0, 20.0, 512.0),
}

SHARED_CLOCK_BYTES: Final = 128.0
EXPOSED_ALONE: Final = 0.59
"""Of the time that feeding the tensor cores takes, what one block's products do not hide."""
EXPOSED_BESIDE: Final = 0.46
"""The same where two blocks or more share a multiprocessor."""
LATENCY_CLOCKS: Final = 900.0
"""From the start of a stage's copies to their arrival, under load."""
BLOCK_CLOCKS: Final = 2500.0
"""What a block takes beside its steps: the first stages, and storing its part of Y."""
PERSISTENT_CLOCKS: Final = 800.0
"""Of it, what a block that takes one item after another hides of every item behind its first."""
PERSISTENT_STEP: Final = 1.015
"""What its steps take longer: its loop holds more in registers."""
PERSISTENT_PIECES: Final = 1.08
"""What it loses where tiles are in pieces: these go to who is free, which no list foresees.

All three on an H200, 4096x4096: 1 to 8 % faster at 95 %, 3 % slower to 3 % faster at 75 %; in
pieces 10 % slower to 1 % faster."""
LAUNCH_SECONDS: Final = 3e-6
START_CLOCKS: Final = 3500.0
"""What blocks take before their first product, where no others hide it: trips to memory for work,
columns and X, one after the other (H200, 4096x4096 and 768x3072 at 95 %, n = 16 to 64)."""
JOIN_SECONDS: Final = 6e-6
"""What tiles in pieces take more: clearing the counters, and sums that go through memory (H200,
4096x4096 at 75 %, n = 16 to 512: 6 to 12 us)."""

SECTOR_BYTES: Final = 32
"""What memory writes of a single element."""


class FewRates(NamedTuple):
    """What a kernel for few columns takes, in seconds and shares; fitted to an H200.

    ``sm80_tvw_few``: 38 times of 0.3 to 38 MB, n = 8 to 64, blocks of 16 and 32 rows, within 8 %.
    ``sm80_tvw_vector``: 12 times, within 6 %.
    """

    start: float
    """Beside the launch: trips to memory one after the other."""
    round: float
    """Of every round of blocks."""
    finish: float
    """Of it, adding up and storing 1024 elements of a block."""
    turn: float
    """Of it, each time that all warps of a block have had a step."""
    elements: float
    """The same, more, where eight columns of X are read one by one."""
    memory: float
    """Times that the bytes take at the rate of the memory."""
    gather: float
    """Times that a block's rows of X take at the rate of L2."""


FEW_RATES: Final = FewRates(1.1e-6, 0.8e-6, 0.8e-6, 0.29e-6, 0.4e-6, 1.14, 0.55)
VECTOR_RATES: Final = FewRates(2.4e-6, 0.0, 0.39e-6, 0.05e-6, 0.0, 1.31, 0.0)

DENSE_SHARE: Final = 0.84
"""Of its peak, what cuBLAS sustains on whole waves (H200, random data)."""
DENSE_LAUNCH_SECONDS: Final = 5e-6
DENSE_BLOCKS: Final = ((128, 256), (128, 128), (64, 64))
DENSE_MEMORY_SHARE: Final = 0.55
"""Of the memory's rate, what cuBLAS reaches with few right-hand sides (n = 1 on the H200)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The product to run: tiles of A by their packed sizes, and the columns of X."""

    dtype: DType
    sparse: bool
    shape: tuple[int, int]
    """Rows and columns of A."""
    bricks: HostArray
    """int64 (tiles,): 16-row bricks of each tile in height."""
    steps: HostArray
    """int64 (tiles,): steps of 64 slots of each tile, 0 for rows that are zero."""
    n: int
    way: Form | None = None
    """How the values are multiplied, if not as they are."""
    every_column: bool = False
    """Whether each tile that has columns has all of them in order, as plain 2:4 does."""

    neighbours: float = 0.0
    """Of the rows, how many stand in runs of 8 that are neighbours in the product, too."""

    @property
    def form(self) -> Form:
        """How the values are multiplied."""
        form = self.way or form_of(self.dtype)
        assert form is not None, "refusal() was not asked"
        return form

    @property
    def nbytes(self) -> int:
        """Bytes of A as packed, of X's rows that are read, and of Y: they cross the memory once."""
        size, out_size = self.dtype.itemsize, product_dtype(self.dtype, self.dtype).itemsize
        element, slots = self.form.element, step_slots(self.form.element)
        brick = self.form.parts * brick_value_bytes(element, self.sparse)
        brick += brick_meta_bytes(element, self.sparse)
        values = int((self.bricks * self.steps).sum()) * brick
        read = min(self.shape[1], int(self.steps.sum()) * slots)
        return values + (self.shape[0] * out_size + read * size) * self.n


class Prediction(NamedTuple):
    """A modelled time, and what it goes to."""

    seconds: float
    parts: dict[str, float]
    """Seconds of "launch", "memory" and "blocks", which add up."""
    limit: str
    """What keeps the blocks busy: "tensor cores", "L2", "shared memory", "latency", "one tile"."""

    def behind(self, name: str, seconds: float) -> Prediction:
        """Return the same with something that is done first."""
        return Prediction(self.seconds + seconds, {name: seconds, **self.parts}, self.limit)

    def before(self, name: str, seconds: float) -> Prediction:
        """Return the same with something that is done afterwards."""
        return Prediction(self.seconds + seconds, {**self.parts, name: seconds}, self.limit)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {1e6 * s:.3g}" for name, s in self.parts.items())
        return f"{1e6 * self.seconds:.3g} us ({parts}; limited by {self.limit})"


def copy_seconds(problem: Problem, device: Device) -> float:
    """Return the modelled seconds of bringing X into whole 16-byte chunks, or into parts."""
    row, parts = problem.n * problem.dtype.itemsize, problem.form.parts
    if parts > 1:
        of_parts = 2 * parts * problem.n
        return LAUNCH_SECONDS + problem.shape[1] * (row + of_parts) / device.dram_rate
    if row % 16 == 0:
        return 0.0
    return 2 * LAUNCH_SECONDS + 2 * problem.shape[1] * row / device.dram_rate


def predict(config: KernelConfig, problem: Problem, device: Device) -> Prediction:
    """Return the modelled time of a problem by the kernel ``sm80_tvw_gemm``."""
    clocks, limit = _blocks(config, problem, device)
    columns = ceil(problem.n / config.block_n)
    cut = most_steps(problem.bricks, problem.steps, columns, config, device.multiprocessors)
    parts = {
        "launch": LAUNCH_SECONDS + (JOIN_SECONDS if cut else 0.0) + copy_seconds(problem, device),
        "memory": problem.nbytes / device.dram_rate,
        "blocks": clocks / device.clock,
    }
    if parts["memory"] > parts["blocks"]:
        limit = "memory"
    return Prediction(sum(parts.values()), parts, limit)


def predict_few(config: FewConfig, problem: Problem, device: Device) -> Prediction:
    """Return the modelled time of a problem by ``sm80_tvw_few`` or ``sm80_tvw_vector``."""
    rates = VECTOR_RATES if isinstance(config, VectorConfig) else FEW_RATES
    whole = -(-problem.bricks // (config.block_rows // BRICK_ROWS))
    count = max(1, int(whole.sum()))
    room = device.shared_per_multiprocessor // (config.shared_bytes + RESERVED_SHARED)
    resident = min(config.min_blocks, max(1, room), ceil(count / device.multiprocessors))
    rounds = ceil(count / (resident * device.multiprocessors))
    mean = float((whole * problem.steps).sum()) / count
    longest = float(np.max(problem.steps, initial=0))
    turns = rounds * max(mean, min(longest, 2.0 * FEW_PIECE_STEPS) / rounds) / FEW_WARPS
    by_element = not config.copied and problem.n % config.block_n != 0
    l2_rate = RATES[generation(device.architecture)].l2_bytes * device.clock
    blocks = (
        rounds * rates.round
        + rounds * rates.finish * config.block_rows * config.block_n / 1024
        + turns * (rates.turn + by_element * rates.elements * config.block_n / 8)
        + rates.gather * rounds * resident * mean * config.x_stage_bytes / l2_rate
    )
    parts = {
        "launch": LAUNCH_SECONDS + (copy_seconds(problem, device) if config.copied else 0.0),
        "memory": rates.memory * problem.nbytes / device.dram_rate,
        "blocks": blocks + rates.start,
    }
    return Prediction(sum(parts.values()), parts, "memory" if parts["memory"] > blocks else "L2")


def predict_dense(shape: tuple[int, int], n: int, itemsize: int, device: Device) -> float:
    """Return the modelled seconds of the dense product, for values of `itemsize` bytes, at most 2.

    Sources: cuBLAS on an H200, 1024^3 to 8192^3 within 10 %, and n = 1.
    """
    (rows, cols), peak = shape, RATES[generation(device.architecture)].dense_flops
    per_clock = DENSE_SHARE * peak * device.clock * 2 / max(itemsize, 2)
    products = min(
        ceil(ceil(rows / m) * ceil(n / k) / device.multiprocessors) * 2 * m * k * cols / per_clock
        for m, k in DENSE_BLOCKS
    )
    nbytes = (rows * cols + (rows + cols) * n) * itemsize
    share = DENSE_MEMORY_SHARE if n < DENSE_BLOCKS[-1][1] else 1.0
    return DENSE_LAUNCH_SECONDS + max(products, nbytes / (share * device.dram_rate))


def predict_transpose(rows: int, n: int, itemsize: int, device: Device) -> float:
    """Return the modelled seconds of bringing a column-major X, (rows, n), into rows."""
    return LAUNCH_SECONDS + 2 * rows * n * itemsize / device.dram_rate


def predict_columns(problem: Problem, itemsize: int, device: Device) -> float:
    """Return the modelled seconds that storing columns of Y takes more than storing rows.

    Results of 16 bits go through shared memory as float32, which takes about as long as writing
    them. Rows that are no neighbours in Y are elements of their own: two sectors of memory each.
    Source: an H200, 4096 rows, n = 512 and 4096.
    """
    elements = problem.shape[0] * problem.n
    staged = elements * itemsize if itemsize == 2 else 0
    scattered = (1.0 - problem.neighbours) * elements * 2 * SECTOR_BYTES
    return (staged + scattered) / device.dram_rate


def predict_remainder(
    entries: int, shape: tuple[int, int], n: int, itemsize: int, device: Device
) -> float:
    """Return the modelled seconds of adding the product of a CSR remainder, in float32.

    Every entry reads a row of X at the rate of the memory, as cuSPARSE's product was measured to
    on an H200 (4096^3, 50 to 95 %); X is cast for it, and the sums are read and written.
    """
    if not entries:
        return 0.0
    (rows, cols), wide = shape, 4
    nbytes = entries * n * wide + cols * n * (itemsize + wide) + 3 * rows * n * wide
    return 2 * LAUNCH_SECONDS + nbytes / device.dram_rate


def _blocks(config: KernelConfig, problem: Problem, device: Device) -> tuple[float, str]:
    """Return the clocks from the first block's start to the last one's end, and their limit."""
    columns = ceil(problem.n / config.block_n)
    tiles, height = (problem.bricks, problem.steps), config.block_rows // BRICK_ROWS
    limit_steps = most_steps(*tiles, columns, config, device.multiprocessors)
    pieces = np.maximum(1, -(-problem.steps // limit_steps)) if limit_steps else 1
    whole = -(-problem.bricks // height) * columns
    blocks = whole * pieces
    count = int(blocks.sum())
    if count == 0:
        return 0.0, "launch"
    busiest = ceil(count / device.multiprocessors)
    # Blocks on one multiprocessor share its rates, and hide each other's latencies and ends.
    resident = min(config.min_blocks, busiest)
    latency = LATENCY_CLOCKS / (config.stages - 1)
    busy, limit = _step(config, resident, RATES[generation(device.architecture)])
    at_once = config.min_blocks * device.multiprocessors
    beside = BLOCK_CLOCKS
    if config.persistent:
        busy *= PERSISTENT_STEP
        beside -= PERSISTENT_CLOCKS * max(0.0, 1.0 - at_once / count)
    steps = problem.steps / pieces
    mean = float((blocks * steps).sum()) / count * max(busy, latency / resident)
    start = START_CLOCKS if busiest <= resident else 0.0
    longest = float(np.max(steps)) * max(busy, latency) + BLOCK_CLOCKS + start
    uneven = unevenness(lengths(whole, problem.steps, limit_steps), at_once)
    together = busiest * (mean * uneven + beside / resident) + start
    if config.persistent and limit_steps:
        together *= PERSISTENT_PIECES
    if longest > together:
        return longest, "one tile"
    if uneven > WORTH:
        return together, "one tile"
    return together, limit if busy > latency / resident else "latency"


def _step(config: KernelConfig, resident: int, rates: Rates) -> tuple[float, str]:
    """Return the clocks of a step for its multiprocessor, and what takes the most of them."""
    # Instructions of all elements read operands of equal size and take equally long, but those of
    # float64, m8n8k4: 256 multiply-adds at a sixteenth of float16's rate.
    clocks = rates.sparse_clocks if config.sparse else rates.dense_clocks
    if config.element == "float64":
        clocks = 2 * rates.dense_clocks
    read = config.warps * (
        config.a_stage_bytes * config.warp_rows // config.block_rows
        + config.x_stage_bytes * config.warp_n // config.block_n
    )
    paths = {
        "tensor cores": config.warps * config.products * clocks,
        "L2": config.stage_bytes / rates.l2_bytes,
        "shared memory": (read + config.stage_bytes) / SHARED_CLOCK_BYTES,
    }
    feed = max(paths["L2"], paths["shared memory"])
    exposed = EXPOSED_ALONE if resident == 1 else EXPOSED_BESIDE
    return paths["tensor cores"] + exposed * feed, max(paths, key=lambda name: paths[name])
