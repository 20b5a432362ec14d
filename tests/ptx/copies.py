"""``cp.async`` groups of one warp position.

A copy reads global memory when issued and lands in shared memory when its threads wait for its
group; until then the target is marked as in flight. Groups belong to threads, so every thread
counts its own commits: blocks of a batch may run different numbers of iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .shared import SharedMemory
from .warp import Array, Mask, Warp

__all__ = ["AsyncCopies"]


@dataclass(slots=True)
class _Copy:
    """One ``cp.async`` instruction of the slot, or the part of it that has not landed."""

    lanes: npt.NDArray[np.intp]
    group: Array
    rows: Array
    value: Array
    nbytes: int
    first: int
    last: int


class AsyncCopies:
    """Copies in flight, in the order of issue.

    Parameters
    ----------
    shared : SharedMemory
        Where they land.
    size : int
        Threads of the slot.
    """

    def __init__(self, shared: SharedMemory, size: int) -> None:
        self.shared = shared
        self.committed = np.zeros(size, np.int64)
        self.pending: list[_Copy] = []
        self._all = np.arange(size)

    def issue(
        self,
        warp: Warp,
        lanes: npt.NDArray[np.intp] | None,
        address: Array,
        value: Array,
        nbytes: int,
    ) -> None:
        """Start copies of `value`, one row of `nbytes` a thread, to shared `address`."""
        rows = self.shared.rows(warp, lanes, address, nbytes)
        if self.shared.shadow is not None:
            self.shared.shadow.write(
                warp, lanes, rows, nbytes // self.shared.shadow.grain, in_flight=True
            )
        where = self._all if lanes is None else lanes
        group = self.committed[where]
        self.pending.append(
            _Copy(where, group, rows, value, nbytes, int(group.min()), int(group.max()))
        )

    def commit(self, mask: Mask) -> None:
        """Close the current group of the active threads."""
        self.committed = self.committed + (1 if mask is None else mask)

    def wait(self, warp: Warp, mask: Mask, newest: int | None) -> None:
        """Land what the active threads committed, except their `newest` groups; None lands
        everything.

        ``wait_all`` (None) also lands copies which were not committed.
        """
        if not self.pending:
            return
        # A copy belongs to a landed group if its number is below the limit of its thread.
        limit = self.committed + 1 if newest is None else self.committed - newest
        least, most = int(limit.min()), int(limit.max())
        kept = []
        for copy in self.pending:
            if mask is None and copy.last < least:
                self._land(warp, copy)
                continue
            if copy.first >= most:
                kept.append(copy)
                continue
            lands = copy.group < limit[copy.lanes]
            if mask is not None:
                lands &= mask[copy.lanes]
            if lands.any():
                self._land(warp, _part(copy, lands))
            if not lands.all():
                kept.append(_part(copy, ~lands))
        self.pending = kept

    def _land(self, warp: Warp, copy: _Copy) -> None:
        shared = self.shared
        shared.view(copy.value.dtype.itemsize, copy.nbytes)[copy.rows] = copy.value
        if shared.shadow is not None:
            shared.shadow.land(warp, copy.lanes, copy.rows, copy.nbytes // shared.shadow.grain)


def _part(copy: _Copy, some: npt.NDArray[np.bool_]) -> _Copy:
    group = copy.group[some]
    return _Copy(
        copy.lanes[some],
        group,
        copy.rows[some],
        copy.value[some],
        copy.nbytes,
        int(group.min()),
        int(group.max()),
    )
