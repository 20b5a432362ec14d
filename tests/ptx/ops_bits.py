"""Bit fields, byte permutation, three-input logic, dot products of bytes, moves and selections."""

from __future__ import annotations

import numpy as np

from .decode import opcode, take_modifiers
from .errors import InvalidOperand, UnknownOpcode
from .operands import Decoder, Op
from .ops_integer import INTEGERS
from .program import Immediate, Instruction, Operand, Vector, type_bytes
from .warp import Array, Mask, Warp

_MOVABLE = ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "pred")


@opcode("bfe", types=("u32", "s32", "u64", "s64"))
def _bfe(d: Decoder, ins: Instruction) -> Op:
    """Bit-field extract; for signed types bits beyond the source repeat its sign."""
    kind = ins.modifiers[-1]
    bits = int(kind[1:])
    a = d.src(ins.operands[1], f"u{bits}")
    start, length = d.src(ins.operands[2], "u32"), d.src(ins.operands[3], "u32")

    def compute(w: Warp) -> Array:
        x = w.whole(a(w)).astype(np.uint64)
        first = _reduced(start(w), bits).astype(np.int64)
        count = _reduced(length(w), bits).astype(np.int64)
        out = np.where(first >= bits, 0, x >> np.minimum(first, bits - 1).astype(np.uint64))
        keep = _ones(np.minimum(count, 64))
        out = out & keep
        if kind[0] == "s":
            last = np.minimum(first + count - 1, bits - 1)
            sign = (x >> np.maximum(last, 0).astype(np.uint64) & np.uint64(1)) != 0
            have = _ones(np.clip(bits - first, 0, 64)) & keep
            out = np.where(sign & (count > 0), out | ~have, out)
        return out.astype(f"u{bits // 8}")

    return d.assign(ins.operands[0], kind, compute)


def _reduced(amount: Array, bits: int) -> Array:
    """A position or length of a field.

    The ISA takes it modulo 256, and hardware does so for 32 bits. Fields of 64 bits are assembled
    to shifts that clamp instead: 300 is past the end (seen on an H200 for bfe.u64). As constants
    such amounts are refused by the assembler.
    """
    out: Array = amount & np.uint32(255) if bits == 32 else np.minimum(amount, np.uint32(bits))
    return out


def _ones(count: Array) -> Array:
    """That many low bits set; `count` from 0 to 64."""
    full = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    n = np.asarray(count).astype(np.uint64)
    some = np.maximum(n, np.uint64(1))
    out: Array = np.where(n == 0, np.uint64(0), full >> (np.uint64(64) - some))
    return out


@opcode("bfi", types=("b32", "b64"))
def _bfi(d: Decoder, ins: Instruction) -> Op:
    """Bit-field insert: the low bits of a into b."""
    kind = ins.modifiers[-1]
    bits = int(kind[1:])
    a, b = d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    start, length = d.src(ins.operands[3], "u32"), d.src(ins.operands[4], "u32")

    def compute(w: Warp) -> Array:
        first = _reduced(start(w), bits).astype(np.uint64)
        count = np.minimum(_reduced(length(w), bits), 64)
        shift = np.minimum(first, np.uint64(63))
        field = np.where(first >= bits, np.uint64(0), _ones(count) << shift)
        into = b(w).astype(np.uint64)
        out = into & ~field | (a(w).astype(np.uint64) << shift) & field
        result: Array = out.astype(f"u{bits // 8}")
        return result

    return d.assign(ins.operands[0], kind, compute)


