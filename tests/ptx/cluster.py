"""Clusters: blocks that run at the same time and reach each other's shared memory.

Each block is a `Launch` of its own, with its own shared memory, clocks and mbarriers. A shared
address of another block carries that block's rank, one up, above the bits of an offset: so an
address of the block's own is the same in both windows. What a thread does in another block is
checked there against what it knows of that block's clocks, which came with arrivals and waits at
the scope of the cluster.

Reference: PTX ISA 9.0, "Cluster of Cooperative Thread Arrays", "mapa", "barrier.cluster".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import BarrierMisuse, OutOfBounds
from .warp import Array, Warp

if TYPE_CHECKING:
    from .launch import Launch

__all__ = ["Cluster"]

_OFFSET_BITS = 24


class Cluster:
    """The blocks of one cluster, in the order of their ranks, and their common barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.launches: list[Launch] = []
        self.warps: list[list[Warp]] = []
        # Of the common barrier: the phase each warp waits for the end of, and what those that have
        # arrived in the phase under way hand over, by rank and warp.
        self.phase = 0
        self.awaited: dict[tuple[int, int], int] = {}
        self.arrived: dict[tuple[int, int], Array] = {}
        self.known: dict[int, Array] = {}

    def join(self, launch: Launch) -> int:
        """Add a block; returns its rank."""
        self.launches.append(launch)
        return len(self.launches) - 1

    # -- addresses -------------------------------------------------------------------------------
    def map(self, address: Array, rank: Array) -> Array:
        """``mapa``: the address of the same offset in the block of that rank."""
        if (rank >= self.size).any():
            raise OutOfBounds(f"mapa to block {int(rank.max())} of a cluster of {self.size}")
        return (address & (1 << _OFFSET_BITS) - 1) + (rank.astype(np.int64) + 1 << _OFFSET_BITS)

    def place(self, launch: Launch, address: int) -> tuple[Launch, int]:
        """The block that an address is in, and its offset there."""
        rank = (address >> _OFFSET_BITS) - 1
        offset = address & (1 << _OFFSET_BITS) - 1
        return (launch if rank < 0 else self.launches[rank]), offset

    # -- order -----------------------------------------------------------------------------------
    def translate(self, known: Array, source: Launch, target: Launch) -> Array:
        """Clocks as `source` keeps them, shape (..., columns), in the columns of `target`."""
        width = source.clocks.warps + 1
        out = np.zeros_like(known)
        for rank in range(self.size):
            there = (rank - source.rank) % self.size * width
            here = (rank - target.rank) % self.size * width
            out[..., here : here + width] = known[..., there : there + width]
        return out

    def knows(self, warp: Warp, target: Launch) -> Array:
        """What a warp knows of the clocks of another block: seen, shown, over; (3, columns)."""
        source, w = warp.launch, warp.number
        clocks = source.clocks
        mine = np.stack([x[0, w] for x in (clocks.seen, clocks.shown, clocks.over)])
        mine[2] = np.maximum(mine[2], mine[0])
        return self.translate(mine, source, target)

    def arrive(
        self, warp: Warp, lane: int, address: int, count: int, whole: bool, scope: bool
    ) -> None:
        """Arrive at an mbarrier of any block; at the cluster's `scope` with what was written."""
        source = warp.launch
        target, offset = self.place(source, address)
        if target is source:
            source.mbarriers.arrive(warp, lane, offset, count, 0, whole)
            return
        self._check_running(target, lane)
        found = target.mbarriers.find(warp, lane, offset, self.knows(warp, target))
        row = np.array([0])
        handed = source.clocks.publish(warp.number, row, waits=False, whole=whole)[0]
        handed = self.translate(handed, source, target)
        if not scope:
            handed[:2] = 0
        target.mbarriers.count(found, lane, offset, count, handed)

    def deliver(
        self, warp: Warp, lane: int, ranks: int, to: Array, value: Array, barrier: int
    ) -> None:
        """Bring rows of 16 bytes to the same place in every block whose bit `ranks` has."""
        source = warp.launch
        if not ranks or ranks >> self.size:
            raise OutOfBounds(f"multicast to {ranks:#b} in a cluster of {self.size}", lane=lane)
        for rank in range(self.size):
            if not ranks >> rank & 1:
                continue
            target = self.launches[rank]
            self._check_running(target, lane)
            knows = None if target is source else self.knows(warp, target)
            target.bulk.deliver(warp, lane, to, value, barrier, knows)

    # -- barrier.cluster -------------------------------------------------------------------------
    def sync_arrive(self, warp: Warp, releases: bool) -> None:
        """``barrier.cluster.arrive`` by a whole warp."""
        launch = warp.launch
        key = launch.rank, warp.number
        if key in self.awaited:
            raise BarrierMisuse(f"warp {warp.number} arrives twice at the cluster's barrier")
        self.awaited[key] = self.phase
        handed = launch.clocks.publish(warp.number, np.array([0]), waits=False)[0]
        self.arrived[key] = handed if releases else np.zeros_like(handed)
        launch.mbarriers.events += 1

    def sync_wait(self, warp: Warp, acquires: bool) -> bool:
        """``barrier.cluster.wait``: whether all threads that have not left have arrived."""
        launch = warp.launch
        key = launch.rank, warp.number
        if key not in self.awaited:
            raise BarrierMisuse(f"warp {warp.number} waits for the cluster without an arrival")
        if self.awaited[key] == self.phase and not self._complete():
            return False
        del self.awaited[key]
        if acquires:
            launch.clocks.acquire(warp.number, 0, self.known[launch.rank])
        launch.clocks.sync_warp(warp.number, np.array([0]))
        return True

    def _complete(self) -> bool:
        """End the phase, if nobody is missing."""
        for launch, warps in zip(self.launches, self.warps, strict=True):
            for warp in warps:
                if warp.alive.any() and (launch.rank, warp.number) not in self.arrived:
                    return False
        for target in self.launches:
            self.known[target.rank] = np.max(
                [
                    self.translate(handed, self.launches[rank], target)
                    for (rank, _), handed in self.arrived.items()
                ],
                axis=0,
            )
            target.mbarriers.events += 1
        self.arrived.clear()
        self.phase += 1
        return True

    def _check_running(self, target: Launch, lane: int) -> None:
        if not any(warp.alive.any() for warp in self.warps[target.rank]):
            raise BarrierMisuse(
                f"the shared memory of block {target.rank} of the cluster is used, which has ended",
                lane=lane,
            )
