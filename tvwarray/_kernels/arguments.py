"""What every kernel is passed: operands it can read, the epilogue as numbers and pointers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import BFLOAT16, FLOAT16, FLOAT32, INT32, DType, accumulate_dtype
from tvwarray._epilogue import Epilogue, finish, without
from tvwarray._kernels.config import ELEMENT_BYTES, Element
from tvwarray._kernels.elements import FLOAT64, Form
from tvwarray._kernels.launch import Launcher
from tvwarray._kernels.repeat import CHUNK, overlap
from tvwarray._kernels.split import parts_of
from tvwarray._kernels.transpose import is_column_major, rows_of
from tvwarray._namespace import Array, array_namespace, as_dtype, device_of

OUTPUTS: Final[dict[DType, Element]] = {
    FLOAT16: "float16",
    BFLOAT16: "bfloat16",
    FLOAT32: "float32",
    INT32: "int32",
    FLOAT64: "float64",
}
"""What kernels store, by the dtype of the result."""


def is_fused(epilogue: Epilogue, dtype: DType) -> bool:
    """Say whether a kernel finishes sums of a product of `dtype` by itself."""
    result = epilogue.result_dtype(dtype)
    if callable(epilogue.activation) or result not in OUTPUTS:
        return False
    if dtype == FLOAT64 or result == FLOAT64:
        return epilogue.is_cast and dtype == result
    if dtype == INT32 or result == INT32:
        return (epilogue.is_cast and dtype == result) or (
            dtype == INT32 and result != INT32 and epilogue.work_dtype(dtype) == FLOAT32
        )
    return True


def fused_or_finished(
    run: Callable[[Array | None, Epilogue], Array],
    epilogue: Epilogue,
    dtype: DType,
    out: Array | None,
) -> Array:
    """Return a product with all of its epilogue, by a kernel that fuses what `is_fused` says.

    Parameters
    ----------
    run : callable
        Runs the kernel with an epilogue that it fuses, into `out` if that is given.
    epilogue : Epilogue
        Checked. What the kernel does not fuse is done afterwards, to sums that are not yet rounded.
    dtype : dtype
        What products are stored as by default.
    out : array, optional
    """
    if is_fused(epilogue, dtype):
        return run(out, epilogue)
    if callable(epilogue.activation) and dtype not in (INT32, FLOAT64):
        before = without(epilogue, "activation", "residual")
        sums = run(None, replace(before, out_dtype=FLOAT32))
        after = Epilogue(activation=epilogue.activation, residual=epilogue.residual)
        return finish(replace(after, out_dtype=epilogue.result_dtype(dtype)), sums, FLOAT32, out)
    return finish(epilogue, run(None, Epilogue(out_dtype=accumulate_dtype(dtype))), dtype, out)


@dataclass(frozen=True, eq=False)
class Operand:
    """X as a kernel reads it: rows of whole, aligned 16-byte chunks; strides in bytes."""

    array: Array
    pitch: int
    part: int
    batch: int


def operand_of(launcher: Launcher, form: Form, x: Array) -> Operand:
    """Return `x` where it lies, or a copy that a kernel can read."""
    size, n, parts = ELEMENT_BYTES[form.element], int(x.shape[-1]), form.parts
    if parts == 1:
        pitch, batch = size * pitch_of(x), size * batch_stride(x)
        whole = n * size % CHUNK == 0 and launcher.address(x) % CHUNK == 0
        if whole and n * size <= pitch < 2**31 and pitch % CHUNK == batch % CHUNK == 0:
            return Operand(x, pitch, 0, batch)
    xp = array_namespace(x)
    width = -(-n * size // CHUNK) * CHUNK // size
    lead = x.shape[:-1]
    if parts > 1:
        if is_column_major(x):
            x = rows_of(launcher, x, n)
        copy = parts_of(launcher, x, parts)
    elif is_column_major(x):
        copy = rows_of(launcher, x, width)
    else:
        # CuPy copies no float8: bits do.
        bits = x.view(np.uint8) if x.dtype.itemsize == 1 else x
        copy = xp.zeros((*lead, width), dtype=bits.dtype, device=device_of(x))
        copy[..., :n] = bits
    rows = int(np.prod(lead))
    return Operand(copy, width * size, rows * width * size, int(x.shape[-2]) * width * size)


def pitch_of(x: Array) -> int:
    """Return how many elements rows are apart, or -1 where one is not contiguous or apart."""
    size, (rows, n) = x.dtype.itemsize, x.shape[-2:]
    if n > 1 and x.strides[-1] != size:
        return -1
    return int(n if rows == 1 else x.strides[-2] // size)


def batch_stride(x: Array) -> int:
    """Return how many elements the matrices of a batch are apart; 0 of a single one."""
    return int(x.strides[0] // x.dtype.itemsize) if x.ndim > 2 else 0


def _is_same(a: Array, b: Array) -> bool:
    """Say whether equal indices of two arrays are the same memory."""
    pointers = [
        x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x.data.ptr
        for x in (a, b)
    ]
    return bool(pointers[0] == pointers[1] and a.strides == b.strides)


def epilogue_arguments(xp: Any, epilogue: Epilogue, dtype: DType, y: Array) -> tuple[Any, ...]:
    """Return the epilogue as the kernel takes it; what is absent is a null pointer."""

    def added(part: Array | None) -> tuple[Any, ...]:
        if part is None:
            return None, np.int64(0), np.int64(0), np.int64(0)
        cast = as_dtype(part, dtype)
        if overlap(cast, y) and not _is_same(cast, y):
            cast = xp.asarray(cast, copy=True)
        strides = [np.int64(s // dtype.itemsize) for s in cast.strides]
        return cast, strides[-2], strides[-1], strides[0] if cast.ndim > 2 else np.int64(0)

    def vector(part: Array | None) -> Array | None:
        return None if part is None else xp.asarray(as_dtype(part, FLOAT32), order="C")

    bias = vector(epilogue.bias)
    by_row = epilogue.bias_axis == 0
    return (
        float(epilogue.alpha), float(epilogue.beta),
        *added(epilogue.c if epilogue.beta != 0 else None), *added(epilogue.residual),
        bias if by_row else None, None if by_row else bias,
        vector(epilogue.row_scale), vector(epilogue.col_scale),
    )  # fmt: skip
