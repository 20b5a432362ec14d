"""Happens-before between the warps of a block, as vector clocks.

`seen[b, w, v]` is the last clock of warp v whose accesses happen before whatever warp w does next
in block b; `seen[b, w, w]` is the last clock after which the warp's own threads synchronised. Those
who wait at a barrier see what those who arrived hand over. That is exact for block-wide barriers,
named barriers and split arrive/sync alike, and it does not depend on the order in which the warps
happened to run.

`floor[b, w]` is the least of `seen[b, w]`: whatever stands at or below it is ordered, whoever did
it. After a block-wide barrier that is everything, so one comparison settles nearly all accesses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import PtxError
from .warp import LANES, Array, Warp

__all__ = ["MAX_CLOCK", "Clocks", "LaneClock"]

MAX_CLOCK = (1 << 20) - 1


class LaneClock:
    """What one warp position needs at every access, spread over its threads; valid until a clock
    moves.
    """

    __slots__ = ("clock", "floor", "least")

    def __init__(self, floor: Array, clock: Array) -> None:
        self.floor = np.repeat(floor, LANES)
        self.clock = np.repeat(clock, LANES)
        self.least = int(floor.min())


class Clocks:
    """Clocks of a batch of `blocks` blocks with `warps` warps each."""

    def __init__(self, blocks: int, warps: int) -> None:
        self.warps = warps
        self.clock = np.ones((blocks, warps), np.int64)
        self.seen = np.zeros((blocks, warps, warps), np.int64)
        self.floor = np.zeros((blocks, warps), np.int64)
        self._lanes: dict[int, LaneClock] = {}

    def of(self, warp: Warp) -> LaneClock:
        """The clocks as `warp` sees them now."""
        found = self._lanes.get(warp.number)
        if found is None:
            found = LaneClock(self.floor[:, warp.number], self.clock[:, warp.number])
            self._lanes[warp.number] = found
        return found

    def ordered(self, block: Array, warp: int, other: Array, clock: Array) -> npt.NDArray[np.bool_]:
        """Whether what warp `other` did at `clock` happens before what `warp` does now."""
        found: npt.NDArray[np.bool_] = self.seen[block, warp, other] >= clock
        return found

    def publish(self, warp: int, rows: Array, waits: bool) -> Array:
        """What `warp` hands over by arriving at a barrier in the blocks `rows`.

        A warp that does not wait goes on at a new clock, so that what it does next is not handed
        over with the rest.

        Returns
        -------
        int array, shape (rows, warps)
            Clocks that happen before the barrier.
        """
        known: Array = self.seen[rows, warp]
        known[:, warp] = self.clock[rows, warp]
        if not waits:
            self.clock[rows, warp] += 1
            self._refresh(rows)
        return known

    def join(self, rows: Array, known: Array, received: npt.NDArray[np.bool_]) -> None:
        """A barrier completed in the blocks `rows`.

        Parameters
        ----------
        rows : int array
        known : int array, shape (rows, warps)
            Clocks which all those who arrived have handed over.
        received : bool array, shape (rows, warps)
            Warps which waited.
        """
        # One common clock for those who waited keeps `floor` tight: they did nothing since they
        # arrived, and clocks need only grow.
        clock, seen = self.clock[rows], self.seen[rows]
        ahead = np.where(received, clock, 0).max(axis=1, keepdims=True) + 1
        known = np.where(received, ahead - 1, known)
        self.seen[rows] = np.where(received[:, :, None], np.maximum(seen, known[:, None]), seen)
        self.clock[rows] = np.where(received, ahead, clock)
        self._refresh(rows)

    def sync_warp(self, warp: int, rows: Array) -> None:
        """All threads of `warp` in the blocks `rows` passed a ``bar.warp.sync``."""
        self.seen[rows, warp, warp] = self.clock[rows, warp]
        self.clock[rows, warp] += 1
        self._refresh(rows)

    def _refresh(self, rows: Array) -> None:
        self.floor[rows] = self.seen[rows].min(axis=2)
        self._lanes.clear()
        if self.clock.max() > MAX_CLOCK:
            raise PtxError(
                "more than a million barriers in one launch: the clock of the race shadow is full"
            )
