"""Warp-wide instructions: shuffles, votes, matches, reductions, ``ldmatrix``, ``stmatrix``,
``movmatrix``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .decode import BLOCKED, aligned, opcode, take_modifiers
from .errors import DivergentCollective, InvalidOperand, UndefinedShuffle, UnknownOpcode
from .operands import Decoder, Getter, Op
from .ops_memory import note_shared
from .program import Instruction
from .warp import LANES, Array, Mask, Warp

__all__ = ["gathered"]

_LANE = np.arange(LANES)
_BIT = np.left_shift(np.uint32(1), _LANE.astype(np.uint32))


def ballot(flags: Array) -> Array:
    """One bit a thread, for each warp: uint32, shape (blocks,)."""
    packed = np.packbits(flags.reshape(-1, LANES), axis=1, bitorder="little")
    return packed.view(np.uint32)[:, 0]


def gathered(inner: Op, members: Getter, pc: int, name: str) -> Op:
    """Run `inner` for threads whose whole member mask has come; the others wait here.

    Raises
    ------
    DivergentCollective
        If a thread is not in its own member mask. A member that never comes is reported by the
        machine.
    """

    def op(w: Warp, mask: Mask) -> int | None:
        merged = pc in w.stalled
        if merged:
            mask = w.as_bools(mask) | w.stalled.pop(pc)
        active = w.as_bools(mask)
        wanted = w.whole(members(w))
        absent = active & (wanted >> w.lane.astype(np.uint32) & np.uint32(1) == 0)
        if absent.any():
            raise DivergentCollective(
                f"{name}: a thread is not in its own member mask",
                lane=int(np.flatnonzero(absent)[0]),
            )
        here = np.repeat(ballot(active), LANES)
        # Member bits of threads the block never had name nobody.
        real = np.repeat(ballot(w.exists), LANES)
        missing = active & (wanted & real & ~here != 0)
        if not missing.any():
            outcome = inner(w, None if mask is not None and bool(mask.all()) else mask)
            if merged and outcome is None:
                w.add(pc + 1, mask)
                return BLOCKED
            return outcome
        # A warp goes on as a whole or waits as a whole: members must agree anyway.
        late = np.repeat(missing.reshape(-1, LANES).any(axis=1), LANES)
        w.stalled[pc] = active & late
        ready = active & ~late
        if ready.any() and inner(w, ready) is None:
            w.add(pc + 1, ready)
        return BLOCKED

    return op


# -- shuffles ------------------------------------------------------------------------------------
@opcode("shfl", control=True)
def _shfl(d: Decoder, ins: Instruction) -> Op:
    """``shfl.sync.mode.b32 d{|p}, a, b, c, members``; c holds the clamp in bits 0-4 and the segment
    mask in 8-12.
    """
    take_modifiers(ins, {"sync", "up", "down", "bfly", "idx", "b32"})
    mode = ins.modifiers[1]
    first, second = d.pair(ins.operands[0])
    put, put_valid = d.dst(first, "b32"), d.dst(second, "pred")
    a, b, c = (
        d.src(ins.operands[1], "b32"),
        d.src(ins.operands[2], "u32"),
        d.src(ins.operands[3], "u32"),
    )
    members = d.src(ins.operands[4], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        value = w.whole(a(w))
        amount = (b(w) & np.uint32(31)).astype(np.int64)
        control = c(w).astype(np.int64)
        clamp, segment = control & 31, control >> 8 & 31
        lane = w.lane
        low = lane & segment
        most = low | clamp & ~segment
        source = {
            "up": lane - amount,
            "down": lane + amount,
            "bfly": lane ^ amount,
            "idx": low | amount & ~segment,
        }[mode]
        valid = source >= most if mode == "up" else source <= most
        source = np.where(valid, source, lane)
        at = source + w.block * LANES
        active = w.as_bools(mask)
        lost = active & ~active[at]
        if lost.any():
            i = int(np.flatnonzero(lost)[0])
            raise UndefinedShuffle(
                f"lane {lane[i]} reads lane {source[i]}, which does not take part", lane=i
            )
        put(w, mask, value[at])
        put_valid(w, mask, valid)

    return gathered(inner, members, d.pc, "shfl.sync")


# -- votes ---------------------------------------------------------------------------------------
@opcode("vote", control=True)
def _vote(d: Decoder, ins: Instruction) -> Op:
    given = take_modifiers(ins, {"sync", "all", "any", "uni", "ballot", "pred", "b32"})
    mode, kind = ins.modifiers[1], ins.modifiers[-1]
    if "sync" not in given or (mode == "ballot") != (kind == "b32"):
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    put, p = d.dst(ins.operands[0], kind), d.src(ins.operands[1], "pred")
    members = d.src(ins.operands[2], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        flags = w.whole(p(w))
        active = w.as_bools(mask)
        among = w.whole(members(w))
        yes = np.repeat(ballot(flags & active), LANES) & among
        no = np.repeat(ballot(~flags & active), LANES) & among
        result = {"ballot": yes, "any": yes != 0, "all": no == 0, "uni": (yes == 0) | (no == 0)}[
            mode
        ]
        put(w, mask, result)

    return gathered(inner, members, d.pc, "vote.sync")


@opcode("activemask")
def _activemask(d: Decoder, ins: Instruction) -> Op:
    put = d.dst(ins.operands[0], "b32")

    def op(w: Warp, mask: Mask) -> None:
        put(w, mask, np.repeat(ballot(w.as_bools(mask)), LANES))

    return op


@opcode("elect", control=True)
def _elect(d: Decoder, ins: Instruction) -> Op:
    """``elect.sync d|p, members``: the lowest member leads (the hardware may choose any)."""
    take_modifiers(ins, {"sync"})
    first, second = d.pair(ins.operands[0])
    put, put_leader = d.dst(first, "b32"), d.dst(second, "pred")
    members = d.src(ins.operands[1], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        among = w.whole(members(w))
        low = among & (~among + np.uint32(1))
        lane = np.bitwise_count(low - np.uint32(1)).astype(np.uint32)
        put(w, mask, lane)
        put_leader(w, mask, lane == w.lane)

    return gathered(inner, members, d.pc, "elect.sync")


@opcode("match", control=True)
def _match(d: Decoder, ins: Instruction) -> Op:
    """``match.any|all.sync.type d{|p}, a, members``."""
    take_modifiers(ins, {"any", "all", "sync", "b32", "b64"})
    first, second = d.pair(ins.operands[0])
    put, put_same = d.dst(first, "b32"), d.dst(second, "pred")
    a, members = d.src(ins.operands[1], ins.modifiers[-1]), d.src(ins.operands[2], "b32")
    everyone = ins.modifiers[0] == "all"

    def inner(w: Warp, mask: Mask) -> None:
        value = w.whole(a(w)).reshape(-1, LANES)
        among = w.whole(members(w))
        equal = value[:, :, None] == value[:, None, :]
        bits = (equal * _BIT).sum(axis=2, dtype=np.uint32).ravel() & among
        if everyone:
            same = bits == among
            put(w, mask, np.where(same, among, np.uint32(0)))
            put_same(w, mask, same)
        else:
            put(w, mask, bits)

    return gathered(inner, members, d.pc, "match.sync")


_REDUCTIONS: dict[str, tuple[Callable[..., Array], int]] = {
    "add": (np.add.reduce, 0),
    "and": (np.bitwise_and.reduce, -1),
    "or": (np.bitwise_or.reduce, 0),
    "xor": (np.bitwise_xor.reduce, 0),
}


@opcode("redux", control=True)
def _redux(d: Decoder, ins: Instruction) -> Op:
    """``redux.sync.op.type d, a, members``."""
    take_modifiers(ins, {"sync", "add", "min", "max", "and", "or", "xor", "b32", "u32", "s32"})
    name, kind = ins.modifiers[1:]
    put, a, members = (
        d.dst(ins.operands[0], kind),
        d.src(ins.operands[1], kind),
        d.src(ins.operands[2], "b32"),
    )

    def inner(w: Warp, mask: Mask) -> None:
        value = w.whole(a(w))
        among = w.whole(members(w)).reshape(-1, LANES)
        # Thread i combines the values of the members it names.
        named = (among[:, :, None] >> _LANE.astype(np.uint32) & np.uint32(1)) != 0
        spread = np.broadcast_to(value.reshape(-1, 1, LANES), named.shape)
        if name in ("min", "max"):
            info = np.iinfo(value.dtype)
            idle = info.max if name == "min" else info.min
            out = (np.minimum if name == "min" else np.maximum).reduce(
                np.where(named, spread, value.dtype.type(idle)), axis=2
            )
        else:
            reduce, rest = _REDUCTIONS[name]
            idle_bits = np.asarray(rest & 0xFFFFFFFF, np.uint32).view(value.dtype)[()]
            filled = np.where(named, spread, idle_bits)
            out = (
                reduce(filled, axis=2, dtype=value.dtype)
                if name == "add"
                else reduce(filled, axis=2)
            )
        put(w, mask, out.ravel())

    return gathered(inner, members, d.pc, "redux.sync")


# -- matrices ------------------------------------------------------------------------------------
def _matrix_count(ins: Instruction, allowed: set[str]) -> tuple[int, bool]:
    take_modifiers(
        ins,
        allowed
        | {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16"},
    )
    count = next((int(m[1]) for m in ins.modifiers if m in ("x1", "x2", "x4")), 0)
    if "m8n8" not in ins.modifiers or not count or ins.modifiers[-1] != "b16":
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    return count, "trans" in ins.modifiers


def _row_addresses(
    w: Warp, address: Array, count: int, blocks: Array | None
) -> tuple[Array, npt.NDArray[np.intp]]:
    """Row addresses come from lanes 0-7 for the first matrix, 8-15 for the second, and so on."""
    rows = address.reshape(-1, LANES)[:, : 8 * count]
    lanes = np.arange(w.size).reshape(-1, LANES)[:, : 8 * count]
    if blocks is not None:
        rows, lanes = rows[blocks], lanes[blocks]
    return np.ascontiguousarray(rows).ravel(), lanes.ravel()


def _whole_blocks(mask: Mask) -> npt.NDArray[np.intp] | None:
    return None if mask is None else np.flatnonzero(mask.reshape(-1, LANES)[:, 0])


def _trans(words: Array) -> Array:
    """Transpose 8 x 8 matrices of 16-bit elements held as (n, 32) words, lane l holding row l/4,
    pair l%4.
    """
    halves = np.ascontiguousarray(words).view(np.uint16).reshape(-1, 8, 8)
    return np.ascontiguousarray(halves.transpose(0, 2, 1)).view(np.uint32).reshape(-1, LANES)


@opcode("ldmatrix", control=True)
def _ldmatrix(d: Decoder, ins: Instruction) -> Op:
    count, trans = _matrix_count(ins, set())
    puts = [d.dst(item, "b32") for item in d.vector(ins.operands[0], count)]
    address = d.address(ins.operands[1])
    note = note_shared(d, ins)

    def inner(w: Warp, mask: Mask) -> None:
        blocks = _whole_blocks(mask)
        where, lanes = _row_addresses(w, address(w), count, blocks)
        rows = w.launch.shared.read(w, lanes, where, 16, 4, collective=True)
        note(w, None, where, 16)
        # Word i of a row goes to lane 4 * row + i: a matrix is 32 words in lane order.
        matrices = rows.reshape(-1, count, LANES)
        for i, put in enumerate(puts):
            words = matrices[:, i]
            words = _trans(words) if trans else np.ascontiguousarray(words)
            put(w, mask, _spread(w, words, blocks))

    return aligned(inner, d.pc, "ldmatrix")


def _spread(w: Warp, words: Array, blocks: Array | None) -> Array:
    """Words of some blocks as a register of the whole slot."""
    if blocks is None:
        return words.reshape(-1)
    out = np.zeros((w.blocks, LANES), words.dtype)
    out[blocks] = words
    return out.ravel()


@opcode("stmatrix", control=True)
def _stmatrix(d: Decoder, ins: Instruction) -> Op:
    count, trans = _matrix_count(ins, set())
    address = d.address(ins.operands[0])
    values = [d.src(item, "b32") for item in d.vector(ins.operands[1], count)]
    note = note_shared(d, ins)

    def inner(w: Warp, mask: Mask) -> None:
        blocks = _whole_blocks(mask)
        where, lanes = _row_addresses(w, address(w), count, blocks)
        matrices = []
        for get in values:
            words = w.whole(get(w)).reshape(-1, LANES)
            words = words if blocks is None else words[blocks]
            matrices.append(_trans(words) if trans else words)
        rows = np.stack(matrices, axis=1).reshape(-1, 4)
        w.launch.shared.write(w, lanes, where, rows, 16, collective=True)
        note(w, None, where, 16)

    return aligned(inner, d.pc, "stmatrix")


@opcode("movmatrix", control=True)
def _movmatrix(d: Decoder, ins: Instruction) -> Op:
    if take_modifiers(ins, {"sync", "aligned", "m8n8", "trans", "b16"}) != {
        "sync",
        "aligned",
        "m8n8",
        "trans",
        "b16",
    }:
        raise InvalidOperand("movmatrix.sync.aligned.m8n8.trans.b16 is the only form")
    put, a = d.dst(ins.operands[0], "b32"), d.src(ins.operands[1], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        put(w, mask, _trans(w.whole(a(w)).reshape(-1, LANES)).ravel())

    return aligned(inner, d.pc, "movmatrix")
