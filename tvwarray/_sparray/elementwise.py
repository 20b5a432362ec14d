"""Operations that keep the layout: new values in the same places.

Zeros stay zeros, whatever an operation makes of them: a filler or a padding slot is no entry, and
``0 * inf`` must not become one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np

from tvwarray._dtypes import FLOAT64, NARROW_FLOATS, DType, value_dtype
from tvwarray._entries import merged, of_slots
from tvwarray._namespace import (
    Array,
    array_namespace,
    as_dtype,
    device_of,
    dtype_of,
    from_host,
    nonzero_mask,
    to_host,
)
from tvwarray._storage import HostArray, TVWStorage

ZERO_PRESERVING: Final = {
    "sin": "sin",
    "tan": "tan",
    "arcsin": "asin",
    "arctan": "atan",
    "sinh": "sinh",
    "tanh": "tanh",
    "arcsinh": "asinh",
    "arctanh": "atanh",
    "rint": "round",
    "sign": "sign",
    "expm1": "expm1",
    "log1p": "log1p",
    "deg2rad": "deg2rad",
    "rad2deg": "rad2deg",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "sqrt": "sqrt",
}
"""NumPy's name of each function with ``f(0) == 0``, and the one of the array API standard."""


PLACE_FIELDS: Final = ("row_indptr", "row_indices", "col_indptr", "col_indices", "meta")
"""The arrays of a storage that say where its values stand."""


def apply(
    storage: TVWStorage, change: Callable[[Array], Array], *, keeps_zeros: bool = False
) -> TVWStorage:
    """Return the matrix with the linear map `change` applied to its nonzero values.

    `keeps_zeros` says that zeros become zeros, as under a finite factor, which spares a mask.
    """
    xp = array_namespace(storage.data)

    def changed(data: Array) -> Array:
        with np.errstate(all="ignore"):
            values = change(data)
        value_dtype(dtype_of(values), where="the result")
        if keeps_zeros and isinstance(values, np.ndarray):
            return positive_zeros(values)
        return xp.where(nonzero_mask(data), values, xp.zeros_like(values))

    return _with_values(storage, changed)


def positive_zeros(values: HostArray) -> HostArray:
    """Return values, changed in place, with +0.0 for -0.0: that is what fillers are."""
    if values.dtype.kind in "fc":
        values += values.dtype.type(0)
    return values


def is_finite(factors: Any) -> bool:
    """Say whether zeros times NumPy's or Python's `factors` are zeros, whatever they are."""
    host = isinstance(factors, int | float | complex | np.generic | np.ndarray)
    kind = np.asarray(factors).dtype.kind if host else "O"
    return kind in "biu" or (kind in "fc" and bool(np.isfinite(factors).all()))


def apply_function(storage: TVWStorage, change: Callable[[Array], Array]) -> TVWStorage:
    """Return the matrix with any function applied to its entries, values at one place added up."""
    return apply(merged(storage), change)


def unary(storage: TVWStorage, name: str) -> TVWStorage:
    """Return ``f(A)`` for the function of `ZERO_PRESERVING` that NumPy calls `name`.

    Raises
    ------
    TypeError
        If the library of the arrays has no such function.
    """
    xp = array_namespace(storage.data)
    function = getattr(xp, name, None) or getattr(xp, ZERO_PRESERVING[name], None)
    if function is None:
        raise TypeError(f"{xp.__name__} has no {name}; take the matrix to the host first.")
    return apply_function(storage, function)


def power(storage: TVWStorage, n: Any, dtype: DType | None = None) -> TVWStorage:
    """Return ``A ** n``, element by element, of values cast to `dtype` first.

    Raises
    ------
    NotImplementedError
        If `n` is no scalar, or zero, which would make every element one.
    """
    if not is_scalar(n):
        raise NotImplementedError("the exponent is no scalar; use A.toarray() ** n.")
    if not n:
        raise NotImplementedError(
            "the power of zero makes every element one, which is dense; use np.ones(A.shape)."
        )
    source = storage if dtype is None else astype(storage, dtype)
    return apply_function(source, lambda data: data**n)


def divide(storage: TVWStorage, other: Any, *, keep_dtype: bool = False) -> TVWStorage:
    """Return ``A / other`` for a scalar, in the dtype that scipy.sparse gives.

    scipy divides everything real in float64. Narrow floats, which it lacks, stay what they are, as
    do all floats with `keep_dtype`.
    """
    dtype = storage.dtype
    if dtype in NARROW_FLOATS or (keep_dtype and dtype.kind in "fc"):
        divisor = weak(other, dtype)
        quotient = apply(storage, lambda data: data / divisor)
        return astype(quotient, dtype) if keep_dtype else quotient
    real = np.can_cast(dtype, FLOAT64)
    return apply(astype(storage, FLOAT64) if real else storage, lambda data: data / other)


def negate(storage: TVWStorage) -> TVWStorage:
    """Return ``-A``.

    Raises
    ------
    NotImplementedError
        If the values are booleans.
    """
    if storage.dtype == np.bool_:
        raise NotImplementedError("booleans have no negative; cast the matrix, or use A != 1.")
    return apply(storage, lambda data: -data, keeps_zeros=True)


