"""How Hopper's tensor cores add products of float8: with 14 bits.

An instruction aligns its products and the sum so far to the largest exponent among them (of a
product, the sum of its factors' exponents, which of a subnormal is that of the least normal
number), cuts each off 13 bits below that, adds exactly, and cuts the result off after 14 bits. This
reproduces what an H200 gives, bit for bit (`tests/data/float8_sums_sm_90.npz`); the instruction
set's documentation leaves it open.
"""

from __future__ import annotations

import numpy as np

from .warp import Array

__all__ = ["add_products"]

KEPT = 13
_LEAST = {"e4m3": -6, "e5m2": -14}
_NONE = -(1 << 12)  # the exponent of zero: below all others


def add_products(left: Array, right: Array, before: Array, kinds: tuple[str, str]) -> Array:
    """Return `before` + `left` @ `right`, all float64, as the tensor cores add them.

    Parameters
    ----------
    left : array, shape (rows, k)
    right : array, shape (k, columns)
    before : array, shape (rows, columns)
    kinds : names of the types of `left` and `right`
    """
    with np.errstate(invalid="ignore"):
        exact = left @ right + before
    if not (np.isfinite(left).all() and np.isfinite(right).all() and np.isfinite(before).all()):
        left, right, before = (np.nan_to_num(x, posinf=0, neginf=0) for x in (left, right, before))
        return np.where(np.isfinite(exact), add_products(left, right, before, kinds), exact)
    left_exponent, right_exponent = _exponent(left, kinds[0]), _exponent(right, kinds[1])
    of_before = _exponent(before)
    top = max(int(left_exponent.max()) + int(right_exponent.max()), int(of_before.max()))
    if _are_multiples(left, right, before, top - KEPT):
        return _cut(exact, _exponent(exact))  # nothing is cut off before the end
    out = np.empty_like(before)
    for row, values in enumerate(left):
        used = np.flatnonzero(values)
        products = values[used, None] * right[used]
        exponent = left_exponent[row, used, None] + right_exponent[used]
        exponent[products == 0] = _NONE
        largest = np.maximum(exponent.max(axis=0, initial=_NONE), of_before[row])
        out[row] = _cut(products, largest).sum(axis=0) + _cut(before[row], largest)
    return _cut(out, _exponent(out))


def _exponent(x: Array, kind: str = "") -> Array:
    found = np.frexp(x)[1] - 1
    out: Array = np.where(x == 0, _NONE, np.maximum(found, _LEAST.get(kind, _NONE)))
    return out


def _are_multiples(left: Array, right: Array, before: Array, exponent: int) -> bool:
    """Say whether all products and sums are multiples of a power of two."""
    lowest = sum(_lowest_bit(x) for x in (left, right))
    return lowest >= exponent and _lowest_bit(before) >= exponent


def _lowest_bit(x: Array) -> int:
    """Return the exponent of the lowest bit that is set in any value."""
    mantissa, exponent = np.frexp(x[x != 0])
    if not mantissa.size:
        return -_NONE
    bits = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    low = np.frexp((bits & -bits).astype(np.float64))[1] - 1
    return int((exponent - 53 + low).min())


def _cut(x: Array, exponent: Array) -> Array:
    """Cut off what is more than 13 bits below `exponent`, towards zero."""
    unit = np.ldexp(1.0, np.maximum(exponent - KEPT, -400))
    out: Array = np.trunc(x / unit) * unit
    return out
