"""``mbarrier`` objects in shared memory: phases, pending arrivals, transaction counts.

A phase completes when no arrivals are pending and the transaction count is zero. Who has waited for
it sees what those who arrived in it, and the bulk copies that signalled it, hand over.

Reference: PTX ISA 9.0, "Parallel Synchronization and Communication Instructions: mbarrier".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clocks import Clocks
from .errors import BarrierDeadlock, BarrierMisuse, Misaligned, RaceError
from .shared import SharedMemory
from .warp import Array, Warp

__all__ = ["MBarrier", "MBarriers"]

_MOST = (1 << 20) - 1  # arrivals, and the transaction count on either side of zero


@dataclass(slots=True)
class MBarrier:
    """One object. `handed` is what arrivals of the phase under way hand over, `known` what those
    of complete phases did.
    """

    count: int
    pending: int
    words: Array
    author: tuple[int, int]
    handed: Array
    known: Array
    transactions: int = 0
    phase: int = 0
    published: bool = False


class MBarriers:
    """The objects of a batch of blocks.

    Parameters
    ----------
    clocks : Clocks
    shared : SharedMemory
        Where they lie; an object whose 8 bytes were written by anything else is refused.

    Attributes
    ----------
    events : int
        Grows with whatever may let somebody go on.
    """

    def __init__(self, clocks: Clocks, shared: SharedMemory) -> None:
        self.clocks, self.shared = clocks, shared
        self.objects: dict[tuple[int, int], MBarrier] = {}
        self.events = 0

    def init(self, warp: Warp, lane: int, address: int, count: int) -> None:
        """``mbarrier.init``: as if 8 bytes were written."""
        if not 1 <= count <= _MOST:
            raise BarrierMisuse(f"an mbarrier for {count} arrivals; 1 to {_MOST} are allowed")
        rows = self._rows(warp, lane, address)
        if self.shared.shadow is not None:
            lanes = np.array([lane])
            self.shared.shadow.write(warp, lanes, rows, 8 // self.shared.shadow.grain)
        block = int(warp.block[lane])
        nothing = np.zeros((3, self.clocks.columns), np.int64)
        author = (warp.number, int(self.clocks.clock[block, warp.number]))
        self.objects[block, address] = MBarrier(
            count, count, self._words(rows), author, nothing, nothing.copy()
        )
        self.events += 1

    def invalidate(self, warp: Warp, lane: int, address: int) -> None:
        """``mbarrier.inval``: the bytes may be used for something else."""
        self.find(warp, lane, address)
        del self.objects[int(warp.block[lane]), address]

    def find(self, warp: Warp, lane: int, address: int, knows: Array | None = None) -> MBarrier:
        """The object at an address, as a thread that may use it finds it.

        `knows` is what a thread of another block of the cluster has seen of this one's clocks.
        """
        block = int(warp.block[lane])
        found = self.objects.get((block, address))
        if found is None:
            raise BarrierMisuse(
                f"no mbarrier was initialised at shared address {address}", lane=lane
            )
        rows = self._rows(warp, lane, address)
        if not np.array_equal(self._words(rows), found.words):
            raise BarrierMisuse(
                f"the mbarrier at shared address {address} was overwritten", lane=lane
            )
        author, clock = found.author
        if knows is None:
            ordered = author == warp.number or self.clocks.seen[block, warp.number, author] >= clock
        else:
            ordered = bool(knows[0, author] >= clock)
        if not ordered:
            raise RaceError(
                "MissingBarrier",
                f"the mbarrier at {address} is used with no barrier after its initialisation",
                lane=lane,
            )
        return found

    def arrive(
        self, warp: Warp, lane: int, address: int, count: int, expected: int, whole: bool
    ) -> None:
        """An arrival; with `expected` bytes added to the transaction count before it."""
        found = self.find(warp, lane, address)
        block = np.array([int(warp.block[lane])])
        self.expect(found, expected, lane)
        handed = self.clocks.publish(warp.number, block, waits=False, whole=whole)[0]
        self.count(found, lane, address, count, handed)

    def count(self, found: MBarrier, lane: int, address: int, count: int, handed: Array) -> None:
        """Count arrivals by whoever hands over what `handed` says."""
        found.handed = np.maximum(found.handed, handed)
        if count > found.pending:
            raise BarrierMisuse(
                f"{count} arrivals at the mbarrier at {address}, whose phase waits for "
                f"{found.pending} of {found.count}",
                lane=lane,
            )
        found.pending -= count
        self._complete(found)

    def expect(self, found: MBarrier, expected: int, lane: int) -> None:
        """Let the phase wait for more bytes."""
        found.transactions += expected
        if abs(found.transactions) > _MOST:
            raise BarrierMisuse(f"a transaction count of {found.transactions}", lane=lane)
        self.events += 1

    def transfer(self, found: MBarrier, nbytes: int, clock: int) -> None:
        """The copy engine has moved `nbytes`, at its own `clock`."""
        found.handed = found.handed.copy()
        for row in (0, 2):
            found.handed[row, self.clocks.engine] = max(
                found.handed[row, self.clocks.engine], clock
            )
        found.transactions -= nbytes
        if abs(found.transactions) > _MOST:
            raise BarrierMisuse(f"a transaction count of {found.transactions}")
        self._complete(found)

    def poll(
        self, warp: Warp, lane: int, address: int, parity: int, *, cluster: bool = False
    ) -> bool:
        """Whether the phase of that parity is complete; if so the warp sees what it handed over.

        What threads of other blocks wrote only if it waits at the scope of the `cluster`.
        """
        if parity not in (0, 1):
            raise BarrierMisuse(f"a phase parity of {parity}", lane=lane)
        found = self.find(warp, lane, address)
        if found.phase & 1 == parity:
            return False
        known = found.known
        if not cluster:
            known = known.copy()
            known[:2, self.clocks.engine + 1 :] = 0
        self.clocks.acquire(warp.number, int(warp.block[lane]), known)
        return True

    def publish(self, warp: Warp, block: int) -> None:
        """The initialisations by `warp` are visible to the asynchronous proxy from now on."""
        for (where, _), found in self.objects.items():
            if where == block and found.author[0] == warp.number:
                found.published = True

    def deadlock(self, lane: int) -> BarrierDeadlock:
        """Describe what nobody will complete."""
        states = ", ".join(
            f"{address}: phase {b.phase}, {b.pending} of {b.count} arrivals and "
            f"{b.transactions} bytes missing"
            for (_, address), b in self.objects.items()
        )
        return BarrierDeadlock(
            f"threads poll mbarriers whose phases can no longer complete ({states})", lane=lane
        )

    def _complete(self, found: MBarrier) -> None:
        self.events += 1
        if found.pending or found.transactions:
            return
        found.known = np.maximum(found.known, found.handed)
        found.handed = np.zeros_like(found.handed)
        found.pending = found.count
        found.phase += 1

    def _rows(self, warp: Warp, lane: int, address: int) -> Array:
        if address % 8:
            raise Misaligned(f"an mbarrier at {address}, which is not a multiple of 8", lane=lane)
        return self.shared.rows(warp, np.array([lane]), np.array([address]), 8)

    def _words(self, rows: Array) -> Array:
        """The shadow's writer words of an object."""
        shadow = self.shared.shadow
        if shadow is None:
            return np.zeros(1)
        return shadow.writer.reshape(-1, 8 // shadow.grain)[rows].copy()
