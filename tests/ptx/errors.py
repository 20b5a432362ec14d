"""What a kernel can do wrong: one named exception for each misuse.

All derive from `PtxError`. The machine adds where it happened (kernel, source line, block, thread),
so an instruction raises only what and why.
"""

# ruff: noqa: N818
# The names say what happened, not that something did: `raise OutOfBounds(...)`.

from __future__ import annotations

__all__ = [
    "AccumulatorInUse",
    "BarrierDeadlock",
    "BarrierMisuse",
    "DivergentCollective",
    "IllegalSelector",
    "IntegerDivisionByZero",
    "InvalidMetadata",
    "InvalidOperand",
    "KernelTrap",
    "LaunchError",
    "Livelock",
    "Misaligned",
    "OutOfBounds",
    "ParseError",
    "PtxError",
    "RaceError",
    "UndefinedShuffle",
    "UninitialisedRead",
    "UninitialisedRegister",
    "UnknownOpcode",
]


class PtxError(Exception):
    """Base of everything the interpreter refuses.

    Attributes
    ----------
    lane : int or None
        Offending position in the lock-step slot (block-in-batch x 32 + lane); the machine turns it
        into a block and a thread.
    """

    def __init__(self, message: str, *, lane: int | None = None) -> None:
        super().__init__(message)
        self.lane = lane
        self.where = ""

    def __str__(self) -> str:
        return f"{self.args[0]}\n  {self.where}" if self.where else str(self.args[0])


class ParseError(PtxError):
    """The text is not PTX that this interpreter reads."""


class UnknownOpcode(PtxError):
    """An instruction, or a modifier of one, that the interpreter does not know."""


class InvalidOperand(PtxError):
    """An operand has the wrong width, kind or value for its instruction."""


class LaunchError(PtxError):
    """Grid, block, arguments or shared bytes do not fit the kernel."""


class OutOfBounds(PtxError):
    """An access outside every allocation, or across the end of one."""


class Misaligned(PtxError):
    """An address that is not a multiple of the access size."""


class UninitialisedRead(PtxError):
    """Memory was read that nobody wrote."""


class UninitialisedRegister(PtxError):
    """A register was read before any instruction wrote it."""


class RaceError(PtxError):
    """Two accesses to the same bytes which nothing orders.

    Attributes
    ----------
    kind : str
        ``"MissingBarrier"``: other warp, no barrier between; ``"MissingWarpSync"``: other lane of
        the same warp, no ``bar.warp.sync`` between; ``"MissingWait"``: bytes of a ``cp.async`` in
        flight were read; ``"MissingFence"``: the asynchronous proxy reads what no proxy fence has
        shown it; ``"WriteInFlight"``: they were written; ``"WriteAfterRead"``: bytes
        overwritten which another thread may still read; ``"SameInstruction"``: two lanes of one
        store write the same bytes; ``"CrossBlock"``: two blocks touch the same global bytes and one
        of them writes.
    """

    def __init__(self, kind: str, message: str, *, lane: int | None = None) -> None:
        super().__init__(f"{kind}: {message}", lane=lane)
        self.kind = kind


class DivergentCollective(PtxError):
    """A warp-wide instruction which some threads of the warp never reach."""


class UndefinedShuffle(PtxError):
    """A shuffle reads a lane which does not take part."""


class BarrierDeadlock(PtxError):
    """Threads wait at barriers which can no longer complete."""


class BarrierMisuse(PtxError):
    """Barrier number, thread count or arrivals break the rules."""


class AccumulatorInUse(PtxError):
    """A register of a wgmma was used before the wait, or without the fence that it needs."""


class Livelock(PtxError):
    """The step limit was reached: threads spin on something that never changes."""


class InvalidMetadata(PtxError):
    """Sparsity metadata outside the six valid nibbles (or the two for 1:2 types)."""


class IllegalSelector(PtxError):
    """A sparsity selector which the shape does not allow."""


class IntegerDivisionByZero(PtxError):
    """Integer division or remainder by zero: the result is unspecified."""


class KernelTrap(PtxError):
    """The kernel executed ``trap``."""
