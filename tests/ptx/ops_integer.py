"""Integer arithmetic, logic, shifts and bit fields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decode import opcode, take_modifiers
from .errors import IntegerDivisionByZero, UnknownOpcode
from .operands import Decoder, Getter, Op
from .program import Immediate, Instruction
from .warp import Array, Mask, Warp

INTEGERS = ("u16", "s16", "u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")
_PACKED = {"u16x2": np.uint16, "s16x2": np.int16}
_WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
_WIDE_TYPES = {"u16": np.uint32, "s16": np.int32, "u32": np.uint64, "s32": np.int64}

Ufunc = Callable[..., Array]


def _bounds(kind: str) -> tuple[int, int]:
    info = np.iinfo(
        {"s": np.int32, "u": np.uint32}[kind[0]]
        if kind[1:] == "32"
        else f"{_letter(kind)}{kind[1:]}"
    )
    return int(info.min), int(info.max)


def _letter(kind: str) -> str:
    return "int" if kind[0] == "s" else "uint"


# -- add, sub, min, max --------------------------------------------------------------------------
@opcode("add", "sub", types=INTEGERS)
def _add(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    given = take_modifiers(ins, {kind, "sat", "cc"})
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    ufunc: Ufunc = np.add if ins.opcode == "add" else np.subtract
    if "cc" in given:
        return _carry_out(d, ins, kind, carry_in=False)
    if "sat" in given:
        if kind != "s32":
            raise UnknownOpcode(f"{ins.mnemonic}: .sat is for .s32")
        low, high = np.int64(-(2**31)), np.int64(2**31 - 1)
        return d.assign(
            ins.operands[0],
            kind,
            lambda w: np.clip(ufunc(a(w).astype(np.int64), b(w)), low, high).astype(np.int32),
        )
    return d.assign(ins.operands[0], kind, lambda w: ufunc(a(w), b(w)))


@opcode("addc", "subc", types=INTEGERS)
def _addc(d: Decoder, ins: Instruction) -> Op:
    take_modifiers(ins, {ins.modifiers[-1], "cc"})
    return _carry_out(d, ins, ins.modifiers[-1], carry_in=True)


def _carry_out(d: Decoder, ins: Instruction, kind: str, carry_in: bool) -> Op:
    """Extended-precision addition and subtraction through the condition code."""
    unsigned = f"u{kind[1:]}"
    a, b = d.src(ins.operands[1], unsigned), d.src(ins.operands[2], unsigned)
    put = d.dst(ins.operands[0], unsigned)
    subtract, writes = ins.opcode.startswith("sub"), "cc" in ins.modifiers

    def op(w: Warp, mask: Mask) -> None:
        x, y = np.broadcast_arrays(a(w), b(w))
        carry = w.carry.astype(x.dtype) if carry_in else np.zeros(w.size, x.dtype)
        if subtract:
            total = x - y - carry
            out = (x < y) | ((x == y) & (carry != 0))
        else:
            total = x + y + carry
            out = (total < x) | ((total == x) & (carry != 0) & (y != 0))
        if writes:
            new = out.astype(np.uint64)
            w.carry = new if mask is None else np.where(mask, new, w.carry)
        put(w, mask, w.whole(total))

    return op


@opcode("add", "min", "max", types=_PACKED)
def _packed(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a, b, half = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind), _PACKED[kind]
    ufunc: Ufunc = {"add": np.add, "min": np.minimum, "max": np.maximum}[ins.opcode]

    def compute(w: Warp) -> Array:
        x, y = np.broadcast_arrays(a(w), b(w))
        pair = ufunc(np.ascontiguousarray(x).view(half), np.ascontiguousarray(y).view(half))
        return pair.view(np.uint32)

    return d.assign(ins.operands[0], kind, compute)


@opcode("min", "max", types=INTEGERS)
def _minmax(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    given = take_modifiers(ins, {kind, "relu"})
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    ufunc: Ufunc = np.minimum if ins.opcode == "min" else np.maximum
    if "relu" in given:
        return d.assign(ins.operands[0], kind, lambda w: np.maximum(ufunc(a(w), b(w)), 0))
    return d.assign(ins.operands[0], kind, lambda w: ufunc(a(w), b(w)))


# -- mul, mad, div -------------------------------------------------------------------------------
def _high(a: Array, b: Array, kind: str) -> Array:
    """Upper half of the product."""
    if kind in _WIDE_TYPES:
        wide = a.astype(_WIDE_TYPES[kind]) * b.astype(_WIDE_TYPES[kind])
        bits = int(kind[1:])
        out: Array = (wide >> wide.dtype.type(bits)).astype(f"{_letter(kind)}{bits}")
        return out
    low, thirty_two = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> thirty_two, y & low, y >> thirty_two
    middle = x1 * y0 + (x0 * y0 >> thirty_two)
    cross = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> thirty_two) + (cross >> thirty_two)
    if kind == "s64":
        zero = np.uint64(0)
        high = high - np.where(np.asarray(a) < 0, y, zero) - np.where(np.asarray(b) < 0, x, zero)
    return np.asarray(high).view(np.int64 if kind == "s64" else np.uint64)


def _product(ins: Instruction, kind: str, a: Getter, b: Getter) -> Getter:
    given = take_modifiers(ins, {kind, "lo", "hi", "wide"})
    if "wide" in given:
        wide = _WIDE_TYPES[kind]
        return lambda w: a(w).astype(wide) * b(w).astype(wide)
    if "hi" in given:
        return lambda w: _high(a(w), b(w), kind)
    if "lo" in given:
        return lambda w: a(w) * b(w)
    raise UnknownOpcode(f"{ins.mnemonic} needs .lo, .hi or .wide")


@opcode("mul", types=INTEGERS)
def _mul(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    result = _WIDE[kind] if "wide" in ins.modifiers else kind
    return d.assign(ins.operands[0], result, _product(ins, kind, a, b))


@opcode("mad", types=INTEGERS)
def _mad(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    result = _WIDE[kind] if "wide" in ins.modifiers else kind
    product, c = _product(ins, kind, a, b), d.src(ins.operands[3], result)
    return d.assign(ins.operands[0], result, lambda w: product(w) + c(w))


@opcode("mul24", "mad24", types=("u32", "s32"))
def _mul24(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    given = take_modifiers(ins, {kind, "lo", "hi"})
    wide, shift = (np.int64, 16) if "hi" in given else (np.int64, 0)
    sources = [d.src(operand, kind) for operand in ins.operands[1:]]

    def low24(x: Array) -> Array:
        cut = x.astype(wide) & 0xFFFFFF
        return cut if kind == "u32" else np.where(cut & 0x800000, cut - (1 << 24), cut)

    def compute(w: Warp) -> Array:
        out = low24(sources[0](w)) * low24(sources[1](w)) >> shift
        if len(sources) == 3:
            out = out + sources[2](w)
        return out.astype(np.uint32)

    return d.assign(ins.operands[0], kind, compute)


@opcode("div", "rem", types=INTEGERS)
def _div(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a, b, put = (
        d.src(ins.operands[1], kind),
        d.src(ins.operands[2], kind),
        d.dst(ins.operands[0], kind),
    )
    remainder = ins.opcode == "rem"

    def op(w: Warp, mask: Mask) -> None:
        x, y = np.broadcast_arrays(a(w), b(w))
        x, y = w.whole(x), w.whole(y)
        zero = (y == 0) & w.as_bools(mask)
        if zero.any():
            raise IntegerDivisionByZero(
                f"{ins.mnemonic} by zero", lane=int(np.flatnonzero(zero)[0])
            )
        y = np.where(y == 0, y.dtype.type(1), y)
        if kind[0] == "u":
            out = x % y if remainder else x // y
        else:
            # Towards zero; fmod has that sign rule, and its remainder makes the quotient exact.
            rest = np.fmod(x, y)
            out = rest if remainder else (x - rest) // y
        put(w, mask, out)

    return op


# -- one operand ---------------------------------------------------------------------------------
@opcode("abs", "neg", types=("s16", "s32", "s64"))
def _abs(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a = d.src(ins.operands[1], kind)
    ufunc: Ufunc = np.abs if ins.opcode == "abs" else np.negative
    return d.assign(ins.operands[0], kind, lambda w: ufunc(a(w)))


@opcode("not", types=(*BITS, "pred"))
def _not(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a = d.src(ins.operands[1], kind)
    return d.assign(ins.operands[0], kind, lambda w: ~a(w))


@opcode("cnot", types=BITS)
def _cnot(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a = d.src(ins.operands[1], kind)
    return d.assign(ins.operands[0], kind, lambda w: (a(w) == 0).astype(f"u{int(kind[1:]) // 8}"))


def _width(x: Array) -> int:
    return 8 * int(x.dtype.itemsize)


def _bit_length(x: Array) -> Array:
    """Position of the highest set bit plus one; 0 for zero."""
    out = np.zeros(np.shape(x), np.uint32)
    rest = np.array(x)
    for step in (32, 16, 8, 4, 2, 1):
        if step < _width(rest):
            big = rest >> rest.dtype.type(step) != 0
            out = out + np.where(big, np.uint32(step), np.uint32(0))
            rest = np.where(big, rest >> rest.dtype.type(step), rest)
    result: Array = out + (rest != 0).astype(np.uint32)
    return result


@opcode("popc", "clz", types=("b32", "b64"))
def _count(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a = d.src(ins.operands[1], kind)
    if ins.opcode == "popc":
        return d.assign(ins.operands[0], "u32", lambda w: np.bitwise_count(a(w)).astype(np.uint32))
    bits = np.uint32(int(kind[1:]))
    return d.assign(ins.operands[0], "u32", lambda w: bits - _bit_length(a(w)))


@opcode("bfind", types=("u32", "s32", "u64", "s64"))
def _bfind(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    shift = "shiftamt" in take_modifiers(ins, {kind, "shiftamt"})
    a, top = d.src(ins.operands[1], kind), np.uint32(int(kind[1:]) - 1)

    def compute(w: Warp) -> Array:
        x = np.asarray(a(w))
        x = np.where(x < 0, ~x, x) if kind[0] == "s" else x
        place = _bit_length(x.view(f"u{x.dtype.itemsize}")) - np.uint32(1)
        out: Array = np.where(place == 0xFFFFFFFF, place, top - place) if shift else place
        return out

    return d.assign(ins.operands[0], "u32", compute)


def reverse_bits(x: Array) -> Array:
    """Bits in reverse order."""
    masks = {1: 0x5555555555555555, 2: 0x3333333333333333, 4: 0x0F0F0F0F0F0F0F0F}
    for step, pattern in masks.items():
        mask, by = x.dtype.type(pattern & (1 << _width(x)) - 1), x.dtype.type(step)
        x = ((x >> by) & mask) | ((x & mask) << by)
    out: Array = np.asarray(x).byteswap()
    return out


@opcode("brev", types=("b32", "b64"))
def _brev(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a = d.src(ins.operands[1], kind)
    return d.assign(ins.operands[0], kind, lambda w: reverse_bits(a(w)))


# -- logic and shifts ----------------------------------------------------------------------------
@opcode("and", "or", "xor", types=(*BITS, "pred"))
def _logic(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    ufunc: Ufunc = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[ins.opcode]
    return d.assign(ins.operands[0], kind, lambda w: ufunc(a(w), b(w)))


@opcode("shl", "shr", types=(*BITS, *INTEGERS))
def _shift(d: Decoder, ins: Instruction) -> Op:
    """Amounts beyond the width shift everything out (or leave the sign)."""
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a, amount = d.src(ins.operands[1], kind), d.src(ins.operands[2], "u32")
    bits, left = int(kind[1:]), ins.opcode == "shl"
    dtype = np.dtype(f"{_letter(kind)}{bits}") if kind[0] != "b" else np.dtype(f"u{bits // 8}")
    constant = ins.operands[2]
    if isinstance(constant, Immediate) and 0 <= constant.value < bits:
        by = dtype.type(constant.value)
        return d.assign(ins.operands[0], kind, lambda w: a(w) << by if left else a(w) >> by)

    def compute(w: Warp) -> Array:
        x, n = a(w), amount(w)
        within = np.minimum(n, bits - 1).astype(dtype)
        out: Array = x << within if left else x >> within
        if left or kind[0] != "s":
            out = np.where(n >= bits, dtype.type(0), out)
        return out

    return d.assign(ins.operands[0], kind, compute)


@opcode("shf", types=("b32",))
def _funnel(d: Decoder, ins: Instruction) -> Op:
    """``shf.l|r.clamp|wrap.b32 d, a, b, c``: a window of the 64 bits b:a."""
    given = take_modifiers(ins, {"l", "r", "clamp", "wrap", "b32"})
    a, b, c = (d.src(operand, "b32") for operand in ins.operands[1:4])
    wrap, left = "wrap" in given, "l" in given

    def compute(w: Warp) -> Array:
        n = c(w) & np.uint32(31) if wrap else np.minimum(c(w), np.uint32(32))
        both = b(w).astype(np.uint64) << np.uint64(32) | a(w)
        by = np.uint64(32) - n if left else n.astype(np.uint64)
        out: Array = (both >> by).astype(np.uint32)
        return out

    return d.assign(ins.operands[0], "b32", compute)
