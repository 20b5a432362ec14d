"""`RoleConfig`: what configs of both Hopper kernels have by their warps' roles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from tvwarray._errors import BackendError

ARCHITECTURE: Final = "90a"
"""wgmma is neither on older chips nor on newer ones: this target and no other."""

SWIZZLE_BYTES: Final = 1024
"""What the 128-byte swizzle repeats after: stages begin at multiples of it."""

REGISTERS: Final = 65536
"""Of a multiprocessor."""


class RoleConfig(ABC):
    """Some warps copy, some multiply; a block has a multiprocessor to itself."""

    block_rows: int
    block_n: int
    wg_rows: int
    wg_n: int
    boxes: bool = False
    cluster: int = 1

    @property
    def sparse(self) -> bool:
        """The pattern is (2, 4)."""
        return True

    @property
    def min_blocks(self) -> int:
        """Blocks that a multiprocessor holds at once."""
        return 1

    @property
    def multiply_warps(self) -> int:
        """Warps that multiply."""
        return 4 * (self.block_rows // self.wg_rows) * (self.block_n // self.wg_n)

    @property
    def tall(self) -> int:
        """Blocks of a cluster one above another, which share X."""
        return self.cluster if self.boxes else 1

    @property
    def wide(self) -> int:
        """Blocks of a cluster side by side, which share A."""
        return 1 if self.boxes else self.cluster

    @property
    @abstractmethod
    def copy_warps(self) -> int:
        """Warps that copy."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.multiply_warps + self.copy_warps)

    @property
    @abstractmethod
    def x_stage_bytes(self) -> int:
        """Bytes of X in a stage."""

    @property
    @abstractmethod
    def a_stage_bytes(self) -> int:
        """Bytes of values and metadata in a stage."""

    @property
    def stage_bytes(self) -> int:
        """Bytes of one stage."""
        used = self.x_stage_bytes + self.a_stage_bytes
        return -(-used // SWIZZLE_BYTES) * SWIZZLE_BYTES

    @property
    def max_registers(self) -> int:
        """Registers a thread may have when the kernel starts."""
        return min(255, REGISTERS // self.threads // 8 * 8)

    def target(self, architecture: str) -> str:
        """Return what to compile for, on a device of `architecture`: sm_90a.

        Raises
        ------
        BackendError
            On any other architecture.
        """
        if reason := self.refusal_on(architecture):
            raise BackendError(f"{self} cannot run on sm_{architecture}: {reason}.")
        return ARCHITECTURE

    def refusal_on(self, architecture: str) -> str:
        """Return why the kernel does not run on an architecture, or an empty string."""
        if architecture.rstrip("af") == ARCHITECTURE.rstrip("a"):
            return ""
        return f"wgmma exists on compute capability 9.0 alone, not on sm_{architecture}"
