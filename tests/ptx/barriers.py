"""Barriers of a batch of blocks: arrivals, completion, release, and the order they create."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .clocks import Clocks
from .errors import BarrierDeadlock, BarrierMisuse
from .warp import LANES, Array, Mask, Waiting, Warp

__all__ = ["COUNT", "Barriers"]

COUNT = 16  # barriers of a block


class Barriers:
    """All sixteen barriers of each block.

    Parameters
    ----------
    clocks : Clocks
    blocks, warps : int
        Blocks of the batch, warps of a block.
    threads : int
        Threads a barrier expects when the instruction does not say, rounded up to whole warps.
    """

    def __init__(self, clocks: Clocks, blocks: int, warps: int, threads: int) -> None:
        self.clocks = clocks
        self.threads = -(-threads // LANES) * LANES
        self.arrived = np.zeros((COUNT, blocks, warps), bool)
        # Clocks handed over by those who arrived.
        self.known = np.zeros((COUNT, blocks, 3, clocks.columns), np.int64)
        self.received = np.zeros((COUNT, blocks, warps), bool)
        self.expected = np.zeros((COUNT, blocks), np.int64)
        # For barrier.red: threads that voted true, and threads that voted.
        self.votes = np.zeros((COUNT, blocks, 2), np.int64)
        self.used: set[int] = set()

    def arrive(
        self, warp: Warp, mask: Mask, barrier: int, count: int | None, resume: int | None
    ) -> None:
        """Whole warps arrive; with `resume` they also wait and then go on there.

        Raises
        ------
        BarrierMisuse
            For a barrier number or count out of range, counts that differ, or a second arrival of a
            warp.
        """
        if not 0 <= barrier < COUNT:
            raise BarrierMisuse(f"barrier {barrier} does not exist; a block has {COUNT}")
        expected = self.threads if count is None else count
        if expected % LANES or expected <= 0:
            raise BarrierMisuse(
                f"a barrier for {expected} threads: the count is a positive multiple of {LANES}"
            )
        lanes = warp.as_bools(mask)
        blocks = np.logical_or.reduce(lanes.reshape(-1, LANES), axis=1)
        before = self.expected[barrier]
        if (blocks & (before != 0) & (before != expected)).any():
            raise BarrierMisuse(
                f"barrier {barrier} is used with {expected} threads and with {before.max()} at once"
            )
        if (self.arrived[barrier, :, warp.number] & blocks).any():
            raise BarrierMisuse(f"warp {warp.number} arrives twice at barrier {barrier}")
        before[blocks] = expected
        self.used.add(barrier)
        self.arrived[barrier, blocks, warp.number] = True
        rows = np.flatnonzero(blocks)
        handed = self.clocks.publish(warp.number, rows, waits=resume is not None)
        self.known[barrier, rows] = np.maximum(self.known[barrier, rows], handed)
        if resume is not None:
            self.received[barrier, blocks, warp.number] = True
            warp.waiting.append(Waiting(barrier, blocks, lanes, resume))

    def vote(self, barrier: int, yes: Array, total: Array) -> None:
        """Add the predicates of a ``barrier.red``: how many threads of each block voted true, of
        how many.
        """
        self.votes[barrier, :, 0] += yes
        self.votes[barrier, :, 1] += total

    def resolve(self, warps: list[Warp]) -> bool:
        """Release what is complete; returns whether anything moved."""
        moved = False
        for barrier in sorted(self.used):
            arrived = self.arrived[barrier]
            have = arrived.sum(axis=1) * LANES
            expected = self.expected[barrier]
            if (have > expected).any():
                raise BarrierMisuse(
                    f"{int(have.max())} threads arrive at barrier {barrier}, "
                    f"which expects {int(expected.max())}"
                )
            full = (have == expected) & (expected > 0)
            if not full.any():
                continue
            moved = True
            rows = np.flatnonzero(full)
            self.clocks.join(rows, self.known[barrier, rows], self.received[barrier, rows])
            arrived[full] = False
            self.known[barrier, full] = 0
            self.received[barrier, full] = False
            expected[full] = 0
            for warp in warps:
                warp.waiting = [
                    left for w in warp.waiting for left in self._release(warp, w, barrier, full)
                ]
            self.votes[barrier, full] = 0
        return moved

    def deadlock(self, warps: list[Warp]) -> BarrierDeadlock:
        """Describe who waits for what, when nothing can move any more."""
        for warp in warps:
            for waiting in warp.waiting:
                block = int(np.flatnonzero(waiting.blocks)[0])
                here = np.flatnonzero(self.arrived[waiting.barrier, block])
                gone = [w.number for w in warps if not w.alive.reshape(-1, LANES)[block].any()]
                wanted = int(self.expected[waiting.barrier, block])
                return BarrierDeadlock(
                    f"barrier {waiting.barrier} expects {wanted} threads; "
                    f"warps {here.tolist()} arrived, warps {gone} have left the kernel",
                    lane=block * LANES,
                )
        raise AssertionError("nothing waits at a barrier")

    def _release(
        self, warp: Warp, waiting: Waiting, barrier: int, full: npt.NDArray[np.bool_]
    ) -> list[Waiting]:
        """Make the released threads ready; what still waits is returned."""
        go = waiting.blocks & full
        if waiting.barrier != barrier or not go.any():
            return [waiting]
        lanes = np.repeat(go, LANES)
        released = waiting.mask & lanes
        if waiting.finish is not None:
            waiting.finish(released, self.votes[barrier, :, 0], self.votes[barrier, :, 1])
        warp.add(waiting.resume, released)
        stay = waiting.blocks & ~full
        if not stay.any():
            return []
        return [Waiting(barrier, stay, waiting.mask & ~lanes, waiting.resume, waiting.finish)]
