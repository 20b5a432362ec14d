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
from tvwarray._kernels.split import split_to
from tvwarray._kernels.transpose import is_column_major, turned_to
from tvwarray._kernels.workspace import Memory, row_elements
from tvwarray._namespace import Array, dtype_of

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


def operand_of(form: Form, x: Array, memory: Memory) -> Operand:
    """Return `x` where it lies, or a copy that a kernel can read."""
    size, n, parts, launcher = (
        ELEMENT_BYTES[form.element],
        int(x.shape[-1]),
        form.parts,
        memory.launcher,
    )
    if is_read_in_place(launcher, form, x):
        return Operand(x, size * pitch_of(x), 0, size * batch_stride(x))
    width = row_elements(form, n)
    lead = x.shape[:-1]
    if parts > 1:
        if is_column_major(x):
            turned = memory.empty((*lead, n), x.dtype)
            turned_to(launcher, x, turned)
            x = turned
        copy = memory.empty((parts, *lead, width), np.uint16)
        split_to(launcher, x, copy)
    else:
        # CuPy copies no float8: bits do.
        bits = x.view(np.uint8) if x.dtype.itemsize == 1 and not is_column_major(x) else x
        copy = memory.empty((*lead, width), bits.dtype)
        if is_column_major(x):
            turned_to(launcher, x, copy)
        else:
            copy[..., :n] = bits
            copy[..., n:] = 0
    rows = int(np.prod(lead))
    return Operand(copy, width * size, rows * width * size, int(x.shape[-2]) * width * size)


def is_read_in_place(launcher: Launcher, form: Form, x: Array) -> bool:
    """Say whether kernels that copy 16 bytes at a time read `x` where it lies."""
    size = ELEMENT_BYTES[form.element]
    row, pitch, batch = size * int(x.shape[-1]), size * pitch_of(x), size * batch_stride(x)
    whole = form.parts == 1 and row % CHUNK == 0 and launcher.address(x) % CHUNK == 0
    return whole and row <= pitch < 2**31 and pitch % CHUNK == batch % CHUNK == 0


def operand_bytes(launcher: Launcher, form: Form, x: Array) -> list[int]:
    """Return the bytes of each copy that `operand_of` makes."""
    if is_read_in_place(launcher, form, x):
        return []
    row = row_elements(form, int(x.shape[-1])) * ELEMENT_BYTES[form.element]
    copy = int(np.prod(x.shape[:-1])) * row * form.parts
    return [x.nbytes, copy] if form.parts > 1 and is_column_major(x) else [copy]


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


def epilogue_arguments(
    epilogue: Epilogue, dtype: DType, y: Array, memory: Memory
) -> tuple[Any, ...]:
    """Return the epilogue as the kernel takes it; what is absent is a null pointer."""

    def added(part: Array | None) -> tuple[Any, ...]:
        if part is None:
            return None, np.int64(0), np.int64(0), np.int64(0)
        cast = part if _is_added_in_place(part, dtype, y) else memory.copy(part, dtype)
        strides = [np.int64(s // dtype.itemsize) for s in cast.strides]
        return cast, strides[-2], strides[-1], strides[0] if cast.ndim > 2 else np.int64(0)

    def vector(part: Array | None) -> Array | None:
        return part if part is None or _is_vector(part) else memory.copy(part, FLOAT32)

    bias = vector(epilogue.bias)
    by_row = epilogue.bias_axis == 0
    return (
        float(epilogue.alpha), float(epilogue.beta),
        *added(epilogue.c if epilogue.beta != 0 else None), *added(epilogue.residual),
        bias if by_row else None, None if by_row else bias,
        vector(epilogue.row_scale), vector(epilogue.col_scale),
    )  # fmt: skip


def epilogue_bytes(epilogue: Epilogue, dtype: DType, y: Array) -> list[int]:
    """Return the bytes of each copy that `epilogue_arguments` makes."""
    whole = (epilogue.c if epilogue.beta != 0 else None, epilogue.residual)
    vectors = (epilogue.bias, epilogue.row_scale, epilogue.col_scale)
    return [
        *(
            p.size * dtype.itemsize
            for p in whole
            if p is not None and not _is_added_in_place(p, dtype, y)
        ),
        *(4 * p.size for p in vectors if p is not None and not _is_vector(p)),
    ]


def _is_added_in_place(part: Array, dtype: DType, y: Array) -> bool:
    return bool(dtype_of(part) == dtype and (not overlap(part, y) or _is_same(part, y)))


def _is_vector(part: Array) -> bool:
    return bool(dtype_of(part) == FLOAT32 and part.flags.c_contiguous)