@opcode("prmt", types=("b32", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"))
def _prmt(d: Decoder, ins: Instruction) -> Op:
    """Byte permutation of the eight bytes b:a; only the default mode is emitted by compilers for
    C++.
    """
    take_modifiers(ins, {"b32"})
    a, b, c = (d.src(operand, "b32") for operand in ins.operands[1:4])

    def compute(w: Warp) -> Array:
        both = b(w).astype(np.uint64) << np.uint64(32) | a(w)
        control = c(w)
        out = np.zeros(w.size, np.uint32)
        for i in range(4):
            nibble = control >> np.uint32(4 * i)
            byte = both >> ((nibble & np.uint32(7)).astype(np.uint64) << np.uint64(3)) & np.uint64(
                255
            )
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            byte = np.where(nibble & np.uint32(8), sign, byte)
            out = out | byte.astype(np.uint32) << np.uint32(8 * i)
        return out

    return d.assign(ins.operands[0], "b32", compute)


@opcode("lop3", types=("b32",))
def _lop3(d: Decoder, ins: Instruction) -> Op:
    take_modifiers(ins, {"b32"})
    a, b, c = (d.src(operand, "b32") for operand in ins.operands[1:4])
    table = ins.operands[4]
    if not isinstance(table, Immediate) or not 0 <= int(table.value) < 256:
        raise InvalidOperand("the table of lop3 is a constant from 0 to 255")
    rows = [i for i in range(8) if int(table.value) >> i & 1]

    def compute(w: Warp) -> Array:
        x, y, z = a(w), b(w), c(w)
        out = np.zeros(w.size, np.uint32)
        for row in rows:  # row number is the bits of a, b, c
            out = out | (x if row & 4 else ~x) & (y if row & 2 else ~y) & (z if row & 1 else ~z)
        return out

    return d.assign(ins.operands[0], "b32", compute)


@opcode("dp4a", "dp2a", types=("u32", "s32"))
def _dot(d: Decoder, ins: Instruction) -> Op:
    """Dot product of four bytes, or of two halves with two bytes, plus an integer."""
    take_modifiers(ins, {"u32", "s32", "lo", "hi"})
    kinds = [m for m in ins.modifiers if m in ("u32", "s32")]
    a, b = d.src(ins.operands[1], "b32"), d.src(ins.operands[2], "b32")
    signed = "s32" in kinds
    c = d.src(ins.operands[3], "s32" if signed else "u32")
    count, wide = (4, 8) if ins.opcode == "dp4a" else (2, 16)
    first = 16 if "hi" in ins.modifiers else 0

    def field(x: Array, at: int, bits: int, kind: str) -> Array:
        cut = (x >> np.uint32(at) & np.uint32((1 << bits) - 1)).astype(np.int64)
        out: Array = np.where(cut >> bits - 1, cut - (1 << bits), cut) if kind == "s32" else cut
        return out

    def compute(w: Warp) -> Array:
        total = c(w).astype(np.int64)
        for i in range(count):
            total = total + field(a(w), i * wide, wide, kinds[0]) * field(
                b(w), first + 8 * i, 8, kinds[1]
            )
        return total.astype(np.uint32)

    return d.assign(ins.operands[0], "u32", compute)


@opcode("sad", types=INTEGERS)
def _sad(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    a, b, c = (d.src(operand, kind) for operand in ins.operands[1:4])

    def compute(w: Warp) -> Array:
        x, y = a(w), b(w)
        return c(w) + np.where(x < y, y - x, x - y)

    return d.assign(ins.operands[0], kind, compute)


# -- mov -----------------------------------------------------------------------------------------
@opcode("mov", types=_MOVABLE)
def _mov(d: Decoder, ins: Instruction) -> Op:
    """A move, or packing and unpacking where one side is a vector."""
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    target, source = ins.operands
    if isinstance(source, Vector):
        return _pack(d, target, source, kind)
    if isinstance(target, Vector):
        return _unpack(d, target, source, kind)
    return d.assign(target, kind, d.src(source, kind))


def _part(kind: str, count: int) -> int:
    bits = 8 * type_bytes(kind) // count
    if bits not in (8, 16, 32):
        raise UnknownOpcode(f"mov.{kind} with a vector of {count}")
    return bits


def _pack(d: Decoder, target: Operand, source: Vector, kind: str) -> Op:
    bits = _part(kind, len(source.items))
    parts = [d.src(item, f"b{bits}") for item in source.items]
    wide = np.dtype(f"u{type_bytes(kind)}").type

    def compute(w: Warp) -> Array:
        out = np.zeros(w.size, wide)
        for i, part in enumerate(parts):
            out = out | part(w).astype(wide) << wide(i * bits)
        return out

    return d.assign(target, kind, compute)


def _unpack(d: Decoder, target: Vector, source: Operand, kind: str) -> Op:
    bits = _part(kind, len(target.items))
    value = d.src(source, kind)
    puts = [d.dst(item, f"b{bits}") for item in target.items]
    wide, narrow = np.dtype(f"u{type_bytes(kind)}").type, f"u{bits // 8}"

    def op(w: Warp, mask: Mask) -> None:
        x = w.whole(value(w)).view(wide)
        for i, put in enumerate(puts):
            put(w, mask, (x >> wide(i * bits)).astype(narrow))

    return op
