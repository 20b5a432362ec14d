"""Correct rounding, one operation at a time, on arrays.

Every narrowing goes through a float64 rounded to odd: where the exact value does not fit, the last
bit is set. That keeps enough of the discarded tail that a second rounding to a format with at most
51 bits is the same as rounding the exact value once (Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums", 2008).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from .warp import Array

__all__ = [
    "bf16_to_f32",
    "f32_to_bf16",
    "flush",
    "fma32",
    "fma64",
    "fma_odd",
    "narrow",
    "odd",
    "two_sum",
]

F64 = npt.NDArray[np.float64]
_HALF_NAN = np.uint16(0x7FFF)
_TINY = np.float32(2.0**-126)


def two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    """``a + b`` rounded to nearest, and the exact rest (0 where it is not finite)."""
    s = a + b
    t = s - a
    rest = (a - (s - t)) + (b - t)
    return s, np.where(np.isfinite(s), rest, 0.0)


def odd(value: F64, rest: F64) -> F64:
    """``value + rest`` rounded to odd, for `value` the nearest float64 to it."""
    even = value.view(np.uint64) & np.uint64(1) == 0
    step = (rest != 0) & even
    if not step.any():
        return value
    return np.where(step, np.nextafter(value, np.where(rest > 0, np.inf, -np.inf)), value)


def fma_odd(a: Array, b: Array, c: Array) -> F64:
    """``a * b + c`` rounded to odd in float64, for inputs of at most 24 bits."""
    return odd(*two_sum(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)))


def fma32(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` in float32, rounded once to nearest even."""
    # The product is exact in float64. Rounding the sum to float64 and then to float32 goes wrong
    # only where the first lands on a tie of the second, or where the result is subnormal: redo
    # these.
    total = np.asarray(a.astype(np.float64) * b + c)
    risky = total.view(np.uint64) & np.uint64(0x1FFF_FFFF) == 0x1000_0000
    risky |= (np.abs(total) < 2.0**-125) & (total != 0)
    if risky.any():
        x, y, z = np.broadcast_arrays(a, b, c)
        total = total.copy()
        total[risky] = fma_odd(x[risky], y[risky], z[risky])
    return total.astype(np.float32)


def fma64(a: F64, b: F64, c: F64) -> F64:
    """``a * b + c`` in float64, rounded once to nearest even."""
    a, b, c = np.broadcast_arrays(np.atleast_1d(a), b, c)
    plain = a * b + c  # right where anything is infinite or NaN
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    # Splitting a factor and the rest of the product must neither overflow nor lose bits.
    safe = finite & _tame(a) & _tame(b) & _tame(c)
    out = np.where(safe, _fma_error_free(a, b, c), plain)
    for i in np.flatnonzero(finite & ~safe):
        out[i] = _nearest(Fraction(a[i]) * Fraction(b[i]) + Fraction(c[i]), plain[i])
    return out


def _tame(x: F64) -> npt.NDArray[np.bool_]:
    out: npt.NDArray[np.bool_] = (np.abs(np.frexp(x)[1]) < 400) | (x == 0)
    return out


def _fma_error_free(a: F64, b: F64, c: F64) -> F64:
    """By error-free products and sums; the last addition but one rounds to odd."""
    high = a * b
    split = 134217729.0  # 2**27 + 1
    ah = (a * split) - (a * split - a)
    bh = (b * split) - (b * split - b)
    al, bl = a - ah, b - bh
    low = ((ah * bh - high) + ah * bl + al * bh) + al * bl
    t, tl = two_sum(c, low)
    v, vl = two_sum(high, t)
    return v + odd(*two_sum(tl, vl))


def _nearest(exact: Fraction, plain: float) -> float:
    if exact == 0:
        return plain
    try:
        return float(exact)
    except OverflowError:
        return float(np.copysign(np.inf, float(exact > 0) - 0.5))


def flush(x: Array) -> Array:
    """``.ftz``: subnormal float32 to zero of the same sign."""
    return np.where(np.abs(x) < _TINY, np.copysign(np.float32(0), x), x)


def bf16_to_f32(bits: Array) -> Array:
    out: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return out


def f32_to_bf16(x: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; NaN becomes the canonical 0x7FFF."""
    bits = x.view(np.uint32)
    up = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    out = ((bits + up) >> np.uint32(16)).astype(np.uint16)
    result: Array = np.where(np.isnan(x), _HALF_NAN, out)
    return result


def narrow(value: F64, kind: str, mode: str = "rn") -> Array:
    """Round a float64 that was rounded to odd.

    Parameters
    ----------
    value : float64 array
    kind : {"f16", "bf16", "f32", "f64"}
    mode : {"rn", "rz", "rm", "rp"}

    Returns
    -------
    array
        uint16 bits for the 16-bit types, else floats.
    """
    if kind == "f64":
        return value
    if kind == "bf16":
        single = value.astype(np.float32)
        # To odd once more, in float32, because bfloat16 is cut from float32.
        back = single.astype(np.float64)
        off = (back != value) & (single.view(np.uint32) & np.uint32(1) == 0) & ~np.isnan(value)
        if off.any():
            toward = np.where(value > back, np.float32(np.inf), np.float32(-np.inf))
            single = np.where(off, np.nextafter(single, toward), single)
        near = f32_to_bf16(single)
        wide, bits = bf16_to_f32(near), near
    elif kind == "f16":
        half = value.astype(np.float16)
        bits = np.where(np.isnan(value), _HALF_NAN, half.view(np.uint16))
        wide = half.astype(np.float32)
    else:
        bits = value.astype(np.float32).view(np.uint32)
        wide = bits.view(np.float32)
    if mode != "rn":
        bits = _direct(bits, wide.astype(np.float64), value, mode)
    return bits.view(np.float32) if kind == "f32" else bits


def _direct(bits: Array, got: F64, exact: F64, mode: str) -> Array:
    """Step from the nearest result to the one a directed mode asks for."""
    over, under = got > exact, got < exact
    if mode == "rz":
        back = np.where(exact > 0, over, under)
        return np.where(back, bits - bits.dtype.type(1), bits)
    one = bits.dtype.type(1)
    negative = np.signbit(got)
    step = over if mode == "rm" else under
    # Away from zero adds one to the magnitude, toward zero takes one off; zero itself starts the
    # other sign.
    outward = negative if mode == "rm" else ~negative
    top = bits.dtype.type(1) << bits.dtype.type(8 * bits.dtype.itemsize - 1)
    from_zero = bits.dtype.type(1) | (top if mode == "rm" else bits.dtype.type(0))
    moved = np.where(got == 0, from_zero, np.where(outward, bits + one, bits - one))
    return np.where(step, moved, bits)
