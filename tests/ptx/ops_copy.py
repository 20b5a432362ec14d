"""``cp.async``: copies from global to shared memory that land when waited for; ``cp.async.bulk``:
those that signal an mbarrier.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .bulk import UNIT, read_row
from .decode import opcode
from .errors import InvalidOperand, Misaligned, UnknownOpcode
from .memory import PARAM_WINDOW
from .operands import Decoder, Op
from .ops_memory import note_shared
from .program import Address, Immediate, Instruction, Operand, Register
from .tensor_map import MAP_BYTES, TensorMap
from .warp import Array, Mask, Warp

_HINT = re.compile(r"L2::\w+")
# Bytes that the threads at `lanes` read; None where each reads all.
SourceBytes = Callable[[Warp, Array | None], Array | None]


@opcode("cp")
def _cp(d: Decoder, ins: Instruction) -> Op:
    if ins.modifiers[:1] != ("async",):
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    form = ins.modifiers[1] if len(ins.modifiers) > 1 else ""
    if form == "commit_group":
        return _commit
    if form == "wait_all":
        return _wait(None)
    if form == "wait_group":
        newest = ins.operands[0]
        if not isinstance(newest, Immediate):
            raise InvalidOperand("cp.async.wait_group takes a constant")
        return _wait(int(newest.value))
    if form == "bulk":
        return _bulk(d, ins)
    if form in ("ca", "cg"):
        return _copy(d, ins, form)
    raise UnknownOpcode(f"{ins.mnemonic} is not supported")


def _bulk(d: Decoder, ins: Instruction) -> Op:
    """``cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [dst], [src], size, [mbar]``,
    by each active thread.
    """
    if ins.modifiers[2:3] == ("tensor",):
        return _tensor(d, ins)
    place, *rest = ins.modifiers[2:]
    multicast = rest[2:] == ["multicast::cluster"]
    if place not in ("shared::cta", "shared::cluster") or rest[: 2 if multicast else None] != [
        "global",
        "mbarrier::complete_tx::bytes",
    ]:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    target, source = d.address(ins.operands[0]), d.address(ins.operands[1])
    size, barrier = d.src(ins.operands[2], "u32"), d.address(ins.operands[3])
    blocks = d.src(ins.operands[4], "u16") if multicast else None

    def op(w: Warp, mask: Mask) -> None:
        to, start, nbytes, at = target(w), source(w), w.whole(size(w)), barrier(w)
        ranks = None if blocks is None else w.whole(blocks(w))
        for lane in map(int, np.flatnonzero(w.as_bools(mask))):
            value = read_row(w, lane, int(start[lane]), int(nbytes[lane]))
            places = int(to[lane]) + np.arange(len(value), dtype=np.int64) * UNIT
            _deliver(w, lane, ranks, places, value, int(at[lane]))

    return op


_BOX = ("2d", "shared::cluster", "global", "mbarrier::complete_tx::bytes")


def _tensor(d: Decoder, ins: Instruction) -> Op:
    """``cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes{.multicast
    ::cluster} [dst], [map, {x, y}], [mbar]{, blocks}``, by each active thread.
    """
    form, multicast = ins.modifiers[3:7], ins.modifiers[7:]
    if form != _BOX or multicast not in ((), ("multicast::cluster",)):
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    source = ins.operands[1]
    if not isinstance(source, Address) or len(source.coordinates) != 2:
        raise InvalidOperand("a tensor copy takes [map, {column, row}]")
    target, given, barrier = (d.address(ins.operands[i]) for i in range(3))
    column, row = (d.src(x, "s32") for x in source.coordinates)
    blocks = d.src(ins.operands[3], "u16") if multicast else None

    def op(w: Warp, mask: Mask) -> None:
        to, tensor, at = target(w), given(w), barrier(w)
        columns, rows = w.whole(column(w)), w.whole(row(w))
        ranks = None if blocks is None else w.whole(blocks(w))
        for lane in map(int, np.flatnonzero(w.as_bools(mask))):
            box = _map_at(w, lane, int(tensor[lane]))
            value = box.read(w.launch.memory, w, lane, int(columns[lane]), int(rows[lane]))
            places = box.targets(int(to[lane]), lane)
            _deliver(w, lane, ranks, places, value, int(at[lane]))

    return op


def _deliver(
    w: Warp, lane: int, ranks: Array | None, to: Array, value: Array, barrier: int
) -> None:
    """Bring what was read to this block, or to those whose bits the thread names."""
    if ranks is None:
        w.launch.bulk.deliver(w, lane, to, value, barrier)
    else:
        w.launch.cluster.deliver(w, lane, int(ranks[lane]), to, value, barrier)


def _map_at(w: Warp, lane: int, address: int) -> TensorMap:
    """The tensor map at a generic address: a parameter by value, or in global memory."""
    if address % 64:
        raise Misaligned(f"a tensor map at {address:#x}; it begins at a multiple of 64", lane=lane)
    start = address - PARAM_WINDOW
    if 0 <= start < len(w.launch.params):
        return TensorMap.decode(w.launch.params[start : start + MAP_BYTES])
    lanes, at = np.full(MAP_BYTES, lane), address + np.arange(MAP_BYTES)
    return TensorMap.decode(w.launch.memory.read(w, lanes, at, 1, 1).tobytes())


def _commit(w: Warp, mask: Mask) -> None:
    w.copies.commit(mask)


def _wait(newest: int | None) -> Op:
    def op(w: Warp, mask: Mask) -> None:
        w.copies.wait(w, mask, newest)

    return op


def _copy(d: Decoder, ins: Instruction, form: str) -> Op:
    """``cp.async.ca|cg.shared.global{hints} [dst], [src], size{, src-size | ignore-src}{,
    policy}``.
    """
    for name in ins.modifiers[2:]:
        if name not in ("shared", "shared::cta", "global") and not _HINT.fullmatch(name):
            raise UnknownOpcode(f"{ins.mnemonic}: .{name} is not known")
    target, source = d.address(ins.operands[0]), d.address(ins.operands[1])
    size = ins.operands[2]
    if not isinstance(size, Immediate) or size.value not in ((16,) if form == "cg" else (4, 8, 16)):
        raise InvalidOperand(
            f"cp.async.{form} copies {'16' if form == 'cg' else '4, 8 or 16'} bytes"
        )
    nbytes = int(size.value)
    extra = list(ins.operands[3:])
    if "L2::cache_hint" in ins.modifiers:
        extra.pop()
    wanted = _source_bytes(d, extra[0] if extra else None, nbytes)
    d.grain = min(d.grain, nbytes)
    note = note_shared(d, ins)
    unit = min(nbytes, 8)

    def op(w: Warp, mask: Mask) -> None:
        lanes = w.lanes_of(mask)
        to, start = target(w), source(w)
        if lanes is not None:
            to, start = to[lanes], start[lanes]
        memory = w.launch.memory
        count = wanted(w, lanes)
        if count is None:
            value = memory.read(w, lanes, start, nbytes, unit)
        else:
            value = _partial(w, lanes, start, count, nbytes, unit)
        w.copies.issue(w, lanes, to, value, nbytes)
        note(w, lanes, to, nbytes)

    return op


def _source_bytes(d: Decoder, operand: Operand, nbytes: int) -> SourceBytes:
    """Bytes to read for each thread: None where every thread reads them all."""
    if operand is None:
        return lambda w, lanes: None
    if isinstance(operand, Register) and operand.bits == 1:
        ignore = d.src(operand, "pred")

        def ignored(w: Warp, lanes: Array | None) -> Array | None:
            flags = ignore(w) if lanes is None else ignore(w)[lanes]
            return np.where(flags, 0, nbytes) if flags.any() else None

        return ignored
    size = d.src(operand, "u32")

    def sized(w: Warp, lanes: Array | None) -> Array | None:
        counts = w.whole(size(w)).astype(np.int64)
        counts = counts if lanes is None else counts[lanes]
        if (counts > nbytes).any():
            at = int(np.flatnonzero(counts > nbytes)[0])
            raise InvalidOperand(
                f"cp.async reads {counts[at]} of {nbytes} bytes",
                lane=at if lanes is None else int(lanes[at]),
            )
        return counts if (counts != nbytes).any() else None

    return sized


def _partial(
    w: Warp, lanes: Array | None, start: Array, count: Array, nbytes: int, unit: int
) -> Array:
    """Read `count` bytes a thread and fill up with zeros; a thread that reads nothing may point
    anywhere.
    """
    memory = w.launch.memory
    raw = np.zeros((len(start), nbytes), np.uint8)
    where = np.arange(w.size) if lanes is None else lanes
    for amount in np.unique(count):
        some = np.flatnonzero(count == amount)
        if amount == nbytes:
            raw[some] = memory.read(w, where[some], start[some], nbytes, 1)
        elif amount:
            # The source is aligned to the copy size even where only part of it is read.
            memory.check_alignment(where[some], start[some], nbytes)
            for i in range(int(amount)):
                raw[some, i] = memory.read(w, where[some], start[some] + i, 1, 1)
    value = raw.view(f"u{unit}")
    return value[:, 0] if unit == nbytes else value
