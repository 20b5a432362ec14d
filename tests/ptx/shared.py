"""Shared memory of a batch of blocks: bytes, exact bounds, alignment, bank conflicts and the race
shadow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .clocks import Clocks
from .errors import Misaligned, OutOfBounds
from .shadow import Shadow
from .warp import Array, Warp

__all__ = ["SharedMemory", "bank_degree"]

Lanes = npt.NDArray[np.intp] | None

_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ROW = 128  # bytes that all 32 banks deliver in one wavefront


def bank_degree(address: Array, nbytes: int) -> tuple[int, int]:
    """Wavefronts that accesses of whole phases take.

    Parameters
    ----------
    address : int array, shape (phases, accesses)
        Byte addresses which the hardware serves together: 32 lanes for 4 bytes and less, 16 for 8,
        8 for 16.
    nbytes : int
        Size of an access.

    Returns
    -------
    degree : int
        The most wavefronts a phase takes; 1 is free of conflicts.
    extra : int
        Wavefronts beyond one a phase, over all phases.
    """
    unit = max(4, nbytes)
    slots = _ROW // unit
    units = address // unit
    slot = units & (slots - 1)
    if address.shape[1] == slots:
        taken = np.bitwise_or.reduce(np.left_shift(1, slot), axis=1)
        if bool((taken == (1 << slots) - 1).all()):
            return 1, 0
    phases = np.arange(len(units))[:, None]
    # Equal units are a broadcast: count each (phase, slot, unit) once.
    distinct = np.unique(np.stack([(phases * slots + slot).ravel(), units.ravel()]), axis=1)[0]
    counts = np.bincount(distinct, minlength=len(units) * slots).reshape(len(units), slots)
    worst = counts.max(axis=1)
    return int(worst.max()), int((worst - 1).sum())


class SharedMemory:
    """Shared memory of `blocks` blocks.

    Parameters
    ----------
    clocks : Clocks
        Order between warps.
    blocks : int
        Blocks of the batch.
    size : int
        Bytes of a block; an access beyond them is an error.
    grain : int
        Smallest access the kernel makes, for the race shadow; 0 keeps none.
    """

    def __init__(self, clocks: Clocks, blocks: int, size: int, grain: int) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        self.data = np.zeros(blocks * self.stride, np.uint8)
        self.shadow = Shadow(clocks, blocks, self.stride, grain) if grain and size else None
        self.views: dict[tuple[int, int], Array] = {}

    def rows(self, warp: Warp, lanes: Lanes, address: Array, nbytes: int) -> Array:
        """Which rows of `nbytes` bytes the addresses name, after checking bounds and alignment."""
        low, high = int(address.min()), int(address.max())
        if low < 0 or high + nbytes > self.size:
            at = int(np.flatnonzero((address < 0) | (address + nbytes > self.size))[0])
            raise OutOfBounds(
                f"{nbytes} bytes at shared address {int(address[at])}; the block has {self.size}",
                lane=at if lanes is None else int(lanes[at]),
            )
        if int(np.bitwise_or.reduce(address)) & nbytes - 1:
            at = int(np.flatnonzero(address & nbytes - 1)[0])
            raise Misaligned(
                f"shared address {int(address[at])} is not a multiple of {nbytes}",
                lane=at if lanes is None else int(lanes[at]),
            )
        block = warp.block if lanes is None else warp.block[lanes]
        index: Array = (address + block * self.stride) >> nbytes.bit_length() - 1
        return index

    def view(self, unit: int, nbytes: int) -> Array:
        """The bytes as rows of `nbytes`, in units of `unit` bytes."""
        found = self.views.get((unit, nbytes))
        if found is None:
            found = self.data.view(_DTYPES[unit])
            if nbytes != unit:
                found = found.reshape(-1, nbytes // unit)
            self.views[unit, nbytes] = found
        return found

    def read(
        self,
        warp: Warp,
        lanes: Lanes,
        address: Array,
        nbytes: int,
        unit: int,
        collective: bool = False,
    ) -> Array:
        """Bytes at the addresses, shape (n,) or (n, nbytes // unit)."""
        index = self.rows(warp, lanes, address, nbytes)
        if self.shadow is not None:
            self.shadow.read(warp, lanes, index, nbytes // self.shadow.grain, collective)
        out: Array = self.view(unit, nbytes).take(index, axis=0)
        return out

    def write(
        self,
        warp: Warp,
        lanes: Lanes,
        address: Array,
        value: Array,
        nbytes: int,
        collective: bool = False,
    ) -> None:
        """Store one row of units a thread."""
        index = self.rows(warp, lanes, address, nbytes)
        if self.shadow is not None:
            per = nbytes // self.shadow.grain
            self.shadow.write(warp, lanes, index, per, collective=collective)
        self.view(value.dtype.itemsize, nbytes)[index] = value

    def atomic_rows(self, warp: Warp, lanes: Lanes, address: Array, nbytes: int) -> Array:
        """Rows for an atomic, checked; the caller updates ``view(nbytes, nbytes)`` itself."""
        index = self.rows(warp, lanes, address, nbytes)
        if self.shadow is not None:
            self.shadow.atomic(warp, lanes, index, nbytes // self.shadow.grain)
        return index
