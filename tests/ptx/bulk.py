"""``cp.async.bulk`` from global to shared memory: the copy engine, which signals an mbarrier.

A copy reads global memory when issued and lands at the end of the scheduler's round; until then its
target is in flight. What it wrote is ordered only for those who waited for the mbarrier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clocks import ENGINE_CLOCK
from .errors import BarrierMisuse, InvalidOperand, RaceError
from .mbarrier import MBarrier, MBarriers
from .shared import SharedMemory
from .warp import Array, Warp

__all__ = ["UNIT", "BulkCopies", "read_row"]

UNIT = 16


@dataclass(slots=True)
class _Bulk:
    """One copy under way."""

    rows: Array
    value: Array
    barrier: MBarrier


class BulkCopies:
    """Bulk copies into shared memory of a batch of blocks, in the order of issue."""

    def __init__(self, shared: SharedMemory, mbarriers: MBarriers) -> None:
        self.shared, self.mbarriers = shared, mbarriers
        self.pending: list[_Bulk] = []
        self.clock = ENGINE_CLOCK

    def deliver(
        self, warp: Warp, lane: int, to: Array, value: Array, barrier: int,
        knows: Array | None = None,
    ) -> None:  # fmt: skip
        """Bring rows of 16 bytes to the addresses `to`, and tell the mbarrier.

        `knows` is what a thread of another block of the cluster has seen of this one's clocks.
        """
        found = self.mbarriers.find(warp, lane, barrier, knows)
        if not found.published:
            raise RaceError(
                "MissingFence",
                f"a bulk copy signals the mbarrier at {barrier}, whose initialisation no "
                "fence.mbarrier_init has published",
                lane=lane,
            )
        lanes = np.full(len(to), lane)
        rows = self.shared.rows(warp, lanes, to, UNIT)
        shadow = self.shared.shadow
        if shadow is not None and knows is None:
            shadow.write(warp, lanes, rows, UNIT // shadow.grain, in_flight=True)
        elif shadow is not None:
            shadow.write_remotely(lane, knows, rows, UNIT // shadow.grain)
        self.pending.append(_Bulk(rows, value, found))

    def land(self) -> bool:
        """Everything under way arrives; returns whether anything did."""
        landed, self.pending = self.pending, []
        shadow = self.shared.shadow
        for copy in landed:
            self.shared.view(8, UNIT)[copy.rows] = copy.value
            self.clock += 1
            if shadow is not None:
                shadow.land_bulk(copy.rows, UNIT // shadow.grain, self.clock)
            self.mbarriers.transfer(copy.barrier, len(copy.rows) * UNIT, self.clock)
        return bool(landed)

    def finish(self) -> None:
        """A block may not end while its shared memory is written to."""
        if self.pending:
            raise BarrierMisuse("the block has ended while a bulk copy was under way")


def read_row(warp: Warp, lane: int, start: int, nbytes: int) -> Array:
    """Read what one thread copies in a row, shape (nbytes / 16, 2), uint64."""
    if nbytes <= 0 or nbytes % UNIT:
        raise InvalidOperand(
            f"a bulk copy of {nbytes} bytes; the size is a positive multiple of 16", lane=lane
        )
    at = start + np.arange(nbytes // UNIT, dtype=np.int64) * UNIT
    return warp.launch.memory.read(warp, np.full(len(at), lane), at, UNIT, 8)
