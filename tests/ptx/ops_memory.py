"""Loads and stores in every state space, ``prefetch`` and cache policies."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .decode import opcode
from .errors import InvalidOperand, Misaligned, OutOfBounds, UnknownOpcode
from .memory import LOCAL_SIZE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW
from .operands import NUMPY, Decoder, Getter, Op
from .program import Address, Instruction, Symbol, type_bytes
from .report import Conflicts
from .shared import bank_degree
from .warp import LANES, Array, Mask, Warp

__all__ = ["note_shared", "state_space"]

Lanes = npt.NDArray[np.intp] | None
# read(warp, lanes, address) gives one row of units a thread.
Reader = Callable[[Warp, Lanes, Array], Array]
Writer = Callable[[Warp, Lanes, Array, Array], None]

_TYPES = {f"{s}{n}" for s in "bus" for n in (8, 16, 32, 64)} | {"f16", "bf16", "f32", "f64"}
_SPACES = ("global", "shared", "local", "param", "const")
# Hints and orderings that do not change what a sequentially consistent machine reads.
_HINT = re.compile(
    r"ca|cg|cs|cv|lu|wb|wt|nc|volatile|relaxed|weak|cta|cluster|gpu|sys|mmio|unified|"
    r"L1::\w+|L2::\w+|level::\w+|level1::\w+|level2::\w+"
)


def state_space(ins: Instruction, modifiers: list[str]) -> str:
    """Take the state space out of `modifiers`; empty for generic addresses."""
    for name in modifiers:
        base = name.removesuffix("::cta").removesuffix("::entry")
        if base in _SPACES:
            modifiers.remove(name)
            return base
        if name.startswith(("shared::", "param::")):
            raise UnknownOpcode(f"{ins.mnemonic}: .{name} is not supported")
    return ""


def note_shared(d: Decoder, ins: Instruction) -> Callable[[Warp, Lanes, Array, int], None]:
    """A function that counts the bank conflicts of one access of a slot."""
    pc, line, mnemonic = d.pc, ins.line, ins.mnemonic

    def note(w: Warp, lanes: Lanes, address: Array, nbytes: int) -> None:
        table = w.launch.counters.conflicts
        found = table.get(pc)
        if found is None:
            found = table[pc] = Conflicts(line, mnemonic)
        phase = 128 // max(4, nbytes)
        if lanes is not None:
            # Threads that do not take part repeat an address of their phase, which costs nothing.
            full = np.full(w.size, -1, np.int64)
            full[lanes] = address
            rows = full.reshape(-1, phase)
            rows = rows[(rows >= 0).any(axis=1)]
            rows = np.where(rows < 0, rows.max(axis=1)[:, None], rows)
        else:
            rows = address.reshape(-1, phase)
        found.add(len(rows), *bank_degree(rows, nbytes))

    return note


# -- one reader and writer for each space --------------------------------------------------------
def _reader(d: Decoder, ins: Instruction, space: str, nbytes: int, unit: int) -> Reader:
    if space in ("global", "const"):
        return lambda w, lanes, address: w.launch.memory.read(w, lanes, address, nbytes, unit)
    if space == "shared":
        d.grain = min(d.grain, nbytes)
        note = note_shared(d, ins)

        def shared(w: Warp, lanes: Lanes, address: Array) -> Array:
            out = w.launch.shared.read(w, lanes, address, nbytes, unit)
            note(w, lanes, address, nbytes)
            return out

        return shared
    if space == "local":
        return lambda w, lanes, address: _local(d, w, lanes, address, nbytes, unit)[0]
    if space == "param":
        return lambda w, lanes, address: _param(w, lanes, address, nbytes, unit)
    spaces = {
        name: _reader(d, ins, name, nbytes, unit) for name in ("global", "shared", "local", "param")
    }

    def generic(w: Warp, lanes: Lanes, address: Array) -> Array:
        out: Array | None = None
        for name, some, where, local in _split(w, lanes, address):
            got = spaces[name](w, where, local)
            if some is None:
                return got
            if out is None:
                out = np.zeros((len(address), *got.shape[1:]), got.dtype)
            out[some] = got
        assert out is not None
        return out

    return generic


def _writer(d: Decoder, ins: Instruction, space: str, nbytes: int, unit: int) -> Writer:
    if space == "global":
        return lambda w, lanes, address, value: w.launch.memory.write(
            w, lanes, address, value, nbytes
        )
    if space == "shared":
        d.grain = min(d.grain, nbytes)
        note = note_shared(d, ins)

        def shared(w: Warp, lanes: Lanes, address: Array, value: Array) -> None:
            w.launch.shared.write(w, lanes, address, value, nbytes)
            note(w, lanes, address, nbytes)

        return shared
    if space == "local":

        def local_write(w: Warp, lanes: Lanes, address: Array, value: Array) -> None:
            _, view, rows = _local(d, w, lanes, address, nbytes, unit)
            view[rows] = value

        return local_write
    if space:
        raise UnknownOpcode(f"{ins.mnemonic}: .{space} memory cannot be written")
    spaces = {name: _writer(d, ins, name, nbytes, unit) for name in ("global", "shared", "local")}

    def generic(w: Warp, lanes: Lanes, address: Array, value: Array) -> None:
        for name, some, where, local in _split(w, lanes, address):
            if name not in spaces:
                raise OutOfBounds("a store to parameter memory")
            spaces[name](w, where, local, value if some is None else value[some])

    return generic


def _split(w: Warp, lanes: Lanes, address: Array) -> list[tuple[str, Array | None, Lanes, Array]]:
    """Generic addresses by window: (space, which accesses, their threads, addresses in it)."""
    window = address >> 56
    kinds = {
        0: ("global", 0),
        1: ("shared", SHARED_WINDOW),
        2: ("local", LOCAL_WINDOW),
        3: ("param", PARAM_WINDOW),
    }
    first = int(window[0])
    if (window == first).all():
        if first not in kinds:
            raise OutOfBounds(
                f"{int(address[0]):#x} is no address", lane=0 if lanes is None else int(lanes[0])
            )
        name, base = kinds[first]
        return [(name, None, lanes, address - base)]
    parts: list[tuple[str, Array | None, Lanes, Array]] = []
    for value in np.unique(window):
        some = np.flatnonzero(window == value)
        where = some if lanes is None else lanes[some]
        if int(value) not in kinds:
            raise OutOfBounds(f"{int(address[some[0]]):#x} is no address", lane=int(where[0]))
        name, base = kinds[int(value)]
        parts.append((name, some, where, address[some] - base))
    return parts


def _local(
    d: Decoder, w: Warp, lanes: Lanes, address: Array, nbytes: int, unit: int
) -> tuple[Array, Array, Array]:
    """Local memory, one buffer a thread: the values, the memory as rows, and the rows."""
    size = d.symbols[LOCAL_SIZE][1]
    stride = -(-max(size, 1) // 16) * 16
    if w.local is None:
        w.local = np.zeros(w.size * stride, np.uint8)
    _check(lanes, address, nbytes, size, "local memory")
    thread = np.arange(w.size) if lanes is None else lanes
    rows = (address + thread * stride) // nbytes
    view = w.local.view(f"u{unit}")
    view = view if unit == nbytes else view.reshape(-1, nbytes // unit)
    return view[rows], view, rows


def _param(w: Warp, lanes: Lanes, address: Array, nbytes: int, unit: int) -> Array:
    raw = w.launch.params
    _check(lanes, address, nbytes, len(raw), "the parameters")
    view = np.frombuffer(raw + bytes(-len(raw) % 16), f"u{unit}")
    found: Array = (view if unit == nbytes else view.reshape(-1, nbytes // unit))[address // nbytes]
    return found


def _check(lanes: Lanes, address: Array, nbytes: int, size: int, what: str) -> None:
    outside = (address < 0) | (address + nbytes > size)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise OutOfBounds(
            f"{nbytes} bytes at {int(address[at])} of {what}, which has {size}",
            lane=at if lanes is None else int(lanes[at]),
        )
    odd = address & nbytes - 1 != 0
    if odd.any():
        at = int(np.flatnonzero(odd)[0])
        raise Misaligned(
            f"address {int(address[at])} of {what} is not a multiple of {nbytes}",
            lane=at if lanes is None else int(lanes[at]),
        )


# -- ld and st -----------------------------------------------------------------------------------
def _shape(ins: Instruction, orders: tuple[str, ...]) -> tuple[str, str, int]:
    """State space, type and vector length; anything unknown among the modifiers is refused."""
    kind = ins.modifiers[-1]
    if kind not in _TYPES:
        raise UnknownOpcode(f"{ins.mnemonic}: type .{kind} is not supported")
    rest = list(ins.modifiers[:-1])
    space = state_space(ins, rest)
    count = 1
    for name in rest:
        if name in ("v2", "v4", "v8"):
            count = int(name[1:])
        elif name not in orders and not _HINT.fullmatch(name):
            raise UnknownOpcode(f"{ins.mnemonic}: .{name} is not known")
    if count * type_bytes(kind) > 16:
        raise UnknownOpcode(f"{ins.mnemonic}: more than 16 bytes a thread is not supported")
    return space, kind, count


def _constant_param(d: Decoder, ins: Instruction, space: str, count: int) -> int | None:
    """The offset of a scalar parameter load whose address the text gives: the most common load of
    all.
    """
    operand = ins.operands[1]
    if (
        space == "param"
        and count == 1
        and isinstance(operand, Address)
        and isinstance(operand.base, Symbol)
    ):
        if operand.base.name not in d.symbols:
            raise InvalidOperand(f"{operand.base.name} is not declared")
        return d.symbols[operand.base.name][1] + operand.offset
    return None


@opcode("ld", "ldu")
def _ld(d: Decoder, ins: Instruction) -> Op:
    space, kind, count = _shape(ins, ("acquire",))
    if "acquire" in ins.modifiers:
        d.fences = True
    unit = type_bytes(kind)
    nbytes = unit * count
    dtype = NUMPY[kind]
    fixed = _constant_param(d, ins, space, count)
    if fixed is not None:
        return d.assign(ins.operands[0], kind, _param_scalar(fixed, unit, dtype), loose=True)
    address = d.address(ins.operands[1])
    read = _reader(d, ins, space, nbytes, unit)
    puts = [d.dst(item, kind, loose=True) for item in d.vector(ins.operands[0], count)]

    def op(w: Warp, mask: Mask) -> None:
        where = address(w)
        lanes = w.lanes_of(mask)
        rows = read(w, lanes, where if lanes is None else where[lanes])
        if lanes is not None:
            spread = np.zeros((w.size, *rows.shape[1:]), rows.dtype)
            spread[lanes] = rows
            rows = spread
        if count == 1:
            puts[0](w, mask, rows.view(dtype))
            return
        columns = np.ascontiguousarray(rows.T)
        for i, put in enumerate(puts):
            put(w, mask, columns[i].view(dtype))

    return op


def _param_scalar(offset: int, unit: int, dtype: type[np.generic]) -> Getter:
    def compute(w: Warp) -> Array:
        raw = w.launch.params[offset : offset + unit]
        if len(raw) != unit:
            raise OutOfBounds(
                f"parameter bytes {offset} to {offset + unit}; there are {len(w.launch.params)}"
            )
        return np.full(w.size, np.frombuffer(raw, dtype)[0])

    return compute


@opcode("st")
def _st(d: Decoder, ins: Instruction) -> Op:
    space, kind, count = _shape(ins, ("release",))
    if "release" in ins.modifiers:
        d.fences = True
    unit = type_bytes(kind)
    address = d.address(ins.operands[0])
    write = _writer(d, ins, space, unit * count, unit)
    # Values are stored as bits; a float constant must become the bits of its own type.
    values = [d.src(item, kind, loose=True) for item in d.vector(ins.operands[1], count)]
    store = np.dtype(f"u{unit}")

    def op(w: Warp, mask: Mask) -> None:
        lanes = w.lanes_of(mask)
        where = address(w)
        columns = [w.whole(np.asarray(get(w)).view(store)) for get in values]
        rows = columns[0] if count == 1 else np.stack(columns, axis=1)
        if lanes is not None:
            where, rows = where[lanes], rows[lanes]
        write(w, lanes, where, rows)

    return op


@opcode("prefetch", "prefetchu", "applypriority", "discard")
def _prefetch(d: Decoder, ins: Instruction) -> Op:
    """Prefetching changes nothing that can be observed here; discarding destroys data and is
    refused.
    """
    if ins.opcode == "discard":
        raise UnknownOpcode("discard is not supported")
    return lambda w, mask: None


@opcode("createpolicy")
def _createpolicy(d: Decoder, ins: Instruction) -> Op:
    """A cache policy is an opaque number."""
    return d.assign(ins.operands[0], "b64", lambda w: np.zeros(w.size, np.uint64))


assert LANES == 32  # the phases of note_shared are those of a 32-lane warp
