"""float32 and float64 arithmetic.

Basic operations round once, as IEEE 754 says. The ``.approx`` functions are computed in float64 and
rounded: they are at least as good as the hardware's, whose error bounds the PTX ISA gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decode import opcode, take_modifiers
from .errors import UnknownOpcode
from .operands import Decoder, Getter, Op
from .program import Instruction
from .rounding import flush, fma32, fma64, fma_odd, narrow, odd, two_sum
from .warp import Array, Warp

FLOATS = ("f32", "f64")
MODES = {"rn", "rz", "rm", "rp"}

Function = Callable[[Array], Array]


def _sources(d: Decoder, ins: Instruction, kind: str) -> list[Getter]:
    """Inputs, flushed where ``.ftz`` asks for it."""
    getters = [d.src(operand, kind) for operand in ins.operands[1:]]
    if "ftz" not in ins.modifiers:
        return getters

    def flushed(get: Getter) -> Getter:
        return lambda w: flush(get(w))

    return [flushed(get) for get in getters]


def _finish(ins: Instruction, compute: Getter) -> Getter:
    """``.ftz`` and ``.sat`` on the result; saturation takes NaN to +0."""
    ftz, sat = "ftz" in ins.modifiers, "sat" in ins.modifiers
    if not ftz and not sat:
        return compute

    def finished(w: Warp) -> Array:
        out = compute(w)
        if sat:
            out = np.where(np.isnan(out), out.dtype.type(0), np.clip(out, 0, 1)).astype(out.dtype)
        return flush(out) if ftz else out

    return finished


def _directed(
    mode: str, kind: str, exact: Callable[[Array, Array], tuple[Array, Array]], a: Getter, b: Getter
) -> Getter:
    """Round the exact result of two float32 operands in a directed mode."""
    if kind != "f32":
        raise UnknownOpcode(f".{mode}.f64 is not supported")
    return lambda w: narrow(
        odd(*exact(a(w).astype(np.float64), b(w).astype(np.float64))), "f32", mode
    )


def _exact_product(a: Array, b: Array) -> tuple[Array, Array]:
    product = a * b
    return product, np.zeros_like(product)


@opcode("add", "sub", "mul", types=FLOATS)
def _arithmetic(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    given = take_modifiers(ins, {kind, "ftz", "sat"} | MODES)
    mode = next(iter(given & MODES), "rn")
    a, b = _sources(d, ins, kind)
    if mode == "rn":
        ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[ins.opcode]
        return d.assign(ins.operands[0], kind, _finish(ins, lambda w: ufunc(a(w), b(w))))
    if ins.opcode == "mul":
        compute = _directed(mode, kind, _exact_product, a, b)
    elif ins.opcode == "add":
        compute = _directed(mode, kind, two_sum, a, b)
    else:
        compute = _directed(mode, kind, two_sum, a, lambda w: -b(w))
    return d.assign(ins.operands[0], kind, _finish(ins, compute))


@opcode("fma", "mad", types=FLOATS)
def _fma(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    mode = next(iter(take_modifiers(ins, {kind, "ftz", "sat"} | MODES) & MODES), "rn")
    a, b, c = _sources(d, ins, kind)
    if kind == "f64" and mode != "rn":
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")

    def directed(x: Array, y: Array, z: Array) -> Array:
        return narrow(fma_odd(x, y, z), "f32", mode)

    function = fma64 if kind == "f64" else fma32 if mode == "rn" else directed
    return d.assign(ins.operands[0], kind, _finish(ins, lambda w: function(a(w), b(w), c(w))))


@opcode("div", types=FLOATS)
def _div(d: Decoder, ins: Instruction) -> Op:
    """``.rn`` rounds once; ``.full`` and ``.approx`` may be 2 ulp off on hardware and are exact
    here.
    """
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind, "rn", "full", "approx", "ftz"})
    a, b = _sources(d, ins, kind)
    return d.assign(ins.operands[0], kind, _finish(ins, lambda w: np.divide(a(w), b(w))))


def _single(function: Function) -> Function:
    """Compute in float64, round to the operand's type."""

    def apply(x: Array) -> Array:
        out: Array = function(x.astype(np.float64)).astype(x.dtype)
        return out

    return apply


