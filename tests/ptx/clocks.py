"""Happens-before between the warps of a block, as vector clocks.

`seen[b, w, v]` is the last clock of warp v whose accesses happen before whatever warp w does next
in block b; `seen[b, w, w]` is the last clock after which the warp's own threads synchronised. Those
who wait at a barrier see what those who arrived hand over. That is exact for block-wide barriers,
named barriers and split arrive/sync alike, and it does not depend on the order in which the warps
happened to run.

`floor[b, w]` is the least of `seen[b, w]`: whatever stands at or below it is ordered, whoever did
it. After a block-wide barrier that is everything, so one comparison settles nearly all accesses.

The copy engine (``cp.async.bulk``) counts as one more warp, `engine`, with clocks of its own above
those of warps: what it has written fails the comparison with `floor` and is always judged exactly.

`shown[b, w, v]` is the last clock of warp v whose writes happen before what warp w does next AND
have passed a ``fence.proxy.async`` on the way: what the asynchronous proxy may read.

Of a cluster, each block has clocks of its own; behind those of its warps and its engine it keeps
what its warps know of the other blocks' (`Cluster`). `over[b, w, v]` is the last clock of warp v
whose reads, and copies that somebody waited for, are over by then: that much an arrival in another
block says at any scope, while what threads wrote is ordered at the scope of the cluster only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import PtxError
from .warp import LANES, Array, Warp

__all__ = ["ENGINE_CLOCK", "MAX_CLOCK", "Clocks", "LaneClock"]

MAX_CLOCK = (1 << 19) - 1
ENGINE_CLOCK = MAX_CLOCK + 1  # the copy engine's first clock


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
    """Clocks of a batch of `blocks` blocks with `warps` warps each, in clusters of `cluster`."""

    def __init__(self, blocks: int, warps: int, cluster: int = 1) -> None:
        self.warps = self.engine = warps
        self.columns = cluster * (warps + 1)
        self.clock = np.ones((blocks, warps), np.int64)
        self.seen = np.zeros((blocks, warps, self.columns), np.int64)
        self.shown = np.zeros_like(self.seen)
        self.over = np.zeros_like(self.seen)
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

    def publish(self, warp: int, rows: Array, waits: bool, whole: bool = True) -> Array:
        """What `warp` hands over by arriving at a barrier in the blocks `rows`.

        A warp that does not wait goes on at a new clock, so that what it does next is not handed
        over with the rest. An arrival of some of its threads (not `whole`) hands over what the warp
        did before its threads last synchronised.

        Returns
        -------
        int array, shape (rows, 3, columns)
            Clocks that happen before the barrier, those of them that are shown to the asynchronous
            proxy, and those whose reads are over.
        """
        known = np.stack(
            [self.seen[rows, warp], self.shown[rows, warp], self.over[rows, warp]], axis=1
        )
        if whole:
            known[:, 0, warp] = self.clock[rows, warp]
        known[:, 1] = np.minimum(known[:, 1], known[:, 0])
        known[:, 2] = np.maximum(known[:, 2], known[:, 0])
        if not waits:
            self.clock[rows, warp] += 1
            self._refresh(rows)
        return known

    def join(self, rows: Array, known: Array, received: npt.NDArray[np.bool_]) -> None:
        """A barrier completed in the blocks `rows`.

        Parameters
        ----------
        rows : int array
        known : int array, shape (rows, 3, columns)
            Clocks which all those who arrived have handed over.
        received : bool array, shape (rows, warps)
            Warps which waited.
        """
        # One common clock for those who waited keeps `floor` tight: they did nothing since they
        # arrived, and clocks need only grow.
        clock, seen, shown = self.clock[rows], self.seen[rows], self.shown[rows]
        ahead = np.where(received, clock, 0).max(axis=1, keepdims=True) + 1
        order = known[:, 0].copy()
        order[:, : self.warps] = np.where(received, ahead - 1, order[:, : self.warps])
        some = received[:, :, None]
        self.seen[rows] = np.where(some, np.maximum(seen, order[:, None]), seen)
        self.shown[rows] = np.where(some, np.maximum(shown, known[:, None, 1]), shown)
        over = self.over[rows]
        self.over[rows] = np.where(some, np.maximum(over, known[:, None, 2]), over)
        self.clock[rows] = np.where(received, ahead, clock)
        self._refresh(rows)

    def acquire(self, warp: int, row: int, known: Array) -> None:
        """`warp` waited in block `row` for something that hands over `known`, shape (3, columns).

        Its own clock is left as it is: nobody can hand over what it has not done.
        """
        own = self.seen[row, warp, warp], self.shown[row, warp, warp]
        self.seen[row, warp] = np.maximum(self.seen[row, warp], known[0])
        self.shown[row, warp] = np.maximum(self.shown[row, warp], known[1])
        self.over[row, warp] = np.maximum(self.over[row, warp], known[2])
        self.seen[row, warp, warp], self.shown[row, warp, warp] = own
        self._refresh(np.array([row]))

    def show(self, warp: int, rows: Array, whole: bool) -> None:
        """Threads of `warp` executed a ``fence.proxy.async``: what they have seen is shown.

        So are their own writes, if all of them executed it.
        """
        self.shown[rows, warp] = np.maximum(self.shown[rows, warp], self.seen[rows, warp])
        if whole:
            self.shown[rows, warp, warp] = self.clock[rows, warp]
            self.clock[rows, warp] += 1
            self._refresh(rows)

    def sync_warp(self, warp: int, rows: Array) -> None:
        """All threads of `warp` in the blocks `rows` passed a ``bar.warp.sync``."""
        self.seen[rows, warp, warp] = self.clock[rows, warp]
        self.clock[rows, warp] += 1
        self._refresh(rows)

    def _refresh(self, rows: Array) -> None:
        self.floor[rows] = self.seen[rows, :, : self.warps].min(axis=2)
        self._lanes.clear()
        if self.clock.max() > MAX_CLOCK:
            raise PtxError(
                "more than half a million barriers in one launch: the race shadow's clock is full"
            )
