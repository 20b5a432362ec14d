"""`HopperConfig`: every constant that ``sm90_tvw_gemm`` leaves open, as data.

A config is written into ``config.cuh`` and ``wgmma.cuh``, which the sources include; each field is
one ``constexpr`` of the same name. It says what it costs and which rule of the chip it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from tvwarray._dtypes import BFLOAT16, FLOAT16, DType
from tvwarray._kernels.config import config_header
from tvwarray._kernels.hopper.instructions import wgmma_header
from tvwarray._kernels.hopper.roles import RoleConfig

STEP_SLOTS: Final = 64
"""Slots of a stage: what one word of metadata covers."""

SLAB_ROWS: Final = 64
"""Rows of a wgmma; the unit in which tiles are packed."""

SLAB_BYTES: Final = SLAB_ROWS * STEP_SLOTS + 4 * 128
"""16-bit values of half the slots, and a word of metadata for each thread of a warpgroup."""

_BESIDE_SUMS: Final = 27
"""Registers that the assembler wants at a wgmma beside its sums, when the kernel starts."""

_SHARED_BYTES: Final = 227 << 10


Activation = Literal["none", "relu", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True)
class HopperConfig(RoleConfig):
    """The constants of one kernel.

    The fields other than `kernel` are the ``constexpr`` values of ``config.cuh``.
    """

    bfloat16: bool
    """Values and X are bfloat16, else float16."""
    block_rows: int
    """Rows of a tile that one item covers at most."""
    block_n: int
    """Columns of X that one item covers."""
    wg_rows: int
    """Rows of the item that one warpgroup computes, in pieces of 64."""
    wg_n: int
    """Columns of the item that one warpgroup computes: the width of its instruction."""
    stages: int
    """Stages of 64 slots in the ring: one or two are read, the others arrive."""
    gather_warps: int
    """Warps of a group that copies a stage."""
    gather_groups: int
    """Such groups, which take turns: as many stages arrive at once."""
    multiply_registers: int
    """Registers of a thread that multiplies."""
    copy_registers: int
    """Registers of a thread that copies."""
    boxes: bool = False
    """X comes by tensor copies, of tiles that keep every column; else its rows are gathered."""
    cluster: int = 1
    """Blocks of a cluster, to all of which copies go that they have in common: of X if it comes in
    boxes, else of A."""
    cut: bool = False
    """Whether items are cut along their slots: sums of pieces then pass memory."""
    fused: bool = False
    """Whether anything happens to the sums but a cast."""
    activation: Activation = "none"
    kernel: str = "sm90_tvw_gemm"
    """The source file, and the name of the kernel in it."""

    def with_epilogue(self, activation: Activation) -> HopperConfig:
        """Return the variant that finishes sums before it stores them.

        That takes registers beside the sums; where there are none left, fewer threads copy.
        """
        fused = replace(self, fused=True, activation=activation)
        if self.max_registers >= 128:
            return fused
        return replace(fused, gather_groups=4, multiply_registers=184, copy_registers=56)

    @property
    def can_cut(self) -> bool:
        """Whether there is a variant that cuts items along their slots and spills no registers.

        X in boxes is read from the first column on.
        """
        return not self.boxes and self.wg_rows * self.wg_n < 128 * 128

    @property
    def copy_warps(self) -> int:
        """Warps that copy, and those that fill up the last warpgroup: registers move by four."""
        return -(-self.gather_warps * self.gather_groups // 4) * 4

    @property
    def x_stage_bytes(self) -> int:
        """Bytes of X in a stage."""
        return STEP_SLOTS * self.block_n * 2

    @property
    def a_stage_bytes(self) -> int:
        """Bytes of values and metadata in a stage."""
        return self.block_rows // SLAB_ROWS * SLAB_BYTES

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: ring, a buffer of Y a warp, two barriers a stage."""
        return self.stages * (self.stage_bytes + 16) + self.multiply_warps * 16 * 64 * 2

    @property
    def products(self) -> int:
        """Tensor-core instructions of a step in one warpgroup."""
        return self.wg_rows // SLAB_ROWS * (STEP_SLOTS // 32)

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.block_rows % self.wg_rows or self.block_n % self.wg_n:
            return f"warpgroups of {self.wg_rows} x {self.wg_n} do not tile the block"
        if self.wg_rows % SLAB_ROWS or self.wg_n % 64 or self.wg_n > 256:
            return "a warpgroup computes multiples of 64 rows and 64 columns, at most 256"
        if self.gather_warps not in (1, 2, 4):
            return f"{self.gather_warps} warps gather a stage; it must be 1, 2 or 4"
        if self.max_registers < self.wg_n // 2 + _BESIDE_SUMS:
            return (
                f"{self.threads} threads start with {self.max_registers} registers; a product of "
                f"{self.wg_n} columns needs {self.wg_n // 2 + _BESIDE_SUMS}"
            )
        if self.cluster not in (1, 2):
            return f"clusters of {self.cluster} blocks; larger ones leave multiprocessors idle"
        if self.boxes and self.block_n // 64 % self.cluster:
            return f"{self.cluster} blocks cannot share {self.block_n // 64} boxes of a stage"
        if self.cut and not self.can_cut:
            return "items of boxes, or of so many sums a thread, are not cut along their slots"
        if self.gather_groups > self.stages:
            return f"{self.gather_groups} groups for {self.stages} stages"
        if self.stages < 3:
            return "stages is below 3; two are read while another arrives"
        held = 32 * (
            self.multiply_warps * self.multiply_registers + self.copy_warps * self.copy_registers
        )
        # Roles share what the launch has given the block; who claims more waits forever.
        if held > self.max_registers * self.threads:
            return f"the roles take {held} registers of {self.max_registers * self.threads}"
        if self.shared_bytes > _SHARED_BYTES:
            return f"needs {self.shared_bytes} bytes of shared memory of {_SHARED_BYTES}"
        return ""

    def headers(self) -> dict[str, str]:
        """Return the texts of ``config.cuh``, ``cluster.cuh`` and ``wgmma.cuh``, by name.

        Clusters are an attribute of the kernel. One block is not said to be a cluster: blocks of
        such a launch go to multiprocessors in another order, and neighbours that read the same
        slabs of A are no longer neighbours (8192^3 at 75 %: 550 us for 515 on an H200).
        """
        element = "bfloat16" if self.bfloat16 else "float16"
        return {
            "cluster.cuh": f"__cluster_dims__({self.cluster})\n" if self.cluster > 1 else "",
            "config.cuh": config_header(self, element=element, output=element),
            "wgmma.cuh": wgmma_header(self.wg_n, bfloat16=self.bfloat16),
        }

    def __str__(self) -> str:
        """Return a line such as ``sm90_tvw_gemm float16 2:4 256x128, groups 128x128, 6 stages``."""
        shared = f", {'X' if self.boxes else 'A'} shared by {self.cluster}"
        return (
            f"{self.kernel} {'bfloat16' if self.bfloat16 else 'float16'} 2:4 "
            f"{self.block_rows}x{self.block_n}, groups {self.wg_rows}x{self.wg_n}, "
            f"{self.stages} stages{', boxes' if self.boxes else ''}"
            f"{shared if self.cluster > 1 else ''}"
        )


