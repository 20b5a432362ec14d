"""The race shadow of shared memory: who wrote, who read, and what is ordered.

Every granule (the smallest shared access of the kernel, 1 to 16 bytes) has a writer word and one
reader word for each warp. An access is fine if the last writer (and, for a write, every reader) is
the same thread or stands at a clock already seen (`Clocks`). Bytes of a ``cp.async`` in flight are
marked: nobody may touch them before they land.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .clocks import Clocks
from .errors import RaceError, UninitialisedRead
from .warp import LANES, Array, Warp

__all__ = ["Shadow"]

Lanes = npt.NDArray[np.intp] | None

# Writer word: in-flight bit, 20 bits of clock, 11 bits of who: thread + 1, or ATOMIC + warp for an
# atomic, or COLLECTIVE + warp for stmatrix, whose rows come from several threads, or ENGINE for a
# bulk copy.
_FLIGHT = np.uint32(1 << 31)
_WHO_BITS = 11
_WHO = np.uint32((1 << _WHO_BITS) - 1)
_ATOMIC = 1025
_COLLECTIVE = _ATOMIC + 32
_ENGINE = _COLLECTIVE + 32
# Reader word: clock, 6 bits of lane; SEVERAL means more than one lane read at that clock.
_LANE_BITS = 6
_SEVERAL = 32


class Shadow:
    """State of one batch of blocks.

    Parameters
    ----------
    clocks : Clocks
        What is ordered, shared with the rest of the launch.
    blocks : int
        Blocks of the batch.
    size : int
        Bytes of shared memory of a block, a multiple of 16.
    grain : int
        Bytes of a granule.
    """

    def __init__(self, clocks: Clocks, blocks: int, size: int, grain: int) -> None:
        self.clocks, self.grain, self.warps = clocks, grain, clocks.warps
        count = blocks * size // grain
        self.writer = np.zeros(count, np.uint32)
        self.readers = np.zeros((count, self.warps), np.int32)
        # How many wgmma under way read each 16 bytes; made when the first one starts.
        self.under_way: npt.NDArray[np.int32] | None = None
        self._chunks = blocks * size // 16

    # -- accesses --------------------------------------------------------------------------------
    # `rows` counts accesses of `per` granules each from the start of the batch's memory: an access
    # is aligned to its size, so it is one row of the shadow seen as (-1, per).

    def read(self, warp: Warp, lanes: Lanes, rows: Array, per: int, collective: bool) -> None:
        """Check a read and note the reader."""
        now = self.clocks.of(warp)
        floor, clock = now.floor, now.clock
        found = self.writer.reshape(-1, per).take(rows, axis=0)
        # Never written is 0 and wraps to the top; in flight has the top bit: both fail the one
        # test.
        if int((found - np.uint32(1)).max()) >= (now.least + 1) << _WHO_BITS:
            if lanes is not None:
                floor = floor[lanes]
            limit = (floor + 1 << _WHO_BITS)[:, None]
            bad = (found - np.uint32(1)).astype(np.int64) >= limit
            if bad.any():
                self._judge_read(warp, lanes, found, bad, collective)
        plane = self.readers.reshape(-1, per, self.warps)[:, :, warp.number]
        if lanes is not None:
            clock = clock[lanes]
        if collective:
            plane[rows] = (clock << _LANE_BITS | _SEVERAL)[:, None]
            return
        lane = warp.lane if lanes is None else warp.lane[lanes]
        several = (clock << _LANE_BITS | _SEVERAL)[:, None]
        code = (clock << _LANE_BITS | lane)[:, None]
        old = plane[rows]
        code = np.where((old >> _LANE_BITS == code >> _LANE_BITS) & (old != code), several, code)
        plane[rows] = code
        # Where that is not what stands there now, another lane of this instruction read it too.
        at, col = np.nonzero(plane[rows] != code)
        plane[rows[at], col] = several[at, 0]

    def write(
        self,
        warp: Warp,
        lanes: Lanes,
        rows: Array,
        per: int,
        *,
        in_flight: bool = False,
        collective: bool = False,
    ) -> None:
        """Check a write and note the writer."""
        self._check_write(warp, lanes, rows, per)
        code = self._word(warp, lanes)
        if in_flight:
            code |= _FLIGHT
        view = self.writer.reshape(-1, per)
        view[rows] = code
        clash = view.take(rows, axis=0) != code
        if clash.any():
            at = int(np.flatnonzero(clash.any(axis=1))[0])
            raise RaceError(
                "SameInstruction",
                "two threads write the same bytes of shared memory",
                lane=_lane(lanes, at),
            )
        if collective:
            self._note_warp(warp, lanes, rows, per, _COLLECTIVE)

    def write_remotely(self, lane: int, knows: Array, rows: Array, per: int) -> None:
        """Check a copy that a thread of another block starts.

        `knows` is what that thread knows of this block's clocks: seen, shown, over.
        """
        found = self.writer.reshape(-1, per).take(rows, axis=0).astype(np.int64)
        if (found & int(_FLIGHT)).any():
            raise RaceError(
                "WriteInFlight", "the bytes written are the target of a copy in flight", lane=lane
            )
        if self.under_way is not None and self.under_way[rows * per * self.grain // 16].any():
            raise RaceError(
                "WriteAfterRead",
                "shared memory of another block is overwritten which a wgmma under way reads",
                lane=lane,
            )
        who = found & int(_WHO)
        by_engine = (who == _ENGINE).astype(int) * 2
        if ((found > 0) & (knows[by_engine, self._author(who)] < found >> _WHO_BITS)).any():
            raise RaceError(
                "MissingBarrier",
                "shared memory of another block is overwritten with nothing that orders the writes",
                lane=lane,
            )
        readers = self.readers.reshape(-1, per, self.warps).take(rows, axis=0) >> _LANE_BITS
        if (late := readers > knows[2, : self.warps]).any():
            raise RaceError(
                "WriteAfterRead",
                "shared memory of another block is overwritten which its warp "
                f"{int(np.argwhere(late)[0][-1])} may still be reading",
                lane=lane,
            )
        self.writer.reshape(-1, per)[rows] = _FLIGHT | np.uint32(_ENGINE)

    def land(self, warp: Warp, lanes: Array, rows: Array, per: int) -> None:
        """Copies in flight have arrived: they count as written by their threads now."""
        self.writer.reshape(-1, per)[rows] = self._word(warp, lanes)

    def atomic(self, warp: Warp, lanes: Lanes, rows: Array, per: int) -> None:
        """Check an atomic: it may race with other atomics but not with plain accesses."""
        self._check_write(warp, lanes, rows, per, atomic=True)
        self._note_warp(warp, lanes, rows, per, _ATOMIC)

    def land_bulk(self, rows: Array, per: int, clock: int) -> None:
        """A bulk copy has arrived: it counts as written by the copy engine at its `clock`."""
        self.writer.reshape(-1, per)[rows] = np.uint32(clock << _WHO_BITS | _ENGINE)

    def start_async_read(self, warp: Warp, chunks: Array) -> None:
        """Check that the asynchronous proxy may read these 16-byte chunks, on behalf of `warp`.

        They belong to the reader until `end_async_read`.
        """
        per = 16 // self.grain
        found = self.writer.reshape(-1, per).take(chunks, axis=0).astype(np.int64)
        if not found.all():
            raise UninitialisedRead("wgmma reads shared memory that nobody wrote")
        if (found & int(_FLIGHT)).any():
            raise RaceError("MissingWait", "wgmma reads bytes that are still in flight")
        who, clock = found & int(_WHO), found >> _WHO_BITS
        other = self._author(who)
        block = chunks * 16 // (self._chunks * 16 // warp.blocks)
        clocks, me = self.clocks, warp.number
        seen = clocks.seen[block[:, None], me, other] >= clock
        # A thread's own writes are ordered for itself, but not shown.
        unordered = ~seen & (other != me)
        if unordered.any():
            at = tuple(np.argwhere(unordered)[0])
            raise RaceError(
                "MissingBarrier",
                f"shared memory written by {self._describe(int(who[at]), int(other[at]))} is read "
                "by wgmma with nothing between that orders them",
            )
        hidden = (clocks.shown[block[:, None], me, other] < clock) & (other != clocks.engine)
        if hidden.any():
            at = tuple(np.argwhere(hidden)[0])
            raise RaceError(
                "MissingFence",
                f"shared memory written by {self._describe(int(who[at]), int(other[at]))} is read "
                "by wgmma with no fence.proxy.async between",
            )
        if self.under_way is None:
            self.under_way = np.zeros(self._chunks, np.int32)
        self.under_way[chunks] += 1

    def end_async_read(self, warp: Warp, chunks: Array) -> None:
        """The reads are done, as far as `warp` knows: it has waited for them."""
        assert self.under_way is not None
        self.under_way[chunks] -= 1
        clock = int(self.clocks.of(warp).clock[0])
        plane = self.readers.reshape(-1, 16 // self.grain, self.warps)[:, :, warp.number]
        plane[chunks] = clock << _LANE_BITS | _SEVERAL

    def _author(self, who: Array) -> Array:
        """The warp (or the engine) that a writer word names."""
        other = np.where(who >= _ATOMIC, (who - _ATOMIC) % 32, (who - 1) // LANES)
        found: Array = np.where(who == _ENGINE, self.clocks.engine, other)
        return found

    def _describe(self, who: int, other: int) -> str:
        if who == _ENGINE:
            return "a bulk copy"
        if who >= _ATOMIC:
            return f"{'stmatrix' if who >= _COLLECTIVE else 'an atomic'} of warp {other}"
        return f"thread {who - 1}"

    def _note_warp(self, warp: Warp, lanes: Lanes, rows: Array, per: int, who: int) -> None:
        """The writer is the warp as a whole."""
        clock = self.clocks.of(warp).clock
        clock = clock if lanes is None else clock[lanes]
        word = clock << _WHO_BITS | who + warp.number
        self.writer.reshape(-1, per)[rows] = word.astype(np.uint32)[:, None]

    def _word(self, warp: Warp, lanes: Lanes) -> Array:
        """Writer words of the threads at their clocks, one a row."""
        words = (self.clocks.of(warp).clock << _WHO_BITS | warp.thread + 1).astype(np.uint32)
        return (words if lanes is None else words[lanes])[:, None]

    def _check_write(
        self, warp: Warp, lanes: Lanes, rows: Array, per: int, atomic: bool = False
    ) -> None:
        now = self.clocks.of(warp)
        floor = now.floor if lanes is None else now.floor[lanes]
        if self.under_way is not None:
            chunks = rows * per * self.grain // 16
            if self.under_way[chunks].any():
                at = int(np.flatnonzero(self.under_way[chunks])[0])
                raise RaceError(
                    "WriteAfterRead",
                    "shared memory is overwritten which a wgmma under way reads",
                    lane=_lane(lanes, at),
                )
        found = self.writer.reshape(-1, per).take(rows, axis=0)
        if atomic and not found.all():
            at = int(np.flatnonzero((found == 0).any(axis=1))[0])
            raise UninitialisedRead(
                "an atomic works on shared memory nobody wrote", lane=_lane(lanes, at)
            )
        if int(found.max()) >= (now.least + 1) << _WHO_BITS:
            bad = found.astype(np.int64) >= (floor + 1 << _WHO_BITS)[:, None]
            if atomic:
                who = found & _WHO
                bad &= (who < _ATOMIC) | (who >= _COLLECTIVE)
            if bad.any():
                self._judge_write(warp, lanes, found, bad)
        readers = self.readers.reshape(-1, per * self.warps).take(rows, axis=0)
        if int(readers.max()) >= (now.least + 1) << _LANE_BITS:
            bad = readers >= (floor + 1 << _LANE_BITS)[:, None]
            if bad.any():
                self._judge_overwrite(warp, lanes, readers, bad, per)

    # -- the exact rules, for the few accesses the cheap test did not settle ---------------------
    def _judge_read(
        self, warp: Warp, lanes: Lanes, found: Array, bad: Array, collective: bool
    ) -> None:
        at, col = np.nonzero(bad)
        word = found[at, col]
        where = at if lanes is None else lanes[at]
        if (empty := word == 0).any():
            lane = _first(where, empty)
            raise UninitialisedRead("shared memory is read that nobody wrote", lane=lane)
        if (flying := (word & _FLIGHT) != 0).any():
            lane = _first(where, flying)
            raise RaceError(
                "MissingWait", "the bytes read are still in flight (cp.async)", lane=lane
            )
        self._judge(warp, where, word, "read", collective)

    def _judge_write(self, warp: Warp, lanes: Lanes, found: Array, bad: Array) -> None:
        at, col = np.nonzero(bad)
        word = found[at, col]
        where = at if lanes is None else lanes[at]
        if (flying := (word & _FLIGHT) != 0).any():
            raise RaceError(
                "WriteInFlight",
                "the bytes written are the target of a cp.async in flight",
                lane=_first(where, flying),
            )
        self._judge(warp, where, word, "overwritten", False)

    def _judge(self, warp: Warp, where: Array, word: Array, verb: str, collective: bool) -> None:
        """A thread may do as it likes with what it wrote itself; anything else needs order.

        What ``ldmatrix`` reads goes to other threads than the one that gives the address.
        """
        who = (word & _WHO).astype(np.int64)
        clock = (word >> np.uint32(_WHO_BITS)).astype(np.int64)
        other = self._author(who)
        ordered = self.clocks.ordered(where // LANES, warp.number, other, clock)
        wrong = ~ordered if collective else ~ordered & (who - 1 != warp.thread[where])
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            same = int(other[i]) == warp.number
            author = self._describe(int(who[i]), int(other[i]))
            raise RaceError(
                "MissingWarpSync" if same else "MissingBarrier",
                f"shared memory written by {author} is {verb} with no "
                f"{'bar.warp.sync' if same else 'barrier'} between",
                lane=int(where[i]),
            )

    def _judge_overwrite(
        self, warp: Warp, lanes: Lanes, readers: Array, bad: Array, per: int
    ) -> None:
        at, col = np.nonzero(bad)
        word = readers[at, col].astype(np.int64)
        where = at if lanes is None else lanes[at]
        other = col % self.warps
        ordered = self.clocks.ordered(where // LANES, warp.number, other, word >> _LANE_BITS)
        same = (other == warp.number) & ((word & (1 << _LANE_BITS) - 1) == warp.lane[where])
        wrong = ~ordered & ~same
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise RaceError(
                "WriteAfterRead",
                f"shared memory is overwritten which warp {other[i]} may still be reading",
                lane=int(where[i]),
            )


def _lane(lanes: Lanes, at: int) -> int:
    return at if lanes is None else int(lanes[at])


def _first(where: Array, wrong: Array) -> int:
    return int(where[np.flatnonzero(wrong)[0]])
