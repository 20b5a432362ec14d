"""``atom`` and ``red`` on global, shared and generic addresses.

Threads that hit the same address take turns in lane order, block after block; a correct kernel may
not depend on that order.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .decode import opcode
from .errors import OutOfBounds, UnknownOpcode
from .memory import SHARED_WINDOW
from .operands import NUMPY, Decoder, Op
from .ops_half import f32_to_half, half_to_f32
from .ops_memory import state_space
from .program import Instruction, type_bytes
from .warp import Array, Mask, Warp

# new value = update(old, operand)
Update = Callable[[Array, Array], Array]

_KINDS = {
    "add": {"u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "f16x2", "bf16x2"},
    "min": {"u32", "s32", "u64", "s64"},
    "max": {"u32", "s32", "u64", "s64"},
    "inc": {"u32"},
    "dec": {"u32"},
    "and": {"b32", "b64"},
    "or": {"b32", "b64"},
    "xor": {"b32", "b64"},
    "exch": {"b32", "b64"},
    "cas": {"b16", "b32", "b64"},
}
_HINT = re.compile(r"relaxed|cta|cluster|gpu|sys|noftz|L2::\w+")
_ORDERS = {"acquire", "release", "acq_rel"}


def _half_add(kind: str) -> Update:
    half = kind.removesuffix("x2")

    def update(old: Array, operand: Array) -> Array:
        a, b = (np.ascontiguousarray(x).view(np.uint16) for x in (old, operand))
        # Two halves add exactly in float32 but for extremes, where the rounding to half hides the
        # difference.
        total = f32_to_half(half_to_f32(a, half) + half_to_f32(b, half), half)
        return total.view(old.dtype)

    return update


_UPDATES: dict[str, Update] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, x: x,
    "inc": lambda old, x: np.where(old >= x, 0, old + np.uint32(1)).astype(np.uint32),
    "dec": lambda old, x: np.where((old == 0) | (old > x), x, old - np.uint32(1)).astype(np.uint32),
}


@opcode("atom", "red")
def _atom(d: Decoder, ins: Instruction) -> Op:
    """``atom{.order}{.scope}{.space}.op.type d, [a], b{, c}``; ``red`` has no result."""
    rest = list(ins.modifiers)
    kind = rest.pop()
    space = state_space(ins, rest)
    name = next((m for m in rest if m in _KINDS), None)
    if name is None or kind not in _KINDS[name]:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    rest.remove(name)
    for modifier in rest:
        if modifier not in _ORDERS and not _HINT.fullmatch(modifier):
            raise UnknownOpcode(f"{ins.mnemonic}: .{modifier} is not known")
    if space != "shared":
        d.fences = True  # blocks may order themselves through it
    nbytes, dtype = type_bytes(kind), NUMPY[kind]
    if space != "global":
        d.grain = min(d.grain, nbytes)
    result = ins.opcode == "atom"
    operands = ins.operands if result else (None, *ins.operands)
    put = d.dst(operands[0], kind)
    address = d.address(operands[1])
    values = [d.src(operand, kind) for operand in operands[2 : 4 if name == "cas" else 3]]
    update = _half_add(kind) if kind in ("f16", "bf16", "f16x2", "bf16x2") else _UPDATES.get(name)

    def op(w: Warp, mask: Mask) -> None:
        lanes = w.lanes_of(mask)
        where = np.arange(w.size) if lanes is None else lanes
        start = address(w)[where]
        given = [w.whole(get(w))[where] for get in values]
        old = np.zeros(len(where), dtype)
        for memory, some, rows in _targets(w, where, start, nbytes, space):
            view = memory.view(dtype)
            parts = [x[some] for x in given]
            for turn in _turns(rows):
                at = rows[turn]
                before = view[at]
                old[some[turn]] = before
                if update is None:
                    view[at] = np.where(before == parts[0][turn], parts[1][turn], before)
                else:
                    view[at] = update(before, parts[0][turn])
        if result:
            spread = np.zeros(w.size, dtype)
            spread[where] = old
            put(w, mask, spread)

    return op


def _turns(rows: Array) -> list[Array]:
    """Split accesses so that each part hits every address once, keeping lane order."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    if not rank.any():
        return [np.arange(len(rows))]
    by_rank = order[np.argsort(rank, kind="stable")]
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1])


def _targets(
    w: Warp, lanes: Array, address: Array, nbytes: int, space: str
) -> list[tuple[Array, Array, Array]]:
    """(memory, which accesses, places in it) for every memory the addresses fall in."""
    if space == "global":
        return w.launch.memory.atomic_rows(lanes, address, nbytes)
    everything = np.arange(len(address))
    if space == "shared":
        rows = w.launch.shared.atomic_rows(w, lanes, address, nbytes)
        return [(w.launch.shared.view(nbytes, nbytes), everything, rows)]
    if space:
        raise UnknownOpcode(f"atomics on .{space} memory do not exist")
    inside = address >> 56 == SHARED_WINDOW >> 56
    out = []
    for name, flags, base in (("shared", inside, SHARED_WINDOW), ("global", ~inside, 0)):
        some = everything[flags]
        if len(some):
            found = _targets(w, lanes[some], address[some] - base, nbytes, name)
            out += [(memory, some[which], rows) for memory, which, rows in found]
    if not out:
        raise OutOfBounds("an atomic without threads")
    return out
