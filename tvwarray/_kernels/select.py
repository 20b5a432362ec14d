"""Which `KernelConfig` a product runs: a problem and a device in, ranked candidates out.

`choose` is data to data. Every candidate is either refused with a reason or given a modelled time
in clock cycles, and the result prints as the table of both. The model has the rates of the chip's
generation for the tensor cores, the path from the L2 cache, and shared memory. Measured on an
H200, the products of a step hide about a quarter of the slower of the two paths that feed them::

    feed  = max(stage bytes / L2 rate, shared bytes / 128)
    step  = max(products x clocks + 0.72 x feed, latency / (stages under way x blocks))
    block = steps x step + start and end
    time  = max(mean block x blocks of the busiest multiprocessor, longest block)

Only differences between candidates matter; measured times may replace the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import BFLOAT16, FLOAT16, DType
from tvwarray._kernels.config import BRICK_ROWS, STEP_SLOTS, KernelConfig

HostArray = np.ndarray[Any, Any]

RESERVED_SHARED: Final = 1024
"""Bytes of shared memory that the system takes of every block."""


@dataclass(frozen=True)
class Device:
    """What the choice of a kernel depends on."""

    architecture: str
    multiprocessors: int
    shared_per_block: int
    """Bytes that one block may have at most."""
    shared_per_multiprocessor: int
    l2_bytes: int


class Rates(NamedTuple):
    """Speeds of a generation, for one multiprocessor."""

    sparse_clocks: float
    """Clocks of an m16n8k32 ``mma.sp`` of 16-bit values."""
    dense_clocks: float
    """Clocks of an m16n8k16 ``mma`` of 16-bit values."""
    l2_bytes: float
    """Bytes a clock from the L2 cache."""


RATES: Final = {
    "80": Rates(2.0, 2.0, 40.0),
    "86": Rates(8.0, 8.0, 20.0),
    "89": Rates(8.0, 8.0, 20.0),
    "90": Rates(2.0, 1.45, 44.0),
    "100": Rates(4.0, 4.0, 44.0),
    "120": Rates(8.0, 8.0, 20.0),
}
"""Of "90" measured (H200); the others follow from published peaks and rank the same candidates."""

SHARED_CLOCK_BYTES: Final = 128.0
EXPOSED: Final = 0.72
"""Of the time that feeding the tensor cores takes, what their own time does not hide."""
LATENCY_CLOCKS: Final = 900.0
"""From the start of a stage's copies to their arrival, under load."""
BLOCK_CLOCKS: Final = 2500.0
"""What a block takes beside its steps: the first stages, and storing its part of Y."""


class Shape(NamedTuple):
    """A candidate before the stages are known, which depend on the chip."""

    block_rows: int
    block_n: int
    warp_rows: int
    warp_n: int
    blocks: int
    """Blocks to aim for on a multiprocessor with room for them."""
    stages: int
    """Stages to aim for."""


SPARSE_SHAPES: Final = (
    Shape(128, 256, 64, 64, 1, 4),
    Shape(256, 128, 64, 64, 1, 4),
    Shape(128, 128, 64, 64, 2, 4),
    Shape(64, 128, 64, 32, 2, 4),
    Shape(64, 64, 32, 32, 3, 4),
    Shape(32, 128, 32, 32, 3, 4),
    Shape(16, 128, 16, 32, 4, 4),
    Shape(32, 32, 16, 16, 6, 4),
)
"""In order of preference where the model sees no difference."""

