"""Branches, ends, barriers and fences."""

from __future__ import annotations

import numpy as np

from .decode import BLOCKED, aligned, opcode, take_modifiers
from .errors import BarrierMisuse, InvalidOperand, KernelTrap, UnknownOpcode
from .operands import Decoder, Op
from .program import Immediate, Instruction, Symbol
from .warp import LANES, Mask, Warp

_SCOPES = {"cta", "cluster", "gpu", "sys", "gl"}


@opcode("bra", control=True)
def _bra(d: Decoder, ins: Instruction) -> Op:
    take_modifiers(ins, {"uni"})
    target = d.label(ins.operands[0])
    return lambda w, mask: target


@opcode("brx", control=True)
def _brx(d: Decoder, ins: Instruction) -> Op:
    """``brx.idx index, table``: a jump through a table of labels."""
    take_modifiers(ins, {"idx", "uni"})
    index = d.src(ins.operands[0], "u32")
    table = ins.operands[1]
    if not isinstance(table, Symbol) or table.name not in d.kernel.tables:
        raise InvalidOperand(f"no such branch table: {table}")
    targets = [d.label(Symbol(name)) for name in d.kernel.tables[table.name]]

    def op(w: Warp, mask: Mask) -> int:
        chosen, active = w.whole(index(w)), w.as_bools(mask)
        for value in np.unique(chosen[active]):
            if value >= len(targets):
                raise InvalidOperand(f"brx.idx {value}: the table has {len(targets)} labels")
            w.add(targets[int(value)], active & (chosen == value))
        return BLOCKED

    return op


@opcode("ret", "exit", control=True)
def _exit(d: Decoder, ins: Instruction) -> Op:
    take_modifiers(ins, {"uni"})

    def op(w: Warp, mask: Mask) -> int:
        w.retire(mask)
        return BLOCKED

    return op


@opcode("trap", control=True)
def _trap(d: Decoder, ins: Instruction) -> Op:
    def op(w: Warp, mask: Mask) -> int:
        raise KernelTrap("the kernel executed trap", lane=int(np.flatnonzero(w.as_bools(mask))[0]))

    return op


@opcode("nanosleep", control=True)
def _nanosleep(d: Decoder, ins: Instruction) -> Op:
    """Gives the other warps a turn: whoever sleeps waits for someone."""
    after = d.pc + 1

    def op(w: Warp, mask: Mask) -> int:
        w.park(after, mask)
        return BLOCKED

    return op


@opcode("membar", "fence")
def _fence(d: Decoder, ins: Instruction) -> Op:
    """Memory is sequentially consistent here; a fence only says that the kernel may order blocks by
    itself. But ``fence.proxy.async`` shows shared memory to the asynchronous proxy, and
    ``fence.mbarrier_init`` does so for mbarriers.
    """
    take_modifiers(
        ins,
        _SCOPES
        | {
            "sc",
            "acq_rel",
            "acquire",
            "release",
            "proxy",
            "alias",
            "async",
            "global",
            "shared::cta",
            "mbarrier_init",
        },
    )
    if "mbarrier_init" in ins.modifiers:
        return _publish_mbarriers
    if ins.modifiers[:2] == ("proxy", "async"):
        return _show
    if {"gpu", "sys", "gl", "cluster"} & set(ins.modifiers):
        d.fences = True
    return lambda w, mask: None


def _publish_mbarriers(w: Warp, mask: Mask) -> None:
    for block in np.unique(w.block[w.as_bools(mask)]):
        w.launch.mbarriers.publish(w, int(block))


def _show(w: Warp, mask: Mask) -> None:
    active = w.as_bools(mask).reshape(-1, LANES)
    alive = w.alive.reshape(-1, LANES)
    whole = (active == alive).all(axis=1)
    for rows, all_of_it in ((whole, True), (~whole & active.any(axis=1), False)):
        if rows.any():
            w.launch.clocks.show(w.number, np.flatnonzero(rows), all_of_it)
    _publish_mbarriers(w, mask)


@opcode("bar", "barrier", control=True)
def _bar(d: Decoder, ins: Instruction) -> Op:
    """``bar.sync a{, b}``, ``bar.arrive a, b``, ``bar.red.op.type d, a{, b}, p``, ``bar.warp.sync
    mask``.
    """
    modifiers = [m for m in ins.modifiers if m not in ("cta", "aligned")]
    if modifiers[:1] == ["warp"]:
        return _warp_sync(d, ins)
    if modifiers[:1] == ["cluster"]:
        return _cluster_barrier(d, ins, modifiers[1:])
    if modifiers == ["sync"] or modifiers == ["arrive"]:
        return _block_barrier(d, ins, modifiers[0] == "sync")
    if modifiers[:1] == ["red"]:
        return _reduce(d, ins, modifiers[1:])
    raise UnknownOpcode(f"{ins.mnemonic} is not supported")


