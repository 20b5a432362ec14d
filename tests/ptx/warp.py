"""One warp position of a batch of blocks, run in lock-step.

A `Warp` is warp number `number` of every block in the batch at once: a register is one array over
(block x lane). NumPy's cost for a call is then shared by up to 64 warps. Threads that disagree
about the next instruction become fragments, each a program counter and a mask; the fragment with
the lowest program counter runs first, so fragments meet again where compiled code joins (min-pc
reconvergence).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from .errors import UninitialisedRegister

if TYPE_CHECKING:
    from .copies import AsyncCopies
    from .launch import Launch
    from .products import Products

__all__ = ["LANES", "Array", "Mask", "Unset", "Waiting", "Warp"]

Array = npt.NDArray[Any]
# Which threads of the slot execute; None means all of them, the case worth being fast for.
Mask = npt.NDArray[np.bool_] | None

LANES = 32


class Unset:
    """What a register holds before its first write: using it is an error that names it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, _: str) -> NoReturn:
        raise UninitialisedRegister(f"{self.name} is read before anything wrote it")


@dataclass(slots=True)
class Waiting:
    """Threads that stand at a barrier: of which blocks, which ones, where they go on."""

    barrier: int
    blocks: npt.NDArray[np.bool_]
    mask: npt.NDArray[np.bool_]
    resume: int
    # Called with the released threads, and for each block the votes of a barrier.red and the
    # voters.
    finish: Callable[[Array, Array, Array], None] | None = None


class Warp:
    """Warp `number` of each block of a batch.

    Parameters
    ----------
    launch : Launch
        What the warp shares with the others of its batch.
    number : int
        Warp number in the block.
    registers : list of Unset
        The kernel's registers before anything wrote them.
    """

    def __init__(self, launch: Launch, number: int, registers: list[Unset]) -> None:
        self.launch = launch
        self.number = number
        self.blocks = launch.blocks
        self.size = launch.blocks * LANES
        self.regs: list[Any] = list(registers)
        lane = np.tile(np.arange(LANES, dtype=np.int64), self.blocks)
        self.lane = lane
        self.block = np.repeat(np.arange(self.blocks, dtype=np.int64), LANES)
        self.thread = lane + number * LANES
        # Threads the block has at all, and those which have not left the kernel.
        self.exists: npt.NDArray[np.bool_] = self.thread < launch.threads
        self.alive = self.exists
        # Ready fragments by program counter; a fragment of None is every thread.
        self.ready: dict[int, Mask] = {0: None if bool(self.alive.all()) else self.alive}
        # Fragments in front of a collective whose other threads have not come yet.
        self.stalled: dict[int, npt.NDArray[np.bool_]] = {}
        # Fragments that gave way (nanosleep, a failed try_wait, a used-up time slice); ready again
        # next round.
        self.parked: dict[int, Mask] = {}
        # Where parked fragments only poll an mbarrier.
        self.polling: set[int] = set()
        self.waiting: list[Waiting] = []
        self.special: dict[str, Array] = {}
        self.carry: Array = np.zeros(self.size, np.uint64)
        self.copies: AsyncCopies = launch.new_copies(self)
        self.products: Products = launch.new_products(self)
        self.local: Array | None = None
        # Expanded matrix fragments with the register arrays they were made from.
        self.fragments: dict[tuple[object, ...], tuple[list[Array], Array, Array | None]] = {}
        self.pc = 0

    def lanes_of(self, mask: Mask) -> npt.NDArray[np.intp] | None:
        """Positions of the active threads, or None for all."""
        return None if mask is None else np.flatnonzero(mask)

    def whole(self, value: Array) -> Array:
        """A value for each thread, where constants come as scalars."""
        return value if value.ndim else np.full(self.size, value)

    def as_bools(self, mask: Mask) -> npt.NDArray[np.bool_]:
        """The mask as an array."""
        return np.ones(self.size, bool) if mask is None else mask

    def add(self, pc: int, mask: Mask) -> None:
        """Make a fragment ready at `pc`, joined with what already waits there."""
        for others in (self.ready, self.stalled):
            if pc in others:
                other = others.pop(pc)
                # A full fragment leaves no thread for another, so neither of the two can be full.
                mask = self.as_bools(mask) | self.as_bools(other)
        if mask is not None:
            if bool(mask.all()):
                mask = None
            elif bool((mask == self.alive).all()):
                mask = self.alive
        self.ready[pc] = mask

    def park(self, pc: int, mask: Mask, *, polls: bool = False) -> None:
        """Let others run first; the threads are ready again in the next round.

        With `polls` they only look again whether something has happened.
        """
        if polls:
            self.polling.add(pc)
        held = self.parked.get(pc)
        self.parked[pc] = mask if held is None else self.as_bools(mask) | held

    def put(self, index: int, mask: Mask, value: Array) -> None:
        """Write a register for the active threads.

        Arrays in the register file are never changed in place: registers may share one after a
        ``mov``. Threads that have left may get any value, which spares a merge where blocks of the
        batch have ended early.
        """
        if mask is None or mask is self.alive:
            self.regs[index] = value
        else:
            old = self.regs[index]
            self.regs[index] = np.where(
                mask, value, value.dtype.type(0) if isinstance(old, Unset) else old
            )

    def put_lanes(self, index: int, lanes: npt.NDArray[np.intp], value: Array) -> None:
        """Write a register for the threads at `lanes`; `value` has one entry for each of them."""
        old = self.regs[index]
        new = np.zeros(self.size, value.dtype) if isinstance(old, Unset) else old.copy()
        new[lanes] = value
        self.regs[index] = new

    def retire(self, mask: Mask) -> None:
        """The threads have left the kernel."""
        self.alive = self.alive & ~self.as_bools(mask)

    @property
    def done(self) -> bool:
        return not (self.ready or self.stalled or self.parked or self.waiting)