_SHAPES: Final = (
    # block rows and n, warpgroup rows and n, stages, gather warps and groups, registers, boxes,
    # blocks of a cluster
    (256, 128, 128, 128, 6, 2, 4, 184, 56),
    (256, 128, 128, 128, 6, 2, 4, 184, 56, False, 2),
    (128, 256, 128, 128, 5, 2, 5, 168, 48),
    (128, 128, 64, 128, 8, 2, 4, 152, 56),
    (64, 256, 64, 128, 5, 2, 4, 152, 56),
    (128, 256, 64, 256, 5, 1, 1, 232, 40, True, 2),
)
"""In order of preference where the model sees no difference; each was the fastest measured of its
block among other stages, groups and registers."""


def hopper_configs(
    architecture: str, dtype: DType, sparse: bool, every_column: bool = False
) -> tuple[HopperConfig, ...]:
    """Return the configs that are shipped for an architecture: none but on sm_90, for 2:4.

    Those that read X in boxes only for tiles that keep `every_column`.
    """
    if not sparse or dtype not in (FLOAT16, BFLOAT16) or architecture.rstrip("af") != "90":
        return ()
    shipped = (HopperConfig(dtype == BFLOAT16, *shape) for shape in _SHAPES)
    return tuple(config for config in shipped if every_column or not config.boxes)
