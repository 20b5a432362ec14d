"""Comparisons and selections: ``setp``, ``set``, ``selp``, ``slct``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decode import opcode
from .errors import UnknownOpcode
from .operands import Decoder, Getter, Op
from .ops_half import HALF_TYPES, half_to_f32, halves
from .ops_integer import BITS, INTEGERS
from .program import Instruction, type_bytes
from .rounding import flush
from .warp import Array, Mask, Warp

Compare = Callable[[Array, Array], Array]

_ORDERED: dict[str, Compare] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_COMBINE: dict[str, Compare] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_FLOATS = ("f32", "f64", "f16", "bf16")
_PAIRS = ("f16x2", "bf16x2")


def _float_compare(name: str) -> Compare:
    """A comparison of floats: ordered ones are false for NaN, the ``u`` ones true."""
    if name in ("num", "nan"):
        wanted = name == "nan"
        return lambda x, y: (np.isnan(x) | np.isnan(y)) == wanted
    if name in ("equ", "neu", "ltu", "leu", "gtu", "geu"):
        base = _ORDERED[name[:2]]
        return lambda x, y: base(x, y) | np.isnan(x) | np.isnan(y)
    if name == "ne":
        # NumPy's != is true for NaN; the ordered `ne` is not.
        return lambda x, y: np.not_equal(x, y) & ~np.isnan(x) & ~np.isnan(y)
    if name in ("eq", "lt", "le", "gt", "ge"):
        return _ORDERED[name]
    raise UnknownOpcode(f"comparison .{name} is not for floats")


def _comparison(
    d: Decoder, ins: Instruction, kind: str
) -> tuple[Compare, Callable[[Array], Array]]:
    """The comparison named first among the modifiers, and how operands become comparable."""
    name = ins.modifiers[0]
    if kind in _FLOATS:
        if kind in HALF_TYPES:
            return _float_compare(name), lambda x: half_to_f32(x, kind)
        if "ftz" in ins.modifiers:
            return _float_compare(name), flush
        return _float_compare(name), lambda x: x
    if name not in _ORDERED or (kind in BITS and name not in ("eq", "ne")):
        raise UnknownOpcode(f"comparison .{name} is not for .{kind}")
    if name in ("lo", "ls", "hi", "hs") and kind[0] != "u":
        raise UnknownOpcode(f"comparison .{name} is for unsigned types")
    return _ORDERED[name], lambda x: x


def _check(ins: Instruction, known: set[str]) -> None:
    for modifier in ins.modifiers[1:]:
        if modifier not in known:
            raise UnknownOpcode(f"{ins.mnemonic}: .{modifier} is not known")


@opcode("setp", types=(*INTEGERS, *BITS, *_FLOATS))
def _setp(d: Decoder, ins: Instruction) -> Op:
    """``setp.cmp{.combine}{.ftz}.type p{|q}, a, b{, {!}c}``."""
    kind = ins.modifiers[-1]
    _check(ins, {kind, "ftz", *_COMBINE})
    compare, ready = _comparison(d, ins, kind)
    combine = next((m for m in ins.modifiers if m in _COMBINE), None)
    first, second = d.pair(ins.operands[0])
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    if combine is None and second is None:
        return d.assign(first, "pred", lambda w: compare(ready(a(w)), ready(b(w))))
    c = d.src(ins.operands[3], "pred") if combine else None
    join = _COMBINE[combine] if combine else None
    put, put_not = d.dst(first, "pred"), d.dst(second, "pred")

    def op(w: Warp, mask: Mask) -> None:
        result = w.whole(compare(ready(a(w)), ready(b(w))))
        opposite = ~result
        if c is not None and join is not None:
            other = c(w)
            result, opposite = join(result, other), join(opposite, other)
        put(w, mask, result)
        put_not(w, mask, opposite)

    return op


@opcode("setp", types=_PAIRS)
def _setp_pair(d: Decoder, ins: Instruction) -> Op:
    """Packed halves compare into two predicates."""
    kind = ins.modifiers[-1]
    _check(ins, {kind, "ftz"})
    compare, half = _float_compare(ins.modifiers[0]), kind[:-2]
    low, high = d.pair(ins.operands[0])
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    puts = d.dst(low, "pred"), d.dst(high, "pred")

    def op(w: Warp, mask: Mask) -> None:
        x, y = a(w), b(w)
        for i, put in enumerate(puts):
            shift = np.uint32(16 * i)
            left, right = ((v >> shift).astype(np.uint16) for v in (x, y))
            put(w, mask, compare(half_to_f32(left, half), half_to_f32(right, half)))

    return op


# What "true" is in each type that ``set`` may give; false is zero in all of them.
_TRUE = {"u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}


@opcode("set", types=(*INTEGERS, *BITS, *_FLOATS))
def _set(d: Decoder, ins: Instruction) -> Op:
    """``set.cmp{.combine}{.ftz}.dtype.stype d, a, b{, c}``: all ones or 1.0 where true."""
    kind, result = ins.modifiers[-1], ins.modifiers[-2]
    _check(ins, {kind, result, "ftz", *_COMBINE})
    if result not in _TRUE:
        raise UnknownOpcode(f"{ins.mnemonic}: the result is one of {', '.join(_TRUE)}")
    compare, ready = _comparison(d, ins, kind)
    combine = next((m for m in ins.modifiers if m in _COMBINE), None)
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    c = d.src(ins.operands[3], "pred") if combine else None
    dtype = np.uint32 if type_bytes(result) == 4 else np.uint16
    true = dtype(_TRUE[result])

    def compute(w: Warp) -> Array:
        found = compare(ready(a(w)), ready(b(w)))
        if c is not None and combine is not None:
            found = _COMBINE[combine](found, c(w))
        out: Array = np.where(found, true, dtype(0))
        return out

    return d.assign(ins.operands[0], result, compute)


@opcode("set", types=_PAIRS)
def _set_pair(d: Decoder, ins: Instruction) -> Op:
    """Packed halves compare into packed ones and zeros."""
    kind = ins.modifiers[-1]
    _check(ins, {kind, "ftz"})
    if ins.modifiers[-2] != kind:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    compare, half = _float_compare(ins.modifiers[0]), kind[:-2]
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    true = np.uint16(_TRUE[half])

    def compute(w: Warp) -> Array:
        x, y = (halves(get(w), w.size) for get in (a, b))
        found = compare(half_to_f32(x, half), half_to_f32(y, half))
        out: Array = np.where(found, true, np.uint16(0)).view(np.uint32)
        return out

    return d.assign(ins.operands[0], kind, compute)


@opcode("selp", types=(*INTEGERS, *BITS, "f32", "f64", "f16", "bf16"))
def _selp(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    c = d.src(ins.operands[3], "pred")
    return d.assign(ins.operands[0], kind, lambda w: np.where(c(w), a(w), b(w)))


@opcode("slct", types=("s32", "f32"))
def _slct(d: Decoder, ins: Instruction) -> Op:
    """``slct{.ftz}.dtype.ctype d, a, b, c``: a where c >= 0."""
    kinds = [m for m in ins.modifiers if m != "ftz"]
    a, b = d.src(ins.operands[1], kinds[0]), d.src(ins.operands[2], kinds[0])
    c: Getter = d.src(ins.operands[3], kinds[1])
    ready: Callable[[Array], Array] = flush if "ftz" in ins.modifiers else lambda x: x
    return d.assign(ins.operands[0], kinds[0], lambda w: np.where(ready(c(w)) >= 0, a(w), b(w)))