def round_to(storage: TVWStorage, decimals: int) -> TVWStorage:
    """Return the matrix rounded to `decimals`, as ``numpy.round`` does."""
    return apply_function(storage, lambda data: data.round(decimals))


def conjugate(storage: TVWStorage) -> TVWStorage:
    """Return the complex conjugate of a complex matrix."""
    return apply(storage, array_namespace(storage.data).conj)


def real(storage: TVWStorage) -> TVWStorage:
    """Return the real parts; the same storage if the matrix is real."""
    if storage.dtype.kind != "c":
        return storage
    return apply(storage, array_namespace(storage.data).real)


def imag(storage: TVWStorage) -> TVWStorage:
    """Return the imaginary parts, zeros of the same dtype if the matrix is real."""
    xp = array_namespace(storage.data)
    return apply(storage, xp.imag if storage.dtype.kind == "c" else xp.zeros_like)


def scale(storage: TVWStorage, factors: Array, axis: int) -> TVWStorage:
    """Return the matrix with rows (`axis` 0) or columns (1) multiplied by `factors`, flat."""
    xp = array_namespace(storage.data, factors)
    device = device_of(storage.data)
    fillers = xp.ones((1,), dtype=factors.dtype, device=device)  # what a padding slot, -1, takes
    factors = xp.concat([factors, fillers], axis=0)

    def of_tile(t: int) -> Array:
        tile = storage.tile(t)
        if axis == 0:
            chosen = xp.take(factors, xp.astype(tile.rows, xp.int64), axis=0)
            each = xp.broadcast_to(chosen[:, None], tile.data.shape)
        else:
            columns = xp.astype(tile.cols, xp.int64)
            columns = xp.where(columns < 0, factors.shape[0] - 1, columns)
            each = of_slots(tile, xp.take(factors, columns, axis=0))
        return xp.reshape(each, (-1,))

    each = xp.concat([factors[:0], *map(of_tile, range(storage.num_tiles))], axis=0)
    beside = None
    if storage.remainder is not None:
        rows = np.repeat(np.arange(storage.shape[0]), np.diff(to_host(storage.remainder_indptr)))
        index = from_host(rows, like=storage.data) if axis == 0 else storage.remainder_indices
        beside = xp.take(factors, xp.astype(index, xp.int64), axis=0)

    def multiplied(data: Array) -> Array:
        return data * (each if data is storage.data else beside)

    return apply(storage, multiplied, keeps_zeros=is_finite(factors))


def same_layout(a: TVWStorage, b: TVWStorage) -> bool:
    """Say whether two matrices without remainder store their values in the same places.

    Arrays on a device are not read: they are the same only if they are one.
    """
    if a.shape != b.shape or a.vector != b.vector or a.data.shape != b.data.shape:
        return False
    if a.remainder is not None or b.remainder is not None:
        return False
    return all(
        x is y or (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.array_equal(x, y))
        for x, y in ((getattr(a, name), getattr(b, name)) for name in PLACE_FIELDS)
    )


def combine(
    a: TVWStorage, b: TVWStorage, name: Literal["add", "subtract", "multiply"]
) -> TVWStorage:
    """Return the sum, difference or product of two matrices with one layout (see `same_layout`).

    For a product no two values may stand at one place.
    """
    xp = array_namespace(a.data, b.data)
    with np.errstate(all="ignore"):
        values = getattr(xp, name)(a.data, b.data)
    value_dtype(dtype_of(values), where="the result")
    return replace(a, data=values)


def astype(storage: TVWStorage, dtype: DType, casting: str = "unsafe") -> TVWStorage:
    """Return the matrix with its values cast; the same storage where nothing changes.

    Raises
    ------
    TypeError
        If `casting` does not allow the cast.
    """
    if storage.dtype == dtype:
        return storage
    if casting != "unsafe" and not np.can_cast(storage.dtype, dtype, casting):  # type: ignore[arg-type]
        raise TypeError(f"cannot cast {storage.dtype} to {dtype} by the rule {casting!r}.")
    source = storage if np.can_cast(storage.dtype, dtype, "safe") else merged(storage)
    return _with_values(source, lambda data: as_dtype(data, dtype))


def weak(number: Any, dtype: DType) -> Any:
    """Return a Python number as NumPy takes it beside `dtype`: it does not widen narrow floats.

    NumPy has that rule from version 2.2 on for the types of ml_dtypes.
    """
    python = type(number) in (int, float) and dtype in NARROW_FLOATS
    return dtype.type(number) if python else number


def is_scalar(x: Any) -> bool:
    """Say whether `x` is a number or an array without axes."""
    number = np.isscalar(x) and not isinstance(x, str | bytes)
    return bool(number) or getattr(x, "ndim", None) == 0


def _with_values(storage: TVWStorage, change: Callable[[Array], Array]) -> TVWStorage:
    beside = None if storage.remainder is None else change(storage.remainder.data)
    return replace(storage, data=change(storage.data), remainder_data=beside)
