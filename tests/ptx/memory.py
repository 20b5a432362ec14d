"""Device memory: allocations with exact bounds, alignment, and a shadow of who wrote what.

Every buffer is an allocation of its own, far from the next, so that an address computed past its
end names nothing. A kernel addresses all state spaces through one 64-bit space, as on the device:
shared, local and parameter memory appear in windows which no allocation overlaps.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import Misaligned, OutOfBounds, RaceError, UninitialisedRead
from .warp import LANES, Array, Warp

__all__ = [
    "LOCAL_SIZE",
    "LOCAL_WINDOW",
    "PARAM_WINDOW",
    "SHARED_WINDOW",
    "Allocation",
    "GlobalMemory",
]

Lanes = npt.NDArray[np.intp] | None

# Name under which the symbols give the bytes of local memory a thread has; no PTX name looks so.
LOCAL_SIZE = "%local"
SHARED_WINDOW = 0x0100_0000_0000_0000
LOCAL_WINDOW = 0x0200_0000_0000_0000
PARAM_WINDOW = 0x0300_0000_0000_0000
_FIRST = 0x7F00_0000_0000
# Larger than any 32-bit offset: wrapped or unsigned index arithmetic cannot reach a neighbour.
_GAP = 1 << 34
_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
# Shadow word of a byte: clock above, global thread number + 1 below.
_THREAD_BITS = 40
_THREAD = np.uint64((1 << _THREAD_BITS) - 1)


@dataclass(slots=True, eq=False)
class Allocation:
    """One buffer: `size` bytes at `base`; `data` is padded to 16 bytes so that it can be seen as
    wider units.
    """

    base: int
    size: int
    data: npt.NDArray[np.uint8]
    name: str
    initialised: npt.NDArray[np.bool_] | None = None
    writer: npt.NDArray[np.uint64] | None = None
    constant: bool = False

    @property
    def end(self) -> int:
        return self.base + self.size


class GlobalMemory:
    """The device's memory; it outlives launches."""

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self._bases: list[int] = []
        self._next = _FIRST
        self.check_races = True
        # False once a kernel has fences or atomics that may order blocks: then only bounds are
        # checked.
        self.check_blocks = True

    # -- host side -------------------------------------------------------------------------------
    def allocate(
        self, size: int, name: str = "", *, initialised: bool = True, align: int = 256
    ) -> Allocation:
        """A new zero-filled allocation of exactly `size` bytes."""
        base = -(-self._next // align) * align
        self._next = base + size + _GAP
        found = Allocation(base, size, np.zeros(-(-max(size, 1) // 16) * 16, np.uint8), name)
        if not initialised:
            found.initialised = np.zeros(len(found.data), bool)
        self.allocations.append(found)
        self._bases.append(base)
        return found

    def to_device(self, array: npt.ArrayLike, *, initialised: bool = True, name: str = "") -> int:
        """Copy an array to a new allocation and return its address.

        Parameters
        ----------
        array : array_like
        initialised : bool
            False: the kernel must write a byte before it may read it (the values are still copied).
        name : str
            Used in error messages.
        """
        host = np.ascontiguousarray(array)
        found = self.allocate(host.nbytes, name, initialised=initialised)
        found.data[: host.nbytes] = np.frombuffer(host.tobytes(), np.uint8)
        return found.base

    def to_host(self, address: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Copy device bytes back; `address` may lie inside an allocation."""
        kind: np.dtype[Any] = np.dtype(dtype)
        count = int(np.prod(shape))
        found = self.find(address, count * kind.itemsize)
        if found is None:
            raise OutOfBounds(f"no allocation holds {count * kind.itemsize} bytes at {address:#x}")
        start = address - found.base
        raw = found.data[start : start + count * kind.itemsize].copy()
        out: Array = raw.view(kind).reshape(shape)
        return out

    def free(self, address: int) -> None:
        """Forget the allocation that starts at `address`; later accesses are out of bounds."""
        at = bisect_right(self._bases, address) - 1
        if at < 0 or self._bases[at] != address:
            raise OutOfBounds(f"no allocation starts at {address:#x}")
        del self.allocations[at], self._bases[at]

    def find(self, address: int, nbytes: int) -> Allocation | None:
        """The allocation which holds all of these bytes."""
        at = bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        found = self.allocations[at]
        return found if address + nbytes <= found.end else None

    def start_launch(self, check_races: bool, check_blocks: bool) -> None:
        self.check_races, self.check_blocks = check_races, check_blocks
        for found in self.allocations:
            found.writer = None

    # -- device side -----------------------------------------------------------------------------
    def check_alignment(self, lanes: Lanes, address: Array, nbytes: int) -> None:
        if int(np.bitwise_or.reduce(address)) & nbytes - 1:
            at = int(np.flatnonzero(address & nbytes - 1)[0])
            raise Misaligned(
                f"address {int(address[at]):#x} is not a multiple of {nbytes}",
                lane=_lane(lanes, at),
            )

    def _parts(
        self, lanes: Lanes, address: Array, nbytes: int
    ) -> list[tuple[Allocation, npt.NDArray[np.intp] | None, Array]]:
        """Split accesses by allocation: (allocation, which accesses or None for all, rows)."""
        self.check_alignment(lanes, address, nbytes)
        low, high = int(address.min()), int(address.max())
        shift = nbytes.bit_length() - 1
        found = self.find(low, nbytes)
        if found is not None and high + nbytes <= found.end:
            return [(found, None, (address - found.base) >> shift)]
        parts: list[tuple[Allocation, npt.NDArray[np.intp] | None, Array]] = []
        left = np.arange(len(address))
        while len(left):
            first = int(address[left[0]])
            found = self.find(first, nbytes)
            if found is None:
                raise OutOfBounds(self._describe(first, nbytes), lane=_lane(lanes, int(left[0])))
            here = (address[left] >= found.base) & (address[left] + nbytes <= found.end)
            some = left[here]
            parts.append((found, some, (address[some] - found.base) >> shift))
            left = left[~here]
        return parts

    def _describe(self, address: int, nbytes: int) -> str:
        at = bisect_right(self._bases, address) - 1
        if address < 0 or at < 0:
            return f"{nbytes} bytes at {address:#x}: no allocation is there"
        near = self.allocations[at]
        name = near.name or "an allocation"
        return (
            f"{nbytes} bytes at {address:#x}: {name} has {near.size} bytes, "
            f"this is byte {address - near.base}"
        )

    def read(self, warp: Warp, lanes: Lanes, address: Array, nbytes: int, unit: int) -> Array:
        """Bytes at the addresses, shape (n,) or (n, nbytes // unit)."""
        parts = self._parts(lanes, address, nbytes)
        shape = (len(address),) if unit == nbytes else (len(address), nbytes // unit)
        out: Array = np.empty(0)
        for found, some, rows in parts:
            if found.initialised is not None:
                known = found.initialised.reshape(-1, nbytes)[rows]
                if not known.all():
                    at = int(np.flatnonzero(~known.all(axis=1))[0])
                    raise UninitialisedRead(
                        f"{found.name or 'a buffer'}: nobody wrote the {nbytes} bytes from byte "
                        f"{int(rows[at]) * nbytes}",
                        lane=_lane(lanes, at if some is None else int(some[at])),
                    )
            if found.writer is not None:
                self._check(warp, lanes, found, some, rows, nbytes, "read")
            view = found.data.view(_DTYPES[unit])
            value = (view if unit == nbytes else view.reshape(-1, nbytes // unit)).take(
                rows, axis=0
            )
            if some is None:
                return value
            if not out.size:
                out = np.empty(shape, value.dtype)
            out[some] = value
        return out

    def write(self, warp: Warp, lanes: Lanes, address: Array, value: Array, nbytes: int) -> None:
        """Store one row of units a thread."""
        unit = value.dtype.itemsize
        for found, some, rows in self._parts(lanes, address, nbytes):
            if found.constant:
                raise OutOfBounds(f"{found.name} is constant memory and cannot be written")
            if self.check_races:
                if found.writer is None:
                    found.writer = np.zeros(len(found.data), np.uint64)
                self._check(warp, lanes, found, some, rows, nbytes, "overwritten", note=True)
            if found.initialised is not None:
                found.initialised.reshape(-1, nbytes)[rows] = True
            view = found.data.view(_DTYPES[unit])
            view = view if unit == nbytes else view.reshape(-1, nbytes // unit)
            view[rows] = value if some is None else value[some]

    def atomic_rows(
        self, lanes: Lanes, address: Array, nbytes: int
    ) -> list[tuple[Array, Array, Array]]:
        """For an atomic: (memory in units of `nbytes`, which accesses, their places); atomics do
        not race.
        """
        out = []
        for found, some, rows in self._parts(lanes, address, nbytes):
            if (
                found.initialised is not None
                and not found.initialised.reshape(-1, nbytes)[rows].all()
            ):
                raise UninitialisedRead(
                    f"an atomic works on bytes of {found.name or 'a buffer'} nobody wrote"
                )
            which = np.arange(len(address)) if some is None else some
            out.append((found.data.view(_DTYPES[nbytes]), which, rows))
        return out

    def _check(
        self,
        warp: Warp,
        lanes: Lanes,
        found: Allocation,
        some: Array | None,
        rows: Array,
        nbytes: int,
        verb: str,
        note: bool = False,
    ) -> None:
        """Compare with the last writer of every byte in this launch; with `note`, become it."""
        assert found.writer is not None
        view = found.writer.reshape(-1, nbytes)
        where = some if lanes is None else lanes if some is None else lanes[some]
        me = warp.launch.thread_words(warp)
        if where is not None:
            me = me[where]
        before = view[rows]
        foreign = (before != 0) & ((before ^ me[:, None]) & _THREAD != 0)
        if foreign.any():
            self._judge(warp, found, where, rows, before, foreign, nbytes, verb)
        if note:
            view[rows] = me[:, None]
            clash = (view[rows] ^ me[:, None]) & _THREAD
            if clash.any():
                self._judge_clash(warp, found, where, me, view[rows], clash)

    def _judge_clash(
        self,
        warp: Warp,
        found: Allocation,
        where: Array | None,
        me: Array,
        after: Array,
        clash: Array,
    ) -> None:
        """Two threads of one instruction wrote the same bytes; they may be of two blocks."""
        at, col = np.nonzero(clash)
        winner = (after[at, col] & _THREAD).astype(np.int64) - 1
        mine = (me[at] & _THREAD).astype(np.int64) - 1
        threads = warp.launch.threads
        same = winner // threads == mine // threads
        if not same.any() and not self.check_blocks:
            return
        i = int(np.flatnonzero(same)[0]) if same.any() else 0
        raise RaceError(
            "SameInstruction" if same[i] else "CrossBlock",
            f"{found.name or 'a buffer'}: thread {winner[i] % threads} of block "
            f"{winner[i] // threads} writes the same bytes",
            lane=int(at[i] if where is None else where[at[i]]),
        )

    def _judge(
        self,
        warp: Warp,
        found: Allocation,
        where: Array | None,
        rows: Array,
        before: Array,
        foreign: Array,
        nbytes: int,
        verb: str,
    ) -> None:
        launch = warp.launch
        at, _ = np.nonzero(foreign)
        word = before[foreign]
        thread = (word & _THREAD).astype(np.int64) - 1
        clock = (word >> np.uint64(_THREAD_BITS)).astype(np.int64)
        lane = at if where is None else where[at]
        same = thread // launch.threads == launch.block_numbers[lane // LANES]
        warps = thread % launch.threads // LANES
        ordered = np.full(len(at), not self.check_blocks)
        ordered |= same & launch.clocks.ordered(lane // LANES, warp.number, warps, clock)
        if not ordered.all():
            i = int(np.flatnonzero(~ordered)[0])
            kind = "CrossBlock" if not same[i] else "MissingBarrier"
            if same[i] and warps[i] == warp.number:
                kind = "MissingWarpSync"
            raise RaceError(
                kind,
                f"{found.name or 'a buffer'}, byte {int(rows[at[i]]) * nbytes}: written by thread "
                f"{thread[i] % launch.threads} of block {thread[i] // launch.threads}, then {verb}",
                lane=int(lane[i]),
            )


def _lane(lanes: Lanes, at: int) -> int:
    return at if lanes is None else int(lanes[at])
