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

__all__ = ["BulkCopies"]

_UNIT = 16


@dataclass(slots=True)
class _Bulk:
    """One copy under way."""

    rows: Array
    value: Array
    barrier: MBarrier


class BulkCopies:
    """Bulk copies of a batch of blocks, in the order of issue."""

    def __init__(self, shared: SharedMemory, mbarriers: MBarriers) -> None:
        self.shared, self.mbarriers = shared, mbarriers
        self.pending: list[_Bulk] = []
        self.clock = ENGINE_CLOCK

    def issue(self, warp: Warp, lane: int, to: int, start: int, nbytes: int, barrier: int) -> None:
        """Start a copy by one thread."""
        if nbytes <= 0 or nbytes % _UNIT:
            raise InvalidOperand(
                f"a bulk copy of {nbytes} bytes; the size is a positive multiple of 16", lane=lane
            )
        found = self.mbarriers.find(warp, lane, barrier)
        if not found.published:
            raise RaceError(
                "MissingFence",
                f"a bulk copy signals the mbarrier at {barrier}, whose initialisation no "
                "fence.mbarrier_init has published",
                lane=lane,
            )
        steps = np.arange(nbytes // _UNIT, dtype=np.int64) * _UNIT
        lanes = np.full(len(steps), lane)
        value = warp.launch.memory.read(warp, lanes, start + steps, _UNIT, 8)
        rows = self.shared.rows(warp, lanes, to + steps, _UNIT)
        shadow = self.shared.shadow
        if shadow is not None:
            shadow.write(warp, lanes, rows, _UNIT // shadow.grain, in_flight=True)
        self.pending.append(_Bulk(rows, value, found))

    def land(self) -> bool:
        """Everything under way arrives; returns whether anything did."""
        landed, self.pending = self.pending, []
        shadow = self.shared.shadow
        for copy in landed:
            self.shared.view(8, _UNIT)[copy.rows] = copy.value
            self.clock += 1
            if shadow is not None:
                shadow.land_bulk(copy.rows, _UNIT // shadow.grain, self.clock)
            self.mbarriers.transfer(copy.barrier, len(copy.rows) * _UNIT, self.clock)
        return bool(landed)

    def finish(self) -> None:
        """A block may not end while its shared memory is written to."""
        if self.pending:
            raise BarrierMisuse("the block has ended while a bulk copy was under way")
