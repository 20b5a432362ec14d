"""What becomes of the entries of each row or column, and the diagonals, read from the storage.

Compiled where there is an extension; NumPy gives the same, bit for bit: both add floats in double
precision, in the order in which they are stored.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType
from tvwarray._entries import entries, structure
from tvwarray._native import native
from tvwarray._storage import HostArray, TVWStorage

ExtremeName = Literal["max", "min", "nanmax", "nanmin"]

_OPERATIONS: Final[dict[ExtremeName, Any]] = {
    "max": np.maximum,
    "min": np.minimum,
    "nanmax": np.fmax,
    "nanmin": np.fmin,
}

_COMPILED_SUMS: Final = frozenset(map(np.dtype, ("f4", "f8", "u8", "c8", "c16")))
_COMPILED_EXTREMES: Final = frozenset(map(np.dtype, ("f4", "f8", "i8", "u8")))


def operation(name: ExtremeName) -> Any:
    """Return the ufunc that gives the extreme of two values."""
    return _OPERATIONS[name]


def line_sums(storage: TVWStorage, axis: int) -> HostArray:
    """Return the sum of each column (`axis` 0) or each row (1) of a matrix on the host.

    Of float64 or complex128 for what is inexact, of 64-bit integers, which wrap, for the rest.
    """
    wide = _widened(storage.dtype)
    data = _as(storage.data, wide)
    if (compiled := native()) is not None:
        unsigned = data.view(np.uint64) if wide == np.int64 else data  # two's complement adds alike
        sums: HostArray = compiled.line_sums(*storage.shape, *structure(storage), unsigned, axis)
        sums = sums.view(wide) if wide == np.int64 else sums
    else:
        found = entries(storage.without_remainder())
        line = found.cols if axis == 0 else found.rows
        sums = _added(line, found.data, storage.shape[1 - axis])
    if (beside := storage.remainder) is not None:
        rows = np.repeat(np.arange(storage.shape[0]), np.diff(beside.indptr))
        line = beside.indices if axis == 0 else rows
        with np.errstate(all="ignore"):
            sums = sums + _added(line, beside.data, storage.shape[1 - axis])
    return sums


def line_extremes(storage: TVWStorage, axis: int, name: ExtremeName) -> tuple[HostArray, HostArray]:
    """Return the extreme of the entries of each column or row, and how many entries there are.

    The matrix lies on the host, has no remainder and no two values at one place (see `merged`), and
    is not complex. Where a line has no entries its extreme is zero.
    """
    lines = storage.shape[1 - axis]
    dtype = FLOAT32 if storage.dtype in NARROW_FLOATS else storage.dtype
    if (compiled := native()) is not None:
        data = _as(storage.data, _widened(dtype) if dtype.kind in "biu" else dtype)
        values, counts = compiled.line_extremes(
            *storage.shape, *structure(storage), data, axis, name
        )
        return values.astype(dtype), counts
    found = entries(storage)
    line = found.cols if axis == 0 else found.rows
    order = np.argsort(line, kind="stable")
    counts = np.bincount(line, minlength=lines)
    values = np.zeros(lines, dtype)
    held = np.flatnonzero(counts)
    if held.size:
        starts = (np.cumsum(counts) - counts)[held]
        values[held] = _OPERATIONS[name].reduceat(found.data.astype(dtype)[order], starts)
    return values, counts


def line_counts(storage: TVWStorage, axis: int) -> HostArray:
    """Return how many entries each column or row has, int64; no two may share a place."""
    ones = storage.mapped(lambda x: x if x is not storage.data else (x != 0).astype(np.uint64))
    return line_sums(ones, axis).astype(np.int64)


def diagonal_values(storage: TVWStorage, k: int) -> HostArray:
    """Return the `k`-th diagonal of a matrix on the host, in its dtype (narrow floats in float32).

    Values at one place add up.
    """
    rows, cols = storage.shape
    first = max(0, -k)
    dtype = FLOAT32 if storage.dtype in NARROW_FLOATS else storage.dtype
    made = np.zeros(max(0, min(rows - first, cols - max(0, k))), dtype)
    if not made.size:
        return made
    if (compiled := native()) is not None:
        row, place = compiled.diagonal(rows, cols, *structure(storage), k)
        values = storage.data[place]
    else:
        found = entries(storage.without_remainder())
        on = found.cols - found.rows == k
        row, values = found.rows[on], found.data[on]
    with np.errstate(all="ignore"):
        np.add.at(made, row - first, values.astype(dtype))
        if (beside := storage.remainder) is not None:
            row = np.repeat(np.arange(rows), np.diff(beside.indptr))
            on = beside.indices - row == k
            np.add.at(made, row[on] - first, beside.data[on].astype(dtype))
    return made


def _widened(dtype: DType) -> DType:
    """Return the type in which values of `dtype` are read: one the compiled code has."""
    if dtype in NARROW_FLOATS:
        return FLOAT32
    if dtype.kind in "fc":
        return dtype
    return np.dtype(np.uint64 if dtype.kind == "u" else np.int64)


def _added(line: HostArray, values: HostArray, lines: int) -> HostArray:
    """Return the sum of the values of each line."""
    wide = _widened(values.dtype)
    if wide.kind == "c":
        parts = [_added(line, part, lines) for part in (values.real, values.imag)]
        return np.stack(parts, axis=-1).view(np.complex128)[:, 0]
    if wide.kind == "f":
        with np.errstate(all="ignore"):
            weights = values.astype(wide).astype(np.float64)
        return np.bincount(line, weights, lines).astype(np.float64, copy=False)  # int64 of nothing
    sums = np.zeros(lines, wide)
    np.add.at(sums, line, values.astype(wide))
    return sums


def _as(data: HostArray, dtype: DType) -> HostArray:
    with np.errstate(all="ignore"):
        return np.require(data.astype(dtype, copy=False), requirements=["C", "A"])
