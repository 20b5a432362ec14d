"""`KernelConfig`: every constant that a kernel's source leaves open, as data.

A config is written into a header, ``config.cuh``, that the sources include; each field is one
``constexpr`` of the same name. It can be printed, compared, hashed and refused with a reason, and
it knows what it costs: threads, shared memory, and the instructions a stage takes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

STEP_SLOTS: Final = 64
"""Slots of a stage: what one word of metadata covers."""

BRICK_ROWS: Final = 16
"""Rows of a tensor-core instruction; the unit in which tiles are packed."""

ARCHITECTURES: Final = ("80", "86", "89", "90", "90a", "100", "120")
"""What the kernels are compiled for in the tests; other minor versions of these compile too."""

REGISTERS_PER_MULTIPROCESSOR: Final = 65536


@dataclass(frozen=True)
class KernelConfig:
    """The constants of one kernel.

    The fields other than `kernel` are the ``constexpr`` values of ``config.cuh``.
    """

    kernel: str
    """The source file, and the name of the kernel in it."""
    bfloat16: bool
    """Values and X are bfloat16, else float16."""
    sparse: bool
    """Pattern (2, 4) through ``mma.sp``, else all slots stored, through ``mma``."""
    block_rows: int
    """Rows of a tile that one block computes at most."""
    block_n: int
    """Columns of X that one block computes."""
    warp_rows: int
    """Rows of the block that one warp computes."""
    warp_n: int
    """Columns of the block that one warp computes."""
    stages: int
    """Stages of 64 slots in the ring in shared memory: one is read, the others arrive."""
    min_blocks: int
    """Blocks a multiprocessor must have registers for."""

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return (self.block_rows // self.warp_rows) * (self.block_n // self.warp_n)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def x_stage_bytes(self) -> int:
        """Bytes of X in a stage."""
        return STEP_SLOTS * self.block_n * 2

    @property
    def a_stage_bytes(self) -> int:
        """Bytes of values and metadata in a stage."""
        per_row = STEP_SLOTS + STEP_SLOTS // 8 if self.sparse else 2 * STEP_SLOTS
        return self.block_rows * per_row

    @property
    def stage_bytes(self) -> int:
        """Bytes of one stage."""
        return self.x_stage_bytes + self.a_stage_bytes

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes

    @property
    def max_registers(self) -> int:
        """Registers a thread may have, by `threads`, `min_blocks` and the instruction format."""
        return min(255, REGISTERS_PER_MULTIPROCESSOR // (self.threads * self.min_blocks) // 8 * 8)

    @property
    def products(self) -> int:
        """Tensor-core instructions that the loop body of one warp holds."""
        slots = 32 if self.sparse else 16
        return (self.warp_rows // 16) * (self.warp_n // 8) * (STEP_SLOTS // slots)

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.block_rows % self.warp_rows or self.block_n % self.warp_n:
            return f"warps of {self.warp_rows} x {self.warp_n} do not tile the block"
        if self.warp_rows % BRICK_ROWS or self.warp_n % 16:
            return "a warp computes multiples of 16 rows and of 16 columns"
        if self.block_n not in (32, 64, 128, 256):
            return f"block_n is {self.block_n}; a row of a stage is 4, 8, 16 or 32 chunks"
        rows_at_once = 32 // (self.block_n // 8) * self.warps
        if rows_at_once % 8 or STEP_SLOTS % rows_at_once:
            return f"the block gathers {rows_at_once} rows at once; it must be 8, 16, 32 or 64"
        if self.stages < 2:
            return "stages is below 2; one is read while another arrives"
        if self.block_rows * self.block_n * 2 > self.shared_bytes:
            return "the result does not fit into the ring through which it is stored"
        return ""

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`."""
        return architecture

    def headers(self) -> dict[str, str]:
        """Return the texts of the headers that are made from the config, by name."""
        return {"config.cuh": self.header()}

    def header(self) -> str:
        """Return the text of ``config.cuh``."""
        lines = ["#pragma once", "namespace config {"]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "kernel":
                continue
            kind = "bool" if isinstance(value, bool) else "int"
            lines.append(f"constexpr {kind} {field.name} = {str(value).lower()};")
        return "\n".join([*lines, "}  // namespace config", ""])

    def __str__(self) -> str:
        """Return a line such as ``sm80_tvw_gemm float16 2:4 128x256, warps 64x64, 4 stages``."""
        return (
            f"{self.kernel} {'bfloat16' if self.bfloat16 else 'float16'} "
            f"{'2:4' if self.sparse else 'all slots'} {self.block_rows}x{self.block_n}, "
            f"warps {self.warp_rows}x{self.warp_n}, {self.stages} stages"
        )