def _block_barrier(d: Decoder, ins: Instruction, waits: bool) -> Op:
    number = d.src(ins.operands[0], "u32")
    count = d.src(ins.operands[1], "u32") if len(ins.operands) > 1 else None
    if not waits and count is None:
        raise InvalidOperand("an arrival without waiting needs a thread count")
    pc = d.pc
    resume = pc + 1 if waits else None
    constant = isinstance(ins.operands[0], Immediate)

    def inner(w: Warp, mask: Mask) -> int | None:
        counts = None if count is None else _uniform(w, mask, count(w))
        barriers = w.launch.barriers
        if constant:
            barriers.arrive(w, mask, int(number(w)), counts, resume)
        else:
            values, active = w.whole(number(w)), w.as_bools(mask)
            for value in np.unique(values[active]):
                barriers.arrive(w, active & (values == value), int(value), counts, resume)
        return BLOCKED if waits else None

    return aligned(inner, pc, "a barrier", partial=True)


def _cluster_barrier(d: Decoder, ins: Instruction, modifiers: list[str]) -> Op:
    """``barrier.cluster.arrive{.release|.relaxed}`` and ``barrier.cluster.wait{.acquire}``."""
    action, *semantics = modifiers
    allowed = {"arrive": ([], ["release"], ["relaxed"]), "wait": ([], ["acquire"])}
    if semantics not in allowed.get(action, ()):
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    pc, ordered = d.pc, semantics != ["relaxed"]
    d.single = True

    def inner(w: Warp, mask: Mask) -> int | None:
        if action == "arrive":
            w.launch.cluster.sync_arrive(w, ordered)
            return None
        if w.launch.cluster.sync_wait(w, ordered):
            return None
        w.park(pc, mask, polls=True)
        return BLOCKED

    return aligned(inner, pc, "barrier.cluster", partial=True)


@opcode("mapa")
def _mapa(d: Decoder, ins: Instruction) -> Op:
    """``mapa.shared::cluster.u32 d, a, rank``: the same place in another block's shared memory."""
    take_modifiers(ins, {"shared::cluster", "u32"})
    address, rank = d.src(ins.operands[1], "u32"), d.src(ins.operands[2], "u32")
    put = d.dst(ins.operands[0], "u32")

    def op(w: Warp, mask: Mask) -> None:
        # Only those that ask count: the others may hold anything.
        active = w.as_bools(mask)
        where, which = w.whole(address(w)).astype(np.int64), np.where(active, w.whole(rank(w)), 0)
        put(w, mask, w.launch.cluster.map(where, which).astype(np.uint32))

    return op


def _uniform(w: Warp, mask: Mask, value: np.typing.NDArray[np.uint32]) -> int:
    values = w.whole(value)
    first = values if mask is None else values[mask]
    if (first != first[0]).any():
        raise BarrierMisuse("the thread count of a barrier differs between threads")
    return int(first[0])


def _reduce(d: Decoder, ins: Instruction, modifiers: list[str]) -> Op:
    kinds = {("popc", "u32"): "popc", ("and", "pred"): "and", ("or", "pred"): "or"}
    kind = kinds.get((modifiers[0], modifiers[-1])) if len(modifiers) == 2 else None
    if kind is None:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    put = d.dst(ins.operands[0], modifiers[-1])
    number = d.src(ins.operands[1], "u32")
    count = d.src(ins.operands[2], "u32") if len(ins.operands) == 4 else None
    vote = d.src(ins.operands[-1], "pred")
    pc = d.pc

    def inner(w: Warp, mask: Mask) -> int:
        barriers = w.launch.barriers
        barrier = _uniform(w, mask, number(w))
        barriers.arrive(
            w, mask, barrier, None if count is None else _uniform(w, mask, count(w)), pc + 1
        )
        lanes = w.as_bools(mask)
        yes = (vote(w) & lanes).reshape(-1, LANES).sum(axis=1)
        barriers.vote(barrier, yes, lanes.reshape(-1, LANES).sum(axis=1))

        def finish(
            go: np.typing.NDArray[np.bool_],
            yes: np.typing.NDArray[np.int64],
            total: np.typing.NDArray[np.int64],
        ) -> None:
            result = {"popc": yes.astype(np.uint32), "and": yes == total, "or": yes > 0}[kind]
            put(w, go, np.repeat(result, LANES))

        w.waiting[-1].finish = finish
        return BLOCKED

    return aligned(inner, pc, "a barrier", partial=True)


def _warp_sync(d: Decoder, ins: Instruction) -> Op:
    """Orders the memory accesses of the warp.

    It counts as a synchronisation of the warp where all its threads take part; for a part of them
    it orders nothing, which can only report too much.
    """
    from .ops_collective import gathered  # the membermask rules live there

    members = d.src(ins.operands[0], "b32")

    def inner(w: Warp, mask: Mask) -> None:
        whole = w.as_bools(mask).reshape(-1, LANES).sum(axis=1)
        alive = w.alive.reshape(-1, LANES).sum(axis=1)
        rows = np.flatnonzero((whole == alive) & (whole > 0))
        if len(rows):
            w.launch.clocks.sync_warp(w.number, rows)

    return gathered(inner, members, d.pc, "bar.warp.sync")
