"""float16 and bfloat16 arithmetic, one at a time and packed in pairs.

Sixteen-bit floats live in registers as bits. An operation converts to float64, where sums and
products of the inputs need one rounding at most, and rounds once to the result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decode import opcode, take_modifiers
from .errors import UnknownOpcode
from .operands import Decoder, Op
from .ops_float import minimum
from .program import Instruction
from .rounding import bf16_to_f32, f32_to_bf16, fma_odd, narrow, odd, two_sum
from .warp import Array, Warp

HALF_TYPES = ("f16", "bf16", "f16x2", "bf16x2")

Function = Callable[..., Array]


def half_to_f32(bits: Array, kind: str) -> Array:
    """Bits of float16 or bfloat16 as float32, exactly."""
    if kind == "bf16":
        return bf16_to_f32(bits)
    found: Array = bits.view(np.float16).astype(np.float32)
    return found


def f32_to_half(x: Array, kind: str) -> Array:
    """Round float32 to nearest even; NaN becomes the canonical 0x7FFF."""
    if kind == "bf16":
        return f32_to_bf16(x)
    return np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))


def halves(pairs: Array, size: int) -> Array:
    """The 16-bit halves of `size` registers, low ones first: they are neighbours in memory."""
    return np.ascontiguousarray(np.broadcast_to(pairs, (size,))).view(np.uint16)


def _halves(d: Decoder, ins: Instruction, apply: Function, count: int) -> Op:
    """Apply a function of 16-bit patterns to single or packed operands."""
    kind = ins.modifiers[-1]
    sources = [d.src(operand, kind) for operand in ins.operands[1 : 1 + count]]
    if not kind.endswith("x2"):
        return d.assign(
            ins.operands[0], kind, lambda w: apply(*(np.asarray(get(w)) for get in sources))
        )

    def compute(w: Warp) -> Array:
        parts = [halves(get(w), w.size) for get in sources]
        return np.ascontiguousarray(apply(*parts)).view(np.uint32)

    return d.assign(ins.operands[0], kind, compute)


def _flush_f16(bits: Array) -> Array:
    """``.ftz`` for float16."""
    return np.where(bits & np.uint16(0x7C00), bits, bits & np.uint16(0x8000))


def _finish(ins: Instruction, kind: str, function: Function) -> Function:
    """``.ftz``, ``.sat`` and ``.relu`` around a function of bit patterns."""
    ftz, sat, relu = (name in ins.modifiers for name in ("ftz", "sat", "relu"))
    if ftz and kind != "f16":
        raise UnknownOpcode(f"{ins.mnemonic}: .ftz is for f16")

    def finished(*parts: Array) -> Array:
        out = function(*(_flush_f16(p) if ftz else p for p in parts))
        if sat or relu:
            value = half_to_f32(out, kind)
            value = np.clip(value, 0, 1 if sat else None)
            # Saturation takes NaN to zero; relu keeps it canonical.
            value = np.where(np.isnan(value), np.float32(0), value) if sat else value
            out = f32_to_half(value.astype(np.float32), kind)
            out = np.where(out == 0x8000, np.uint16(0), out)
        return _flush_f16(out) if ftz else out

    return finished


def _wide(kind: str, bits: Array) -> Array:
    found: Array = half_to_f32(bits, kind).astype(np.float64)
    return found


@opcode("add", "sub", "mul", types=HALF_TYPES)
def _arithmetic(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1].removesuffix("x2")
    take_modifiers(ins, {ins.modifiers[-1], "rn", "ftz", "sat"})
    functions: dict[str, Function] = {
        "add": lambda a, b: odd(*two_sum(a, b)),
        "sub": lambda a, b: odd(*two_sum(a, -b)),
        "mul": lambda a, b: a * b,
    }
    function = functions[ins.opcode]
    whole = _finish(ins, kind, lambda a, b: narrow(function(_wide(kind, a), _wide(kind, b)), kind))
    return _halves(d, ins, whole, 2)


@opcode("fma", types=HALF_TYPES)
def _fma(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1].removesuffix("x2")
    take_modifiers(ins, {ins.modifiers[-1], "rn", "ftz", "sat", "relu"})

    def function(a: Array, b: Array, c: Array) -> Array:
        return narrow(fma_odd(_wide(kind, a), _wide(kind, b), _wide(kind, c)), kind)

    return _halves(d, ins, _finish(ins, kind, function), 3)


@opcode("neg", "abs", types=HALF_TYPES)
def _sign(d: Decoder, ins: Instruction) -> Op:
    """Which NaN comes of a NaN is not specified: here the sign changes and the payload stays."""
    kind = ins.modifiers[-1].removesuffix("x2")
    take_modifiers(ins, {ins.modifiers[-1], "ftz"})
    top = np.uint16(0x8000)
    function: Function = (lambda a: a ^ top) if ins.opcode == "neg" else (lambda a: a & ~top)
    return _halves(d, ins, _finish(ins, kind, function), 1)


@opcode("min", "max", types=HALF_TYPES)
def _minmax(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1].removesuffix("x2")
    given = take_modifiers(ins, {ins.modifiers[-1], "ftz", "NaN"})
    smaller, nan = ins.opcode == "min", "NaN" in given

    def function(a: Array, b: Array) -> Array:
        return f32_to_half(minimum(half_to_f32(a, kind), half_to_f32(b, kind), smaller, nan), kind)

    return _halves(d, ins, _finish(ins, kind, function), 2)


@opcode("ex2", "tanh", types=HALF_TYPES)
def _approximate(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1].removesuffix("x2")
    given = take_modifiers(ins, {ins.modifiers[-1], "approx", "ftz"})
    if "approx" not in given:
        raise UnknownOpcode(f"{ins.mnemonic} needs .approx")
    function = np.exp2 if ins.opcode == "ex2" else np.tanh

    def apply(a: Array) -> Array:
        return f32_to_half(function(_wide(kind, a)).astype(np.float32), kind)

    # ex2.approx.ftz.bf16 names a flush that bfloat16 subnormals get anyway.
    return _halves(d, ins, apply if kind == "bf16" else _finish(ins, kind, apply), 1)