_UNARY: dict[str, Function] = {
    "rcp": lambda x: np.divide(x.dtype.type(1), x),
    "sqrt": np.sqrt,
    "rsqrt": _single(lambda x: 1.0 / np.sqrt(x)),
    "ex2": _single(np.exp2),
    "lg2": _single(np.log2),
    "sin": _single(np.sin),
    "cos": _single(np.cos),
    "tanh": _single(np.tanh),
}


@opcode("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh", types=FLOATS)
def _unary(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    rounded = {"rn"} if ins.opcode in ("rcp", "sqrt") else set()
    given = take_modifiers(ins, {kind, "approx", "ftz"} | rounded)
    if not given & {"approx", "rn"}:
        raise UnknownOpcode(f"{ins.mnemonic} needs .approx or .rn")
    if kind == "f64" and ins.opcode in ("ex2", "lg2", "sin", "cos", "tanh"):
        raise UnknownOpcode(f"{ins.mnemonic} does not exist")
    (a,) = _sources(d, ins, kind)
    function = _UNARY[ins.opcode]
    return d.assign(ins.operands[0], kind, _finish(ins, lambda w: function(a(w))))


@opcode("abs", "neg", types=FLOATS)
def _sign(d: Decoder, ins: Instruction) -> Op:
    """A float64 NaN stays as it is, as the ISA says. Of a float32 NaN it says only that some NaN
    results: here the sign changes and the payload stays.
    """
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind, "ftz"})
    (a,) = _sources(d, ins, kind)
    ufunc = np.abs if ins.opcode == "abs" else np.negative
    if kind == "f32":
        return d.assign(ins.operands[0], kind, lambda w: ufunc(a(w)))

    def compute(w: Warp) -> Array:
        x = a(w)
        return np.where(np.isnan(x), x, ufunc(x))

    return d.assign(ins.operands[0], kind, compute)


def minimum(a: Array, b: Array, smaller: bool, nan: bool) -> Array:
    """PTX ``min`` and ``max``: -0 < +0; a NaN loses, unless ``.NaN`` lets it win."""
    out = np.fmin(a, b) if smaller else np.fmax(a, b)
    signs = np.signbit(a) | np.signbit(b) if smaller else np.signbit(a) & np.signbit(b)
    out = np.where((a == 0) & (b == 0), np.where(signs, -0.0, 0.0).astype(out.dtype), out)
    return np.where(np.isnan(a) | np.isnan(b), out.dtype.type(np.nan), out) if nan else out


@opcode("min", "max", types=FLOATS)
def _minmax(d: Decoder, ins: Instruction) -> Op:
    kind = ins.modifiers[-1]
    given = take_modifiers(ins, {kind, "ftz", "NaN"})
    sources = _sources(d, ins, kind)
    smaller, nan = ins.opcode == "min", "NaN" in given

    def compute(w: Warp) -> Array:
        out = sources[0](w)
        for get in sources[1:]:  # three operands since PTX 8.8
            out = minimum(out, get(w), smaller, nan)
        return out

    return d.assign(ins.operands[0], kind, compute)


@opcode("copysign", types=FLOATS)
def _copysign(d: Decoder, ins: Instruction) -> Op:
    """Note the order: the sign comes from a, the magnitude from b."""
    kind = ins.modifiers[-1]
    take_modifiers(ins, {kind})
    a, b = (d.src(operand, kind) for operand in ins.operands[1:])
    return d.assign(ins.operands[0], kind, lambda w: np.copysign(b(w), a(w)))


@opcode("testp", types=FLOATS)
def _testp(d: Decoder, ins: Instruction) -> Op:
    """Zeros count as normal."""
    test, kind = ins.modifiers
    tiny = np.finfo(np.float32 if kind == "f32" else np.float64).tiny
    tests: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & ((np.abs(x) >= tiny) | (x == 0)),
        "subnormal": lambda x: (np.abs(x) < tiny) & (x != 0),
    }
    if test not in tests:
        raise UnknownOpcode(f"testp.{test} is not known")
    a, function = d.src(ins.operands[1], kind), tests[test]
    return d.assign(ins.operands[0], "pred", lambda w: function(a(w)))
