"""Instructions to closures.

Each opcode has one decoder, registered by name; it looks at operands and modifiers once and returns
an `Op`, a closure which the machine calls for a warp and a mask. An `Op` returns None to go on, a
program counter to jump, or `BLOCKED` when it has already put every active thread somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .errors import DivergentCollective, PtxError, UnknownOpcode
from .operands import Decoder, Op
from .program import Instruction, Kernel, Register
from .warp import LANES, Array, Mask, Unset, Warp

__all__ = ["BLOCKED", "Code", "aligned", "decode", "opcode", "take_modifiers"]

BLOCKED = -1


@dataclass(slots=True)
class _Entry:
    decode: Callable[[Decoder, Instruction], Op]
    control: bool
    types: frozenset[str] | None


_TABLE: dict[str, list[_Entry]] = {}


def opcode(
    *names: str, types: Iterable[str] | None = None, control: bool = False
) -> Callable[[Callable[[Decoder, Instruction], Op]], Callable[[Decoder, Instruction], Op]]:
    """Register a decoder.

    Parameters
    ----------
    *names : str
        Opcodes, up to the first dot.
    types : iterable of str, optional
        Only for instructions whose last modifier is one of these types.
    control : bool
        The op may move threads elsewhere, so that a guard must split them first.
    """

    def register(
        function: Callable[[Decoder, Instruction], Op],
    ) -> Callable[[Decoder, Instruction], Op]:
        entry = _Entry(function, control, None if types is None else frozenset(types))
        for name in names:
            _TABLE.setdefault(name, []).append(entry)
        return function

    return register


@dataclass(slots=True)
class Code:
    """A kernel ready to run.

    Attributes
    ----------
    ops : list of Op
        One for each instruction.
    grain : int
        Smallest shared-memory access of the kernel in bytes, at most 16.
    fences : bool
        The kernel may order blocks by itself.
    single : bool
        Blocks must run one at a time.
    registers : list of Unset
        What the registers hold at first.
    static : int
        Bytes of static shared memory.
    """

    kernel: Kernel
    ops: list[Op]
    grain: int
    fences: bool
    registers: list[Unset]
    static: int
    single: bool = False


def take_modifiers(instruction: Instruction, allowed: Iterable[str]) -> set[str]:
    """Modifiers that `allowed` names; anything else is an unknown instruction."""
    allowed = set(allowed)
    given = set(instruction.modifiers)
    if not given <= allowed:
        raise UnknownOpcode(f".{sorted(given - allowed)[0]} is not known for {instruction.opcode}")
    return given


def aligned(inner: Op, pc: int, name: str, *, partial: bool = False) -> Op:
    """Run `inner` for warps that are complete; the others wait here for their missing threads.

    Divergent threads that reach this instruction by another path are waited for, as the hardware
    does for ``.sync``; the machine reports a warp whose threads can never all come. With `partial`,
    the last warp of a block whose size is no multiple of 32 is complete without the threads it
    never had.
    """

    def op(w: Warp, mask: Mask) -> int | None:
        if mask is None:
            return inner(w, None)
        merged = pc in w.stalled
        if merged:
            mask = mask | w.stalled.pop(pc)
        lanes = mask.reshape(-1, LANES)
        some = lanes.any(axis=1)
        whole = (lanes | ~w.exists.reshape(-1, LANES) if partial else lanes).all(axis=1) & some
        if (whole == some).all():
            outcome = inner(w, None if bool(mask.all()) else mask)
            if merged and outcome is None:
                w.add(pc + 1, mask)
                return BLOCKED
            return outcome
        ready = np.repeat(whole, LANES)
        w.stalled[pc] = mask & ~ready
        gone = ~w.alive.reshape(-1, LANES)[some & ~whole]
        if gone.any():
            raise DivergentCollective(
                f"{name} needs all 32 threads of the warp; some do not exist or have left"
            )
        if ready.any() and inner(w, ready) is None:
            w.add(pc + 1, ready)
        return BLOCKED

    return op


def _guarded(op: Op, guard: Register, pc: int, control: bool) -> Op:
    index, negated = guard.index, guard.negated

    def active(w: Warp, mask: Mask) -> Array:
        chosen: Array = w.regs[index].view(np.bool_)
        if negated:
            chosen = ~chosen
        return chosen if mask is None else chosen & mask

    def plain(w: Warp, mask: Mask) -> int | None:
        chosen = active(w, mask)
        count = np.count_nonzero(chosen)
        if count == 0:
            return None
        return op(w, None if count == w.size else chosen)

    def splitting(w: Warp, mask: Mask) -> int | None:
        chosen = active(w, mask)
        count = np.count_nonzero(chosen)
        if count == 0:
            return None
        if count == (w.size if mask is None else np.count_nonzero(mask)):
            return op(w, None if count == w.size else mask)
        w.add(pc + 1, ~chosen if mask is None else mask & ~chosen)
        outcome = op(w, chosen)
        if outcome != BLOCKED:
            w.add(pc + 1 if outcome is None else outcome, chosen)
        return BLOCKED

    return splitting if control else plain


def _entry(instruction: Instruction) -> _Entry:
    kind = instruction.modifiers[-1] if instruction.modifiers else ""
    for entry in _TABLE.get(instruction.opcode, []):
        if entry.types is None or kind in entry.types:
            return entry
    raise UnknownOpcode(f"{instruction.mnemonic} is not an instruction this interpreter knows")


def decode(kernel: Kernel, symbols: dict[str, tuple[str, int]], static: int = 0) -> Code:
    """Turn a kernel's instructions into ops.

    Raises
    ------
    UnknownOpcode, InvalidOperand
        For the first instruction that is not understood, with its line.
    """
    decoder = Decoder(kernel, symbols)
    ops: list[Op] = []
    for pc, instruction in enumerate(kernel.code):
        decoder.pc = pc
        try:
            entry = _entry(instruction)
            op = entry.decode(decoder, instruction)
        except PtxError as error:
            error.where = f"{kernel.name}, line {instruction.line}: {instruction.mnemonic}"
            raise
        if instruction.guard is not None:
            op = _guarded(op, instruction.guard, pc, entry.control)
        ops.append(op)
    registers = [Unset(register.name) for register in kernel.registers]
    return Code(kernel, ops, decoder.grain, decoder.fences, registers, static, decoder.single)
