"""Batches of right operands by backends that multiply one matrix at a time.

Either each by itself, straight to its place in the result, or all as one wide matrix::

    x (count, cols, n)                      x[0] | x[1] | x[2]     (cols, count * n)

A wide matrix reads `A` once, which pays for narrow operands; but it is a copy of `x`, unless the
columns of `x` are contiguous (activations, transposed), and the results lie side by side in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._epilogue import Epilogue
from tvwarray._namespace import Array, array_namespace
from tvwarray._storage import HostArray

_WIDE_ENOUGH: Final = 64
"""Operands of so many columns are multiplied one by one: reading `A` is small then."""

_LARGE_ENOUGH: Final = 1 << 14
"""And results of so many elements: a call is small then."""

Multiply = Callable[[Array, Array | None, Epilogue], Array]
"""Returns the product of a matrix, written to the second argument if it is given."""


def multiply_batch(
    multiply: Multiply, rows: int, x: Array, out: Array | None, epilogue: Epilogue, dtype: DType
) -> Array:
    """Return the products (..., rows, n) of `x` (..., cols, n) in `dtype`."""
    if _one_by_one(x, rows):
        return _each(multiply, rows, x, out, epilogue, dtype)
    product = _as_one(multiply, rows, x, epilogue)
    if out is None:
        return product
    out[...] = product
    return out


def _one_by_one(x: Array, rows: int) -> bool:
    """Say whether wide matrices would be copies, and are no gain."""
    if not isinstance(x, np.ndarray) or not x.size:
        return False
    n = x.shape[-1]
    if n < _WIDE_ENOUGH or n * rows < _LARGE_ENOUGH:
        return False
    return abs(x.strides[-2]) > abs(x.strides[-1])


def _each(
    multiply: Multiply,
    rows: int,
    x: HostArray,
    out: HostArray | None,
    epilogue: Epilogue,
    dtype: DType,
) -> HostArray:
    read = (x, epilogue.c, epilogue.residual)
    in_place = out is not None and not any(
        part is not None and np.may_share_memory(out, part) for part in read
    )
    shape = (*x.shape[:-2], rows, x.shape[-1])
    result = out if in_place and out is not None else np.empty(shape, dtype)
    for i in np.ndindex(*shape[:-2]):
        c, residual = (None if part is None else part[i] for part in read[1:])
        multiply(x[i], result[i], replace(epilogue, c=c, residual=residual))
    if out is None or in_place:
        return result
    out[...] = result
    return out


def _as_one(multiply: Multiply, rows: int, x: Array, epilogue: Epilogue) -> Array:
    xp, n, lead = array_namespace(x), x.shape[-1], x.shape[:-2]
    count = math.prod(lead)

    def folded(part: Array | None) -> Array | None:
        if part is None:
            return None
        height = part.shape[-2]
        moved = xp.permute_dims(xp.reshape(part, (count, height, n)), (1, 0, 2))
        return xp.reshape(moved, (height, count * n))

    def repeated(part: Array | None) -> Array | None:
        return None if part is None else xp.tile(part, (count,))

    steps = replace(
        epilogue,
        c=folded(epilogue.c),
        residual=folded(epilogue.residual),
        bias=epilogue.bias if epilogue.bias_axis == 0 else repeated(epilogue.bias),
        col_scale=repeated(epilogue.col_scale),
    )
    flat = multiply(folded(x), None, steps)
    product = xp.permute_dims(xp.reshape(flat, (rows, count, n)), (1, 0, 2))
    return xp.reshape(product, (*lead, rows, n))