DENSE_SHAPES: Final = (
    Shape(128, 128, 64, 32, 1, 4),
    Shape(64, 128, 64, 32, 2, 4),
    Shape(64, 64, 32, 32, 3, 4),
    Shape(32, 128, 32, 32, 3, 4),
    Shape(16, 128, 16, 32, 4, 4),
    Shape(32, 32, 16, 16, 6, 4),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """The product to run: tiles of A by their packed sizes, and the columns of X."""

    dtype: DType
    sparse: bool
    bricks: HostArray
    """int64 (tiles,): 16-row bricks of each tile in height."""
    steps: HostArray
    """int64 (tiles,): steps of 64 slots of each tile, 0 for rows that are zero."""
    n: int


class Candidate(NamedTuple):
    """A config and what was found about it."""

    config: KernelConfig
    clocks: float
    """Modelled time; infinite if refused."""
    refusal: str


@dataclass(frozen=True)
class Choice:
    """The candidates, best first, refused ones last."""

    candidates: tuple[Candidate, ...]

    @property
    def config(self) -> KernelConfig | None:
        """The best candidate that is not refused, or None."""
        best = self.candidates[0] if self.candidates else None
        return best.config if best and not best.refusal else None

    def __str__(self) -> str:
        """Return a line for each candidate."""
        return "\n".join(
            f"{c.config}: {c.refusal or f'{c.clocks:.3g} clocks'}" for c in self.candidates
        )


def configs(architecture: str, dtype: DType, sparse: bool) -> tuple[KernelConfig, ...]:
    """Return the configs that are shipped for an architecture, in order of preference."""
    per_block, per_multiprocessor = SHARED_LIMITS[generation(architecture)]
    found = []
    for shape in SPARSE_SHAPES if sparse else DENSE_SHAPES:
        for blocks, stages in _fallbacks(shape):
            config = KernelConfig(
                kernel="sm80_tvw_gemm", bfloat16=dtype == BFLOAT16, sparse=sparse,
                block_rows=shape.block_rows, block_n=shape.block_n,
                warp_rows=shape.warp_rows, warp_n=shape.warp_n,
                stages=stages, min_blocks=blocks,
            )  # fmt: skip
            total = blocks * (config.shared_bytes + RESERVED_SHARED)
            if config.shared_bytes <= per_block and total <= per_multiprocessor:
                found.append(config)
                break
    return tuple(found)


SHARED_LIMITS: Final = {
    "80": (163 << 10, 164 << 10),
    "86": (99 << 10, 100 << 10),
    "89": (99 << 10, 100 << 10),
    "90": (227 << 10, 228 << 10),
    "100": (227 << 10, 228 << 10),
    "120": (99 << 10, 100 << 10),
}
"""Shared memory that one block may have, and that a multiprocessor has, in bytes."""


def generation(architecture: str) -> str:
    """Return the entry of `RATES` and `SHARED_LIMITS` that an architecture belongs to.

    Raises
    ------
    KeyError
        If the architecture has no ``mma.sp``.
    """
    number = architecture.rstrip("af")
    if number in RATES:
        return number
    if number == "87":  # the embedded part of sm_80's generation
        return "80"
    major = f"{number[:-1]}0"
    if int(number) < 80:
        raise KeyError(f"sm_{architecture} has no mma.sp; it came with sm_80")
    return major if major in RATES else "120"


def choose(problem: Problem, device: Device) -> Choice:
    """Rank the shipped configs for a problem on a device."""
    candidates = [
        _judge(config, problem, device)
        for config in configs(device.architecture, problem.dtype, problem.sparse)
    ]
    return Choice(tuple(sorted(candidates, key=lambda c: c.clocks)))


def _fallbacks(shape: Shape) -> list[tuple[int, int]]:
    """Return blocks and stages to try: fewer stages first, then fewer blocks."""
    return [
        (blocks, stages)
        for blocks in range(shape.blocks, 0, -1)
        for stages in range(shape.stages, 2 if blocks > 1 else 1, -1)
    ]


def _judge(config: KernelConfig, problem: Problem, device: Device) -> Candidate:
    refusal = config.refusal()
    if not refusal and config.shared_bytes > device.shared_per_block:
        refusal = (
            f"needs {config.shared_bytes} bytes of shared memory, the device allows a block "
            f"{device.shared_per_block}"
        )
    if problem.dtype not in (FLOAT16, BFLOAT16):
        refusal = f"needs float16 or bfloat16, got {problem.dtype.name}"
    return Candidate(config, np.inf if refusal else _clocks(config, problem, device), refusal)


def _clocks(config: KernelConfig, problem: Problem, device: Device) -> float:
    rates = RATES[generation(device.architecture)]
    height = config.block_rows // BRICK_ROWS
    blocks = -(-problem.bricks // height) * -(-problem.n // config.block_n)
    count = int(blocks.sum())
    if count == 0:
        return 0.0
    busiest = -(-count // device.multiprocessors)
    # Blocks on one multiprocessor share its rates, and hide each other's latencies and ends.
    resident = min(config.min_blocks, busiest)
    latency = LATENCY_CLOCKS / (config.stages - 1)
    step = _step_clocks(config, rates)
    mean = float((blocks * problem.steps).sum()) / count * max(step, latency / resident)
    longest = float(np.max(problem.steps)) * max(step, latency)
    return max(busiest * (mean + BLOCK_CLOCKS / resident), longest + BLOCK_CLOCKS)


def _step_clocks(config: KernelConfig, rates: Rates) -> float:
    product = rates.sparse_clocks if config.sparse else rates.dense_clocks
    values = config.warp_rows * STEP_SLOTS * (1 if config.sparse else 2)
    read = config.warps * (values + config.warp_n * STEP_SLOTS * 2)
    through_shared = (read + config.stage_bytes) / SHARED_CLOCK_BYTES
    feed = max(config.stage_bytes / rates.l2_bytes, through_shared)
    return config.warps * config.products * product + EXPOSED * feed
