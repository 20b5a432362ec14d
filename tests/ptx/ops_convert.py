"""``cvt`` between integers and floats of every width, packed conversions, and ``cvta``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decode import opcode, take_modifiers
from .errors import UnknownOpcode
from .memory import LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW
from .operands import NUMPY, Decoder, Getter, Op
from .ops_half import f32_to_half, half_to_f32
from .program import Instruction, type_bytes
from .rounding import flush, narrow, odd, two_sum
from .warp import Array, Warp

_INTEGERS = {f"{s}{n}" for s in "us" for n in (8, 16, 32, 64)}
_FLOATS = {"f16", "bf16", "f32", "f64"}
_TO_FLOAT = {"rn", "rz", "rm", "rp", "rna"}
_TO_INTEGER: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
_PACKED = {"f16x2": "f16", "bf16x2": "bf16"}


@opcode("cvt")
def _cvt(d: Decoder, ins: Instruction) -> Op:
    """``cvt{.round}{.ftz}{.sat}{.relu}.dtype.atype d, a`` and ``cvt.rn.f16x2.f32 d, a, b``."""
    to, kind = ins.modifiers[-2:]
    given = take_modifiers(ins, {to, kind, "ftz", "sat", "relu"} | _TO_FLOAT | set(_TO_INTEGER))
    if to in _PACKED and kind == "f32":
        return _pack_halves(d, ins, _PACKED[to], given)
    if to == "tf32" and kind == "f32":
        return _to_tf32(d, ins, given)
    if not {to, kind} <= _INTEGERS | _FLOATS:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    a = d.src(ins.operands[1], kind, loose=True)
    if kind in _INTEGERS and to in _INTEGERS:
        compute = _integer_to_integer(a, kind, to, "sat" in given)
    elif to in _INTEGERS:
        compute = _float_to_integer(a, kind, to, given)
    elif kind in _INTEGERS:
        compute = _integer_to_float(a, to, given)
    else:
        compute = _float_to_float(a, kind, to, given)
    return d.assign(ins.operands[0], to, compute, loose=True)


def _range(kind: str) -> tuple[int, int]:
    bits, signed = 8 * type_bytes(kind), kind[0] == "s"
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _integer_to_integer(a: Getter, kind: str, to: str, saturate: bool) -> Getter:
    dtype = NUMPY[to]
    if not saturate:
        return lambda w: a(w).astype(dtype)
    (low, high), (least, most) = _range(to), _range(kind)
    low, high = max(low, least), min(high, most)
    return lambda w: np.clip(a(w), low, high).astype(dtype)


def _float_value(a: Getter, kind: str, given: set[str]) -> Getter:
    """The source exactly, as float64 (float32 stays as it is until the caller widens it)."""
    if kind in ("f16", "bf16"):
        return lambda w: half_to_f32(np.asarray(a(w)), kind).astype(np.float64)
    if kind == "f32" and "ftz" in given:
        return lambda w: flush(a(w)).astype(np.float64)
    return lambda w: a(w).astype(np.float64)


def _float_to_integer(a: Getter, kind: str, to: str, given: set[str]) -> Getter:
    """Out of range clamps; NaN gives 0, except that from float64 or to 64 bits it gives the top bit
    alone (the ISA says so).
    """
    mode = next((m for m in given if m in _TO_INTEGER), None)
    if mode is None:
        raise UnknownOpcode("a conversion from float to integer needs .rni, .rzi, .rmi or .rpi")
    value, rounding = _float_value(a, kind, given), _TO_INTEGER[mode]
    low, high = _range(to)
    dtype = NUMPY[to]
    small = kind != "f64" and type_bytes(to) <= 4
    nan = dtype(0) if small else np.uint64(1 << 8 * type_bytes(to) - 1).astype(dtype)

    def compute(w: Warp) -> Array:
        x = rounding(value(w))
        inside = (x >= float(low)) & (x < float(high) + (1.0 if high < 2**53 else 0.0))
        out = np.where(inside, x, 0.0).astype(dtype)
        out = np.where(x >= float(high), dtype(high), np.where(x <= float(low), dtype(low), out))
        return np.where(np.isnan(x), nan, out)

    return compute


def _integer_to_float(a: Getter, to: str, given: set[str]) -> Getter:
    mode = next((m for m in given if m in _TO_FLOAT), None)
    if mode is None:
        raise UnknownOpcode("a conversion from integer to float needs a rounding mode")

    def compute(w: Warp) -> Array:
        x = np.asarray(a(w))
        # Two exact pieces: 64-bit integers do not fit a float64.
        high = (x >> x.dtype.type(x.dtype.itemsize * 4)).astype(np.float64) * 2.0 ** (
            x.dtype.itemsize * 4
        )
        low = (x & x.dtype.type((1 << x.dtype.itemsize * 4) - 1)).astype(np.float64)
        value, rest = two_sum(high, low)
        if to == "f64":
            if mode != "rn" and np.any(rest != 0):
                raise UnknownOpcode(f"cvt.{mode}.f64 of an integer that does not fit")
            return value
        return _saturated(narrow(odd(value, rest), to, mode), to, given)

    return compute


def _float_to_float(a: Getter, kind: str, to: str, given: set[str]) -> Getter:
    integral = next((m for m in given if m in _TO_INTEGER), None)
    mode = next((m for m in given if m in _TO_FLOAT), "rn")
    narrowing = type_bytes(to) < type_bytes(kind) or {to, kind} == {"f16", "bf16"}
    if narrowing and not given & _TO_FLOAT and not integral:
        raise UnknownOpcode(f"cvt.{to}.{kind} needs a rounding mode")
    value = _float_value(a, kind, given)

    def compute(w: Warp) -> Array:
        x = value(w)
        if integral:
            x = _TO_INTEGER[integral](x)
        out = narrow(x, to, mode)
        if "ftz" in given and to == "f32":
            out = flush(out)
        return _saturated(out, to, given)

    return compute


def _saturated(out: Array, to: str, given: set[str]) -> Array:
    """``.sat`` clamps to [0, 1] with NaN to 0; ``.relu`` clamps at 0 and keeps NaN."""
    if not given & {"sat", "relu"}:
        return out
    x = (half_to_f32(out, to) if to in ("f16", "bf16") else out).astype(np.float64)
    x = np.where(x <= 0, 0.0, x)
    if "sat" in given:
        x = np.where(np.isnan(x), 0.0, np.minimum(x, 1.0))
    return narrow(x, to)


def _pack_halves(d: Decoder, ins: Instruction, half: str, given: set[str]) -> Op:
    """Two float32 to a pair: the first operand goes to the upper half."""
    mode = next((m for m in given if m in ("rn", "rz")), None)
    if mode is None:
        raise UnknownOpcode(f"{ins.mnemonic} needs .rn or .rz")
    upper, lower = d.src(ins.operands[1], "f32"), d.src(ins.operands[2], "f32")

    def compute(w: Warp) -> Array:
        parts = []
        for get in (lower, upper):
            x = w.whole(get(w))
            bits = (
                f32_to_half(x, half) if mode == "rn" else narrow(x.astype(np.float64), half, mode)
            )
            parts.append(_saturated(bits, half, given).astype(np.uint32))
        out: Array = parts[0] | parts[1] << np.uint32(16)
        return out

    return d.assign(ins.operands[0], "b32", compute)


def _to_tf32(d: Decoder, ins: Instruction, given: set[str]) -> Op:
    """Keep ten bits of mantissa: to nearest, ties away (``.rna``) or to even (``.rn``), or cut
    (``.rz``). NaN becomes 0x7FFFE000, as ``.rz`` was seen to give on an H200.
    """
    a = d.src(ins.operands[1], "b32")
    mode = next((m for m in given if m in ("rna", "rn", "rz")), None)
    if mode is None:
        raise UnknownOpcode(f"{ins.mnemonic} needs .rna, .rn or .rz")
    cut = np.uint32(0xFFFFE000)

    def compute(w: Warp) -> Array:
        bits = a(w)
        up: Array = np.zeros_like(bits)
        if mode == "rna":
            up = up + np.uint32(0x1000)
        elif mode == "rn":
            up = (bits >> np.uint32(13) & np.uint32(1)) + np.uint32(0x0FFF)
        special = bits & np.uint32(0x7F800000) == 0x7F800000
        nan = special & (bits & np.uint32(0x007FFFFF) != 0)
        finite = np.where(special, bits, (bits + up) & cut)
        return np.where(nan, np.uint32(0x7FFFE000), finite)

    return d.assign(ins.operands[0], "b32", compute)


_WINDOWS = {
    "shared": SHARED_WINDOW,
    "local": LOCAL_WINDOW,
    "param": PARAM_WINDOW,
    "global": 0,
    "const": 0,
}


@opcode("cvta")
def _cvta(d: Decoder, ins: Instruction) -> Op:
    """Between a state space's own addresses and generic ones."""
    space = ins.modifiers[1 if ins.modifiers[0] == "to" else 0].removesuffix("::cta")
    if space not in _WINDOWS or ins.modifiers[-1] != "u64":
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    a, window = d.src(ins.operands[1], "u64"), np.uint64(_WINDOWS[space])
    if ins.modifiers[0] == "to":
        return d.assign(ins.operands[0], "u64", lambda w: a(w) - window)
    return d.assign(ins.operands[0], "u64", lambda w: a(w) + window)
