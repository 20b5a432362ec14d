"""``mbarrier``, ``setmaxnreg`` and ``elect``: what producers and consumers are made of."""

from __future__ import annotations

import numpy as np

from .decode import BLOCKED, aligned, opcode, take_modifiers
from .errors import InvalidOperand, UnknownOpcode
from .operands import Decoder, Op
from .ops_collective import gathered
from .program import Immediate, Instruction
from .warp import LANES, Array, Mask, Warp

_PLACES = {"shared", "shared::cta", "b64"}
_SEMANTICS = {"release", "acquire", "cta", "cluster"}


def _active(w: Warp, mask: Mask) -> Array:
    return np.flatnonzero(w.as_bools(mask))


@opcode("mbarrier", control=True)
def _mbarrier(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[0]
    take_modifiers(
        ins,
        {kind, "expect_tx", "parity"} | _PLACES | _SEMANTICS | {"shared::cluster"}
        if kind in ("arrive", "test_wait", "try_wait")
        else {kind} | _PLACES,
    )
    d.grain = min(d.grain, 8)
    if kind == "init":
        return _init(d, ins)
    if kind == "inval":
        return _inval(d, ins)
    if kind == "arrive":
        return _arrive(d, ins)
    if kind in ("test_wait", "try_wait") and "parity" in ins.modifiers:
        return _poll(d, ins, kind == "try_wait")
    raise UnknownOpcode(f"{ins.mnemonic} is not supported")


def _init(d: Decoder, ins: Instruction) -> Op:
    address, count = d.address(ins.operands[0]), d.src(ins.operands[1], "u32")

    def op(w: Warp, mask: Mask) -> None:
        where, counts = address(w), w.whole(count(w))
        for lane in _active(w, mask):
            w.launch.mbarriers.init(w, int(lane), int(where[lane]), int(counts[lane]))

    return op


def _inval(d: Decoder, ins: Instruction) -> Op:
    address = d.address(ins.operands[0])

    def op(w: Warp, mask: Mask) -> None:
        where = address(w)
        for lane in _active(w, mask):
            w.launch.mbarriers.invalidate(w, int(lane), int(where[lane]))

    return op


def _arrive(d: Decoder, ins: Instruction) -> Op:
    """``mbarrier.arrive{.expect_tx}{.release.scope}{.shared::cta}.b64 _, [a]{, count or bytes}``.

    At ``.shared::cluster`` also in another block, without bytes.
    """
    if ins.operands[0] is not None:
        raise UnknownOpcode(f"{ins.mnemonic} with a state as result is not supported")
    expects = "expect_tx" in ins.modifiers
    remote, scope = "shared::cluster" in ins.modifiers, "cluster" in ins.modifiers
    if remote and expects:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    if expects and len(ins.operands) != 3:
        raise InvalidOperand("mbarrier.arrive.expect_tx takes the number of bytes")
    address = d.address(ins.operands[1])
    amount = d.src(ins.operands[2], "u32") if len(ins.operands) > 2 else None

    def op(w: Warp, mask: Mask) -> None:
        where = address(w)
        amounts = None if amount is None else w.whole(amount(w))
        active = _active(w, mask)
        whole = len(active) == np.count_nonzero(w.alive)
        for lane in active:
            given = 1 if amounts is None else int(amounts[lane])
            count, expected = (1, given) if expects else (given, 0)
            if remote:
                w.launch.cluster.arrive(w, int(lane), int(where[lane]), count, whole, scope)
                continue
            w.launch.mbarriers.arrive(w, int(lane), int(where[lane]), count, expected, whole)

    return op


def _poll(d: Decoder, ins: Instruction, waits: bool) -> Op:
    """``mbarrier.test_wait.parity`` and ``try_wait.parity``: who failed to wait lets others run."""
    put = d.dst(ins.operands[0], "pred")
    address, parity = d.address(ins.operands[1]), d.src(ins.operands[2], "u32")
    pc, scope = d.pc, "cluster" in ins.modifiers
    if "shared::cluster" in ins.modifiers:
        raise InvalidOperand("a wait is for an mbarrier of the thread's own block")

    def op(w: Warp, mask: Mask) -> int | None:
        where, wanted = address(w), w.whole(parity(w))
        done = np.zeros(w.size, bool)
        answers: dict[tuple[int, int, int], bool] = {}
        for lane in _active(w, mask):
            key = (int(w.block[lane]), int(where[lane]), int(wanted[lane]))
            if key not in answers:
                answers[key] = w.launch.mbarriers.poll(w, int(lane), key[1], key[2], cluster=scope)
            done[lane] = answers[key]
        put(w, mask, done)
        active = w.as_bools(mask)
        failed = active & ~done
        if not waits or not failed.any():
            return None
        w.park(pc + 1, failed, polls=True)
        if (active & done).any():
            w.add(pc + 1, active & done)
        return BLOCKED

    return op


@opcode("setmaxnreg", control=True)
def _setmaxnreg(d: Decoder, ins: Instruction) -> Op:
    """``setmaxnreg.inc|dec.sync.aligned.u32 count``: an increase waits for free registers."""
    action, *rest = ins.modifiers
    count = ins.operands[0]
    if action not in ("inc", "dec") or rest != ["sync", "aligned", "u32"]:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    if not isinstance(count, Immediate):
        raise InvalidOperand("setmaxnreg takes a constant")
    d.single = True
    pc, wanted = d.pc, int(count.value)

    def inner(w: Warp, mask: Mask) -> int | None:
        if w.launch.registers.ask(w.number, action, wanted):
            w.launch.mbarriers.events += 1
            return None
        w.park(pc, mask, polls=True)
        return BLOCKED

    return aligned(inner, pc, "setmaxnreg")


@opcode("elect", control=True)
def _elect(d: Decoder, ins: Instruction) -> Op:
    """``elect.sync d|p, members``: one of the threads; which one is left open, here the last."""
    take_modifiers(ins, {"sync"})
    first, second = d.pair(ins.operands[0])
    put, put_leader = d.dst(first, "b32"), d.dst(second, "pred")
    members = d.src(ins.operands[1], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        active = w.as_bools(mask).reshape(-1, LANES)
        last = LANES - 1 - np.argmax(active[:, ::-1], axis=1)
        leader = np.repeat(last, LANES)
        put(w, mask, leader.astype(np.uint32))
        put_leader(w, mask, leader == w.lane)

    return gathered(inner, members, d.pc, "elect")
