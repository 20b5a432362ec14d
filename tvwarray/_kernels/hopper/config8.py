"""`ByteConfig`: the constants of ``sm90_tvw_gemm8``, the Hopper kernel of 8-bit values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tvwarray._kernels.config import Element, config_header
from tvwarray._kernels.elements import Form
from tvwarray._kernels.hopper.config import SLAB_ROWS, Activation
from tvwarray._kernels.hopper.instructions import wgmma_byte_header
from tvwarray._kernels.hopper.roles import RoleConfig

BYTES: Final = ("int8", "float8_e4m3", "float8_e5m2")

STEP_SLOTS: Final = 128
"""Slots of a stage: a row of the 128-byte swizzle."""

SLAB_BYTES: Final = SLAB_ROWS * STEP_SLOTS // 2 + 2 * 4 * 128
"""Values of half the slots, and two words of metadata for each thread of a warpgroup."""

_STRIP: Final = 128
_Y_BYTES: Final = 8 * 32 * 4
_BESIDE_SUMS: Final = 27
_SHARED_BYTES: Final = 227 << 10


@dataclass(frozen=True)
class ByteConfig(RoleConfig):
    """The constants of one kernel; the fields other than `kernel` are those of ``config.cuh``."""

    element: Element
    """Values of A and X: int8, float8_e4m3 or float8_e5m2."""
    block_rows: int
    """Rows of a tile that one item covers at most."""
    block_n: int
    """Columns of X that one item covers."""
    wg_rows: int
    """Rows of the item that one warpgroup computes, in pieces of 64."""
    wg_n: int
    """Columns of the item that one warpgroup computes: the width of its instruction."""
    stages: int
    """Stages of 128 slots in the ring."""
    gather_warps: int
    """Warps of a group that copies a stage."""
    gather_groups: int
    """Such groups, which take turns."""
    landings: int
    """Steps of each group whose rows of X are under way or wait to be turned."""
    multiply_registers: int
    """Registers of a thread that multiplies."""
    copy_registers: int
    """Registers of a thread that copies."""
    promote: int = 0
    """Steps after which sums of the tensor cores are added up in float32; 0 is never."""
    output: Element = "float32"
    """What the result is stored as."""
    fused: bool = False
    """Whether anything happens to the sums but a cast."""
    activation: Activation = "none"
    kernel: str = "sm90_tvw_gemm8"
    """The source file, and the name of the kernel in it."""

    def storing(self, output: Element) -> ByteConfig:
        """Return the variant that casts sums to `output`."""
        return replace(self, output=output)

    def with_epilogue(self, activation: Activation) -> ByteConfig:
        """Return the variant that finishes sums before it stores them."""
        fused = replace(self, fused=True, activation=activation)
        if self.block_rows < 256 or activation in ("none", "relu"):
            return fused
        # A function beside so many sums: divided otherwise, the threads that copy would spill.
        return replace(fused, multiply_registers=176, copy_registers=80)

    @property
    def bfloat16(self) -> bool:
        """Whether 16-bit results are bfloat16."""
        return self.output == "bfloat16"

    @property
    def copy_warps(self) -> int:
        """Warps that copy."""
        return self.gather_warps * self.gather_groups

    @property
    def x_stage_bytes(self) -> int:
        """Bytes of X in a stage."""
        return STEP_SLOTS * self.block_n

    @property
    def a_stage_bytes(self) -> int:
        """Bytes of values and metadata in a stage."""
        return self.block_rows // SLAB_ROWS * SLAB_BYTES

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: ring, landings, sums on their way to Y, barriers."""
        ring = self.stages * (self.stage_bytes + 16)
        landings = self.gather_groups * self.landings * self.x_stage_bytes
        return ring + landings + self.multiply_warps * _Y_BYTES

    @property
    def products(self) -> int:
        """Tensor-core instructions of a step in one warpgroup."""
        return self.wg_rows // SLAB_ROWS * 2

    def refusal(self) -> str:
        """Return which rule of the kernel this config breaks, or an empty string."""
        if self.element not in BYTES:
            return f"values are {self.element}; they must have 8 bits"
        if self.element == "int8" and self.promote:
            return "int8 is summed exactly: there is nothing to promote"
        if self.output not in ("float32", "float16", "bfloat16") and (
            (self.element, self.output) != ("int8", "int32") or self.fused
        ):
            return f"products of {self.element} are not stored as {self.output}"
        if self.block_rows % self.wg_rows or self.block_n % self.wg_n:
            return f"warpgroups of {self.wg_rows} x {self.wg_n} do not tile the block"
        if self.wg_rows % SLAB_ROWS or self.wg_n % 64 or self.wg_n > 256:
            return "a warpgroup computes multiples of 64 rows and 64 columns, at most 256"
        if self.block_n % _STRIP:
            return f"block_n is {self.block_n}; warps copy lines of {_STRIP} columns"
        if self.gather_warps not in (1, 2, 4, 8) or self.copy_warps % 4:
            return f"{self.gather_groups} groups of {self.gather_warps} warps are not warpgroups"
        if self.stages < 3 or self.landings < 1 or self.landings * self.gather_groups < 2:
            return "stages is below 3 or landings below 2; one is read while another arrives"
        if self.gather_groups > self.stages:
            return f"{self.gather_groups} groups for {self.stages} stages"
        sums = self.wg_rows // SLAB_ROWS * self.wg_n // 2 * (2 if self.promote else 1)
        if self.multiply_registers < sums + _BESIDE_SUMS:
            return f"threads that multiply have {self.multiply_registers} registers and {sums} sums"
        if self.max_registers < self.wg_n // 2 + _BESIDE_SUMS:
            return (
                f"{self.threads} threads start with {self.max_registers} registers; a product of "
                f"{self.wg_n} columns needs {self.wg_n // 2 + _BESIDE_SUMS}"
            )
        if not self.copy_registers <= self.max_registers <= self.multiply_registers:
            return (
                f"threads start with {self.max_registers} registers; those that copy give some up "
                "and those that multiply get some"
            )
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
        """Return the texts of ``config.cuh`` and ``wgmma.cuh``, by name."""
        return {
            "config.cuh": config_header(self, bfloat16=self.bfloat16),
            "wgmma.cuh": wgmma_byte_header(self.wg_n, self.element),
        }

    def __str__(self) -> str:
        """Return a line such as ``sm90_tvw_gemm8 float8_e4m3 2:4 256x128, groups 128x128, ...``."""
        text = (
            f"{self.kernel} {self.element} 2:4 {self.block_rows}x{self.block_n}, "
            f"groups {self.wg_rows}x{self.wg_n}, {self.stages} stages"
        )
        return text + (f", promoted every {self.promote}" if self.promote else "")


_SHAPES: Final = (
    # block rows and n, warpgroup rows and n, stages, gather warps and groups, landings, registers
    (256, 128, 128, 128, 4, 2, 4, 1, 184, 72),
    (128, 256, 128, 128, 3, 4, 2, 1, 184, 72),
    (128, 128, 64, 128, 5, 2, 4, 1, 152, 72),
    (64, 256, 64, 128, 4, 4, 2, 1, 152, 72),
)
"""In order of preference where the model sees no difference."""

_PROMOTED: Final = ByteConfig("float8_e4m3", 128, 128, 64, 128, 5, 2, 4, 1, 184, 72, promote=1)
"""The largest block whose threads have registers for two sets of sums. Promoting every step is no
slower than every other one."""


def byte_configs(architecture: str, form: Form, sparse: bool) -> tuple[ByteConfig, ...]:
    """Return the configs that are shipped for an architecture: none but on sm_90, for 2:4."""
    if not sparse or form.element not in BYTES or architecture.rstrip("af") != "90":
        return ()
    if form.promoted:
        return (replace(_PROMOTED, element=form.element),)
    output: Element = "int32" if form.element == "int8" else "float32"
    return tuple(ByteConfig(form.element, *shape, output=output) for shape in _SHAPES)
