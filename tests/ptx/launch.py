"""What the warps of one batch of blocks share during a launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .barriers import Barriers
from .bulk import BulkCopies
from .clocks import Clocks
from .cluster import Cluster
from .copies import AsyncCopies
from .mbarrier import MBarriers
from .memory import GlobalMemory
from .products import Products
from .registers import RegisterPool
from .report import Counters
from .shared import SharedMemory
from .warp import LANES, Array, Warp

__all__ = ["Geometry", "Launch"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Grid and block in threads, and the bytes a launch adds."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    dynamic_bytes: int

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def warps(self) -> int:
        return -(-self.threads // LANES)


class Launch:
    """A batch of blocks.

    Parameters
    ----------
    geometry : Geometry
    memory : GlobalMemory
    params : bytes
        The kernel's parameters as laid out by its declaration.
    block_numbers : int array
        Which blocks of the grid, by linear number.
    grain : int
        Granule of the shared shadow in bytes; 0 keeps none.
    counters : Counters
    cluster : Cluster, optional
        The cluster whose next block this is; a batch of a cluster is one block.
    """

    def __init__(
        self,
        geometry: Geometry,
        memory: GlobalMemory,
        params: bytes,
        block_numbers: Array,
        grain: int,
        counters: Counters,
        cluster: Cluster | None = None,
    ) -> None:
        self.geometry, self.memory, self.params = geometry, memory, params
        self.block_numbers, self.counters = block_numbers, counters
        self.blocks, self.threads = len(block_numbers), geometry.threads
        self.cluster = cluster or Cluster(1)
        self.clocks = Clocks(self.blocks, geometry.warps, self.cluster.size)
        self.shared = SharedMemory(self.clocks, self.blocks, geometry.shared_bytes, grain)
        self.barriers = Barriers(self.clocks, self.blocks, geometry.warps, geometry.threads)
        self.mbarriers = MBarriers(self.clocks, self.shared)
        self.bulk = BulkCopies(self.shared, self.mbarriers)
        self.registers = RegisterPool(geometry.warps)
        self.rank = self.cluster.join(self)

    def new_products(self, warp: Warp) -> Products:
        return Products(self.shared, warp)

    def new_copies(self, warp: Warp) -> AsyncCopies:
        return AsyncCopies(self.shared, warp.size)

    def finish(self, warps: list[Warp]) -> None:
        """Every thread has left: nothing may be under way, and warpgroups must have agreed."""
        self.bulk.finish()
        for warp in warps:
            warp.products.finish(warps[warp.number // 4 * 4])

    def thread_words(self, warp: Warp) -> Array:
        """Writer words of global memory: clock above bit 40, grid-wide thread number + 1 below."""
        thread = self.block_numbers[warp.block] * self.threads + warp.thread + 1
        return (self.clocks.of(warp).clock << 40 | thread).astype(np.uint64)

    def special(self, warp: Warp, name: str) -> Array | None:
        """A special register such as ``%tid.x``, as uint32; None if there is no such register."""
        base, _, axis = name.partition(".")
        at = "xyz".find(axis) if axis else -1
        grid, block = self.geometry.grid, self.geometry.block
        value: Array | int | None = None
        if base == "%tid" and at >= 0:
            value = _coordinate(warp.thread, block, at)
        elif base == "%ctaid" and at >= 0:
            value = _coordinate(self.block_numbers[warp.block], grid, at)
        elif base == "%ntid" and at >= 0:
            value = block[at]
        elif base == "%nctaid" and at >= 0:
            value = grid[at]
        elif base == "%laneid":
            value = warp.lane
        elif base.startswith("%lanemask_"):
            bit = np.left_shift(1, warp.lane)
            masks = {"eq": bit, "lt": bit - 1, "le": 2 * bit - 1, "gt": -2 * bit, "ge": -bit}
            if (mask := masks.get(base[10:])) is not None:
                value = mask & 0xFFFFFFFF
        else:
            value = {
                "%cluster_ctarank": self.rank,
                "%cluster_nctarank": self.cluster.size,
                "%warpid": warp.number,
                "%nwarpid": self.geometry.warps,
                "%smid": 0,
                "%nsmid": 1,
                "%gridid": 0,
                "%dynamic_smem_size": self.geometry.dynamic_bytes,
                "%total_smem_size": self.geometry.shared_bytes,
            }.get(base)
        if value is None:
            return None
        return np.broadcast_to(np.asarray(value), (warp.size,)).astype(np.uint32)


def _coordinate(linear: Array, shape: tuple[int, int, int], axis: int) -> Array:
    stride = (1, shape[0], shape[0] * shape[1])[axis]
    found: Array = linear // stride % shape[axis]
    return found
